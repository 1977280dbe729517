//! The Raft-replicated store: an etcd v3 member as a library.
//!
//! Read it in this order: [`command`] (what a log entry carries), [`state`] (what applying one does: MVCC, leases,
//! watch), [`auth`] (who may have it applied), [`consensus`] (how entries come to be committed), [`member`] (the running
//! whole), [`edge`] (etcd's gRPC and HTTP surface). Everything that touches the world (clock, disk, network, randomness) is
//! under [`io`].

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests make the world they need"))]

pub mod auth;
pub mod bolt;
pub mod command;
pub mod config;
pub mod consensus;
pub mod edge;
pub mod error;
pub mod ids;
pub mod io;
pub mod lease;
pub mod limits;
pub mod maintenance;
pub mod member;
pub mod membership;
pub mod metrics;
pub mod mvcc;
pub mod state;
pub mod wal;
pub mod watch;
