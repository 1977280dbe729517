//! Leases: the replicated table, and the leader's clockwork that decides when one has expired.
//!
//! Expiry is decided by the leader alone and carried out by a replicated revoke, so that members never disagree. A lease
//! may live longer than its time, never shorter: a new leader gives every lease its full time again.

mod lessor;
pub mod table;

pub use lessor::Lessor;
