//! The edges: clock, disk, network, randomness, and what is built straight on them.
//!
//! Nothing outside this module touches the world, so that everything else runs in a test (and, later, in a seeded
//! simulation of the whole member) exactly as it runs in production.

#![allow(clippy::disallowed_methods, reason = "this is the edge")]

pub mod auth;
pub mod authority;
pub mod checkpoint;
pub mod clock;
pub mod disk;
pub mod engine;
pub mod network;
pub mod peer;
pub mod process;
pub mod random;
pub mod restore;
pub mod roster;
pub mod serve;
pub mod tls;
pub mod wal;

/// Stops the process where it stands, with a sentence that reaches standard error whatever happened to the logs.
pub(crate) fn abort(reason: &str) -> ! {
    use std::io::Write;
    tracing::error!(target: crate::config::logs::FATAL, "{reason}");
    // Not `eprintln`: a test harness would keep it to itself. Nothing can be done about a closed standard error.
    let _ = writeln!(std::io::stderr(), "kontiki: {reason}");
    std::process::abort()
}
