//! The edges: clock, disk, network, randomness.
