//! The 32 bytes after a snapshot's database: the SHA-256 of what was sent, by which a restore knows that all of it is there.
//!
//! A database is a whole number of 512-byte sectors, so a file that is 32 bytes longer than that has the sum, and one that
//! was copied from a data directory has not.

use sha2::{Digest, Sha256};

use super::{BoltError, Source};
use crate::limits::SNAPSHOT_CHUNK_BYTES;

pub const TRAILER: usize = 32;
const SECTOR: u64 = 512;

/// Why a file is not taken for a whole snapshot. The texts are etcd's.
#[derive(Debug, thiserror::Error)]
pub enum TrailerError {
    #[error(transparent)]
    Bolt(#[from] BoltError),
    #[error("snapshot missing hash but --skip-hash-check=false")]
    Missing,
    #[error("expected sha256 {expected:?}, got {found:?}")]
    Mismatch { expected: List, found: List },
}

/// Bytes that print as Go prints them: `[1 2 3]`.
pub struct List(pub [u8; TRAILER]);

impl std::fmt::Debug for List {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let numbers: Vec<String> = self.0.iter().map(u8::to_string).collect();
        write!(f, "[{}]", numbers.join(" "))
    }
}

/// Whether a file of `size` bytes ends with the sum.
#[must_use]
pub fn is_present(size: u64) -> bool {
    size % SECTOR == TRAILER as u64
}

/// Compares the sum at the end with what is before it.
///
/// # Errors
/// When it is missing or another one.
pub fn verify<S: Source + ?Sized>(source: &S) -> Result<(), TrailerError> {
    let size = source.size().map_err(BoltError::from)?;
    if !is_present(size) {
        return Err(TrailerError::Missing);
    }
    let end = size - TRAILER as u64;
    let mut expected = [0; TRAILER];
    source.read_at(&mut expected, end).map_err(BoltError::from)?;
    let mut sum = Sha256::new();
    let mut buffer = vec![0; SNAPSHOT_CHUNK_BYTES];
    let mut offset = 0;
    while offset < end {
        let length = (end - offset).min(SNAPSHOT_CHUNK_BYTES as u64) as usize;
        source.read_at(&mut buffer[..length], offset).map_err(BoltError::from)?;
        sum.update(&buffer[..length]);
        offset += length as u64;
    }
    let found: [u8; TRAILER] = sum.finalize().into();
    match expected == found {
        true => Ok(()),
        false => Err(TrailerError::Mismatch { expected: List(expected), found: List(found) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_is_missing_wrong_or_right() {
        let mut file = vec![7; 1024];
        assert!(matches!(verify(&file[..]), Err(TrailerError::Missing)));
        let sum: [u8; TRAILER] = Sha256::digest(&file).into();
        file.extend_from_slice(&sum);
        verify(&file[..]).unwrap();
        file[3] ^= 1;
        let error = verify(&file[..]).unwrap_err().to_string();
        assert!(error.starts_with(&format!("expected sha256 [{} {} ", sum[0], sum[1])), "{error}");
        assert!(error.contains("], got ["), "{error}");
    }
}
