//! The edges of the agent that are not the runtime: the API, files, the log server, the machine's facts.

#![allow(clippy::disallowed_methods, reason = "this is the edge")]

pub mod api;
pub mod failover;
pub mod files;
pub mod http_probe;
pub mod log_file;
pub mod log_server;
#[cfg(test)]
mod log_server_test;
pub mod machine;
pub mod recorder;
pub mod volumes;
