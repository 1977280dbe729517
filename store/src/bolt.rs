//! bbolt files: the format of etcd's database and of its snapshots, read and written here without any of its code.
//!
//! A snapshot of Kontiki is a bbolt file as etcd writes it, so coming from etcd, leaving for it and keeping backups are
//! one format. [`reader`] and [`writer`] know pages and buckets and nothing of etcd; [`schema`] knows what etcd keeps in
//! which bucket; [`export`] and [`import`] translate between that and a state database. [`crate::edge`] streams exports,
//! [`crate::io::restore`] makes a data directory from an import.

use std::io;

mod auth;
mod format;

pub mod export;
pub mod import;
pub mod reader;
#[cfg(test)]
mod roundtrip_tests;
pub mod schema;
pub mod status;
#[cfg(test)]
mod tests;
pub mod trailer;
pub mod writer;

pub use self::reader::{Bucket, Db, Source, Value};
pub use self::writer::{Layout, Writer};

/// A file that cannot be read as a bbolt database.
#[derive(Debug, thiserror::Error)]
pub enum BoltError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("not a bbolt file: {0}")]
    Invalid(String),
    /// The file is one, but a part of it is not what it must be.
    #[error("damaged bbolt file: page {page}: {what}")]
    Damaged { page: u64, what: String },
    /// The pages are sound, but what they hold is not etcd's.
    #[error("not etcd's data: bucket {bucket:?}: {what}")]
    Schema { bucket: &'static str, what: String },
}
