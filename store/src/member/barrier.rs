//! Linearizable reads: one confirmation answers every read that was waiting when it started.
//!
//! The leader confirms with a majority that it still leads (ReadIndex); a follower asks the leader for the index and waits
//! until it has applied that far itself. A read that arrives while a confirmation is under way waits for the next one:
//! the one under way may be older than a write that this read must see.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use openraft::ReadPolicy;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::inner::Inner;
use crate::error::StoreError;
use crate::io::peer::{Kind, Lane};
use crate::limits::READ_INDEX_TIMEOUT;

type Outcome = Result<(), StoreError>;

#[derive(Default)]
struct State {
    waiting: Vec<oneshot::Sender<Outcome>>,
    running: bool,
}

#[derive(Default)]
pub(super) struct Barrier(Mutex<State>);

impl Inner {
    pub(super) async fn read_barrier(self: &Arc<Self>) -> Outcome {
        let (sender, outcome) = oneshot::channel();
        let start = {
            let mut state = self.barrier.0.lock();
            state.waiting.push(sender);
            !std::mem::replace(&mut state.running, true)
        };
        if start {
            self.tasks.spawn(self.clone().run_barriers());
        }
        outcome.await.unwrap_or(Err(StoreError::Stopped))
    }

    async fn run_barriers(self: Arc<Self>) {
        loop {
            let waiting = {
                let mut state = self.barrier.0.lock();
                if state.waiting.is_empty() {
                    state.running = false;
                    return;
                }
                std::mem::take(&mut state.waiting)
            };
            let outcome = self.confirm().await;
            if outcome.is_err() {
                self.metrics.server.failed_read_indexes.inc();
            }
            for read in waiting {
                // A client may have gone away meanwhile.
                let _ = read.send(outcome.clone());
            }
        }
    }

    /// One confirmation, tried again while there is no leader.
    async fn confirm(&self) -> Outcome {
        let deadline = self.deadline();
        let mut progress = self.progress.clone();
        loop {
            let attempt = deadline.min(Instant::now() + READ_INDEX_TIMEOUT);
            let asked = self.ask_read_index(attempt).await;
            if asked.is_none() && Instant::now() >= attempt {
                self.metrics.server.slow_read_indexes.inc();
            }
            if let Some(index) = asked {
                return match timeout_at(deadline, progress.wait_for(|progress| progress.next > index)).await {
                    Ok(Ok(_)) => Ok(()),
                    Ok(Err(_)) => Err(StoreError::Stopped),
                    Err(_) => Err(StoreError::Timeout),
                };
            }
            self.wait_for_leader(deadline).await?;
        }
    }

    async fn ask_read_index(&self, attempt: Instant) -> Option<u64> {
        let leader = self.leader()?;
        if leader.is_self {
            return timeout_at(attempt, self.read_index()).await.ok().flatten();
        }
        let client = self.client(leader.member, Lane::Control)?;
        let answer = client.call(Kind::ReadIndex, Bytes::new(), super::inner::until(attempt)).await.ok()?;
        decode_index(answer)
    }

    /// The index that a read confirmed by this leader must see; `None` when this member does not lead.
    pub(super) async fn read_index(&self) -> Option<u64> {
        let linearizer = self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await.ok()?;
        Some(linearizer.read_log_id().index())
    }
}

pub(super) fn encode_index(index: u64) -> Bytes {
    Bytes::copy_from_slice(&index.to_le_bytes())
}

fn decode_index(mut bytes: Bytes) -> Option<u64> {
    (bytes.len() == 8).then(|| bytes.get_u64_le())
}
