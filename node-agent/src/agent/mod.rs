//! The node's side of a pod's life: what is watched, done and told. See [`crate::pod`] for what is decided.

mod config;
pub mod ports;

pub use config::{AgentConfig, CapacityOverrides, ClusterAccess};

#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("{what}")]
    Config { what: String },
}
