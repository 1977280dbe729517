//! The etcd v3 gRPC types and services, generated from `proto/`. No behaviour lives here.
//!
//! Keys and values are [`bytes::Bytes`]: decoding a request slices the receive buffer instead of copying it.

/// Every message and service, as an encoded `FileDescriptorSet`.
pub const FILE_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Stored keys, values and their events (`mvccpb`).
pub mod mvccpb {
    #![allow(missing_docs, clippy::all, clippy::pedantic)]
    tonic::include_proto!("mvccpb");
}

/// Users, roles and permissions (`authpb`).
pub mod authpb {
    #![allow(missing_docs, clippy::all, clippy::pedantic)]
    tonic::include_proto!("authpb");
}

/// Requests, responses and services (`etcdserverpb`).
pub mod etcdserverpb {
    #![allow(missing_docs, clippy::all, clippy::pedantic)]
    tonic::include_proto!("etcdserverpb");
}

/// The lock service (`v3lockpb`).
pub mod v3lockpb {
    #![allow(missing_docs, clippy::all, clippy::pedantic)]
    tonic::include_proto!("v3lockpb");
}

/// The election service (`v3electionpb`).
pub mod v3electionpb {
    #![allow(missing_docs, clippy::all, clippy::pedantic)]
    tonic::include_proto!("v3electionpb");
}
