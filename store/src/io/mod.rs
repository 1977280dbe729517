//! The edges: clock, disk, network, randomness, and what is built straight on them.
//!
//! Nothing outside this module touches the world, so that everything else runs in a test (and, later, in a seeded
//! simulation of the whole member) exactly as it runs in production.

pub mod checkpoint;
pub mod clock;
pub mod disk;
pub mod engine;
pub mod network;
pub mod peer;
pub mod random;
pub mod wal;
