//! The edges of the controllers: watches in, requests out, events written, time told. No decision is made here.

#![allow(clippy::disallowed_methods, reason = "this is the edge")]

pub mod clock;
pub mod discovery;
pub mod events;
pub mod execute;
pub mod watch;
