//! Everything that touches the world: the store, the network, files, the clock.

#![allow(clippy::disallowed_methods, reason = "this is the edge")]

pub mod api;
pub mod bootstrap;
pub mod clock;
pub mod etcd;
pub mod http;
pub mod pki;
pub mod watch_cache;
