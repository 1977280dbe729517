//! The control plane: a Kubernetes API server, controllers and a scheduler over any etcd v3.
//!
//! Read it in this order: [`registry`] (what each kind is), [`engine`] (what each verb does, as pure functions),
//! [`server`] (the running whole). [`controllers`] and [`scheduler`] are ordinary Kubernetes clients that happen to live in
//! the same process. Everything that touches the world is under [`io`].

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests make the world they need"))]

pub mod auth;
pub mod controllers;
pub mod engine;
pub mod io;
pub mod limits;
pub mod patch;
pub mod registry;
pub mod scheduler;
pub mod schema;
pub mod server;
pub mod status;
pub mod time;
