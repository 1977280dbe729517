//! Replacing a state that has gone wrong under a running Raft, which does not notice.
//!
//! A copy of another member's state takes the place of this one's, and the log's entries after the copy are applied to it
//! again, up to exactly where this member was. Applying pauses meanwhile. So the log, the votes and Raft's own idea of
//! what is applied stay as they are: a state is nothing but what the log says, read from some starting point.

use std::io;
use std::sync::Arc;

use openraft::EntryPayload;
use parking_lot::Mutex;

use super::log_store::from_wal;
use super::requests;
use super::state_machine::{Mark, encode_membership};
use super::types::{CommandBytes, Entry, StoredMembership};
use super::{StateMachine, Storage, codec};
use crate::ids::LogIndex;
use crate::io::checkpoint::CheckpointDir;
use crate::io::wal::WalReader;
use crate::limits::LOG_READ_BYTES_MAX;
use crate::state::{Applied, Context};

/// Shared by everything that applies or flushes; a rebuild has it alone.
pub(super) type Turn = Arc<tokio::sync::RwLock<()>>;

/// The state machine, for replacing its state.
#[derive(Clone)]
pub struct Rebuilder<M> {
    pub(super) state: Arc<Mutex<M>>,
    pub(super) turn: Turn,
}

impl<M: StateMachine> Rebuilder<M> {
    /// Installs a copy that ends at `upto`, which this member has applied already, and catches up from the log.
    ///
    /// # Errors
    /// When the copy cannot be installed, or the log no longer reaches back to it; the state is then as it was.
    pub async fn rebuild(&self, log: WalReader, dir: CheckpointDir, upto: LogIndex) -> io::Result<LogIndex> {
        let _turn = self.turn.write().await;
        let state = self.state.clone();
        tokio::task::spawn_blocking(move || replace(&mut *state.lock(), &log, &dir, upto))
            .await
            .map_err(io::Error::other)?
    }
}

fn replace<M: StateMachine>(
    state: &mut M,
    log: &WalReader,
    dir: &CheckpointDir,
    upto: LogIndex,
) -> io::Result<LogIndex> {
    let target = state.applied().clone();
    let (purged, _) = log.bounds();
    if target.index < upto || purged.is_some_and(|purged| purged.index > upto.0) {
        return Err(io::Error::other("the copy does not fit this member's log; another one is needed"));
    }
    state.install(dir.path())?;
    // From here on there is no way back: the state is older than Raft thinks it is.
    let caught_up = catch_up(state, log, &target).and_then(|()| state.storage().flush());
    match caught_up {
        Ok(applied) if applied == target => Ok(target.index),
        Ok(applied) => {
            let (is, was) = (applied.index, target.index);
            crate::io::abort(&format!("the rebuilt state ends at entry {is} instead of {was}; stopping the process"))
        }
        Err(error) => crate::io::abort(&format!(
            "the rebuilt state cannot be brought up to entry {}: {error}; stopping the process",
            target.index
        )),
    }
}

/// Applies what the log has after the state's mark, up to `target`.
fn catch_up<M: StateMachine>(state: &mut M, log: &WalReader, target: &Applied) -> io::Result<()> {
    let mark = Mark::decode(state.applied())?;
    let mut membership = mark.membership;
    let mut next = mark.last.map_or(0, |id| id.index + 1);
    while next <= target.index.0 {
        let entries = log.read(next, target.index.0 + 1, LOG_READ_BYTES_MAX)?;
        let mut last = None;
        for entry in entries {
            let Entry { log_id, payload } = from_wal(entry)?;
            match payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(CommandBytes(bytes)) => {
                    let (_, caller, command) = requests::decode(bytes).map_err(io::Error::other)?;
                    // Whoever asked was answered the first time.
                    let _ = state.apply(&Context { index: LogIndex(log_id.index), caller }, &command);
                }
                EntryPayload::Membership(changed) => {
                    state.adopt_members(&changed);
                    membership = StoredMembership::new(Some(log_id), changed);
                }
            }
            last = Some(log_id);
        }
        let last = last.ok_or_else(|| io::Error::other(format!("the log has no entry {next}")))?;
        next = last.index + 1;
        let mut consensus = codec::encode(&Some(last));
        consensus.extend_from_slice(&encode_membership(&membership));
        state.commit(Applied { index: LogIndex(last.index), consensus: consensus.into() });
    }
    Ok(())
}
