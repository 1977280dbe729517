mod compaction;
mod durability;
mod leases;
mod model;
mod ranges;
mod requests;
mod txns;
mod writes;
