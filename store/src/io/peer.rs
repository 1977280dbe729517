//! The transport between members.
