//! The edges of the controllers: watches in, requests out, events written, time told. No decision is made here.

pub mod clock;
pub mod discovery;
pub mod events;
pub mod execute;
pub mod watch;
