//! openraft's own storage tests on our log and state machine adapter: over a small state in memory, and over the real one.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use openraft::testing::log::{StoreBuilder, Suite};
use parking_lot::Mutex;

use super::log_store::LogStore;
use super::requests::Requests;
use super::state_machine::Machine;
use super::types::Types;
use super::{StateMachine, Storage};
use crate::command::{Command, Reply, Response};
use crate::ids::MemberId;
use crate::io::checkpoint::Checkpoints;
use crate::io::disk::LocalDisk;
use crate::io::random::SystemRandom;
use crate::io::wal::{Wal, WalOptions};
use crate::state::{Applied, Context, State, StateOptions};
use crate::wal::segment::Owner;

/// Remembers nothing but its mark, in memory and, for checkpoints, in one file.
#[derive(Default)]
struct Marked {
    applied: Applied,
    committed: MarkedStorage,
}

#[derive(Clone, Default)]
struct MarkedStorage(Arc<Mutex<Applied>>);

impl StateMachine for Marked {
    type Storage = MarkedStorage;

    fn applied(&self) -> &Applied {
        &self.applied
    }

    fn apply(&mut self, _context: &Context, _command: &Command) -> Reply {
        Ok(Response::PublishMember)
    }

    fn commit(&mut self, applied: Applied) {
        *self.committed.0.lock() = applied.clone();
        self.applied = applied;
    }

    fn storage(&self) -> MarkedStorage {
        self.committed.clone()
    }

    fn install(&mut self, dir: &Path) -> io::Result<()> {
        let index = std::fs::read(dir.join("index"))?;
        let consensus = Bytes::from(std::fs::read(dir.join("mark"))?);
        let index = u64::from_le_bytes(index.try_into().map_err(|_| io::ErrorKind::InvalidData)?);
        self.commit(Applied { index: crate::ids::LogIndex(index), consensus });
        Ok(())
    }
}

impl Storage for MarkedStorage {
    fn flush(&self) -> io::Result<Applied> {
        Ok(self.0.lock().clone())
    }

    fn checkpoint(&self, dir: &Path) -> io::Result<Applied> {
        let applied = self.0.lock().clone();
        std::fs::create_dir(dir)?;
        std::fs::write(dir.join("index"), applied.index.0.to_le_bytes())?;
        std::fs::write(dir.join("mark"), &applied.consensus)?;
        Ok(applied)
    }

    fn unflushed_bytes(&self) -> u64 {
        0
    }
}

fn log(dir: &Path) -> LogStore {
    let options = WalOptions {
        dir: dir.join("log"),
        owner: Owner { cluster: 1, member: 2 },
        segment_bytes: 16 << 10,
        cache_bytes: 2 << 10,
        fsync: false,
    };
    LogStore::new(Arc::new(Wal::open(Arc::new(LocalDisk), &SystemRandom, options).unwrap()), MemberId(1))
}

struct OnMarked;

impl StoreBuilder<Types, LogStore, Machine<Marked>, tempfile::TempDir> for OnMarked {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, Machine<Marked>), openraft::StorageError<Types>> {
        let dir = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::open(dir.path().join("checkpoints")).unwrap();
        let log = log(dir.path());
        let machine = Machine::new(Marked::default(), checkpoints, Requests::new(MemberId(1), 0)).unwrap();
        Ok((dir, log, machine))
    }
}

struct OnState;

impl StoreBuilder<Types, LogStore, Machine<State>, tempfile::TempDir> for OnState {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, Machine<State>), openraft::StorageError<Types>> {
        let dir = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::open(dir.path().join("checkpoints")).unwrap();
        let log = log(dir.path());
        let state = State::open(&dir.path().join("state"), StateOptions::default()).unwrap();
        let machine = Machine::new(state, checkpoints, Requests::new(MemberId(1), 0)).unwrap();
        Ok((dir, log, machine))
    }
}

#[test]
fn openrafts_storage_suite_passes_on_a_small_state() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { Suite::test_all(OnMarked).await }).unwrap();
}

#[test]
fn openrafts_storage_suite_passes_on_the_real_state() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { Suite::test_all(OnState).await }).unwrap();
}
