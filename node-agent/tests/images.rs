//! Images end to end, against a registry of this process and files made here: what is pulled or imported is there and right,
//! and whatever is damaged, refused or interrupted leaves nothing behind.
//!
//! Needs root: layers hold owners and devices.

#![allow(clippy::disallowed_methods, reason = "tests make the world they need")]
#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

#[path = "images/artifacts.rs"]
mod artifacts;
#[path = "images/import.rs"]
mod import;
#[path = "images/pull.rs"]
mod pull;
#[path = "images/registry.rs"]
mod registry;
#[path = "images/store.rs"]
mod store;
