//! A state in a temporary directory, and short words for requests.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use kontiki_api::etcdserverpb as pb;
use kontiki_api::mvccpb::KeyValue;
use pb::request_op::Request;
use tempfile::TempDir;

use super::{Applied, CompactionPace, Reader, State, StateOptions};
use crate::command::{Command, Reply, Response};
use crate::error::StoreError;
use crate::ids::LogIndex;

/// A state that commits after each command, with physical compaction in the test's hands.
pub(crate) struct Harness {
    pub(crate) state: State,
    dir: TempDir,
    index: u64,
}

pub(crate) fn options() -> StateOptions {
    StateOptions {
        block_cache_bytes: 1 << 20,
        write_buffer_bytes: 1 << 20,
        value_cache_bytes: 1 << 20,
        watch_ring_bytes: 1 << 20,
        background_compaction: false,
        compaction_pace: CompactionPace::default(),
        ..StateOptions::default()
    }
}

/// Without the value cache, so that reads come from the database.
pub(crate) fn uncached() -> StateOptions {
    StateOptions { value_cache_bytes: 0, ..options() }
}

impl Harness {
    pub(crate) fn new() -> Self {
        Self::with(options())
    }

    pub(crate) fn with(options: StateOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(&dir.path().join("state"), options).unwrap();
        Self { state, dir, index: 0 }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn reader(&self) -> std::sync::Arc<Reader> {
        self.state.reader()
    }

    pub(crate) fn revision(&self) -> i64 {
        self.state.reader().revision().0
    }

    pub(crate) fn commit(&mut self) {
        self.index += 1;
        let consensus = Bytes::from(format!("mark {}", self.index));
        self.state.commit(Applied { index: LogIndex(self.index), consensus });
    }

    pub(crate) fn run(&mut self, command: &Command) -> Reply {
        let reply = self.state.apply(command);
        self.commit();
        reply
    }

    /// Puts and returns the revision.
    pub(crate) fn put(&mut self, key: &str, value: &str) -> i64 {
        self.run(&Command::Put(put(key, value))).unwrap();
        self.revision()
    }

    pub(crate) fn put_leased(&mut self, key: &str, lease: i64) -> Reply {
        self.run(&Command::Put(pb::PutRequest { lease, ..put(key, "leased") }))
    }

    /// Deletes and returns how many.
    pub(crate) fn delete(&mut self, key: &str, end: &str) -> i64 {
        match self.run(&Command::DeleteRange(delete(key, end))).unwrap() {
            Response::DeleteRange(response) => response.deleted,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn txn(&mut self, txn: pb::TxnRequest) -> Result<pb::TxnResponse, StoreError> {
        match self.run(&Command::Txn(txn))? {
            Response::Txn(response) => Ok(response),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn compact(&mut self, revision: i64) -> Result<(), StoreError> {
        self.run(&Command::Compact(pb::CompactionRequest { revision, physical: false })).map(|_| ())
    }

    pub(crate) fn compact_physically(&self) {
        while self.state.compact_step() {}
    }

    pub(crate) fn grant(&mut self, id: i64, ttl: i64) -> Reply {
        self.run(&Command::LeaseGrant(pb::LeaseGrantRequest { id, ttl }))
    }

    pub(crate) fn revoke(&mut self, id: i64) -> Reply {
        self.run(&Command::LeaseRevoke(pb::LeaseRevokeRequest { id }))
    }

    pub(crate) fn get(&self, key: &str) -> Option<KeyValue> {
        self.reader().range(&range(key, "")).unwrap().kvs.pop()
    }

    /// Closes properly and opens again.
    pub(crate) fn reopen(self) -> Self {
        let Self { state, dir, index } = self;
        drop(state);
        let state = State::open(&dir.path().join("state"), options()).unwrap();
        Self { state, dir, index }
    }

    /// What a crash at this moment would leave behind: the files as they are, without what is only in memory. RocksDB
    /// may replace files while they are copied; such a copy is no moment in time, and another one is taken.
    pub(crate) fn crashed(&self) -> Self {
        let mut failure = None;
        for _ in 0..100 {
            let dir = tempfile::tempdir().unwrap();
            let target = dir.path().join("state");
            let opened = copy(&self.path("state"), &target).map_err(Into::into);
            match opened.and_then(|()| State::open(&target, options())) {
                Ok(state) => {
                    let index = state.applied().index.0;
                    return Self { state, dir, index };
                }
                Err(error) => failure = Some(error),
            }
        }
        panic!("no copy of the files could be opened: {failure:?}");
    }
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else if entry.file_name() != "LOCK" {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub(crate) fn put(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest { key: bytes(key), value: bytes(value), ..pb::PutRequest::default() }
}

pub(crate) fn delete(key: &str, end: &str) -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest { key: bytes(key), range_end: bytes(end), ..pb::DeleteRangeRequest::default() }
}

pub(crate) fn range(key: &str, end: &str) -> pb::RangeRequest {
    pb::RangeRequest { key: bytes(key), range_end: bytes(end), ..pb::RangeRequest::default() }
}

pub(crate) fn put_op(key: &str, value: &str) -> pb::RequestOp {
    pb::RequestOp { request: Some(Request::RequestPut(put(key, value))) }
}

pub(crate) fn delete_op(key: &str, end: &str) -> pb::RequestOp {
    pb::RequestOp { request: Some(Request::RequestDeleteRange(delete(key, end))) }
}

pub(crate) fn range_op(request: pb::RangeRequest) -> pb::RequestOp {
    pb::RequestOp { request: Some(Request::RequestRange(request)) }
}

pub(crate) fn txn_op(txn: pb::TxnRequest) -> pb::RequestOp {
    pb::RequestOp { request: Some(Request::RequestTxn(txn)) }
}

pub(crate) fn txn(success: Vec<pb::RequestOp>) -> pb::TxnRequest {
    pb::TxnRequest { success, ..pb::TxnRequest::default() }
}

/// `key=value` of each, in order.
pub(crate) fn pairs(kvs: &[KeyValue]) -> Vec<String> {
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    kvs.iter().map(|kv| format!("{}={}", text(&kv.key), text(&kv.value))).collect()
}
