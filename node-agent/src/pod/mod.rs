//! What must happen to a pod next, as pure functions: nothing here knows a clock, a disk or a cluster.
//!
//! [`machine`] is the life of one pod; the other modules are its vocabulary, each the answer to one question that a kubelet
//! answers for its users.

pub mod machine;
pub mod status;

pub mod backoff;
pub mod exit;
pub mod restart;

pub mod admission;
pub mod argv;
pub mod credentials;
pub mod environment;
pub mod expand;
pub mod fields;
pub mod hostname;
pub mod probe;
pub mod quantity;
pub mod resources;
pub mod security;
pub mod services;
pub mod volume;
