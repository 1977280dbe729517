//! Everything that touches the world: the store, the network, files, the clock.

pub mod etcd;
pub mod pki;
