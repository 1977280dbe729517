//! Linearizable reads: one confirmation answers every read that was waiting when it started.
//!
//! The leader confirms with a majority that it still leads (ReadIndex); a follower asks the leader for the index and waits
//! until it has applied that far itself. A read that arrives while a confirmation is under way waits for the next one:
//! the one under way may be older than a write that this read must see.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use openraft::ReadPolicy;
use tokio::time::{Instant, timeout_at};

use super::inner::{Inner, Leader};
use crate::consensus::types::LogId;
use crate::error::StoreError;
use crate::io::peer::{Kind, Lane};
use crate::limits::READ_INDEX_TIMEOUT;

pub(super) type Outcome = Result<(), StoreError>;

impl Inner {
    pub(super) async fn read_barrier(self: &Arc<Self>) -> Outcome {
        let inner = self.clone();
        let question = move || {
            let inner = inner.clone();
            async move {
                let outcome = inner.confirm().await;
                if outcome.is_err() {
                    inner.metrics.server.failed_read_indexes.inc();
                }
                outcome
            }
        };
        self.barrier.ask(&self.tasks, question).await.unwrap_or(Err(StoreError::Stopped))
    }

    /// Proves with a majority that this member leads, after it was asked; answers the index that this leader's clients may
    /// have seen, with the term, or `None` when it does not lead.
    pub(super) async fn prove_leadership(self: &Arc<Self>) -> Option<LogId> {
        let inner = self.clone();
        let question = move || {
            let inner = inner.clone();
            async move { timeout_at(Instant::now() + READ_INDEX_TIMEOUT, inner.read_log_id()).await.ok().flatten() }
        };
        self.leads.ask(&self.tasks, question).await.flatten()
    }

    /// One confirmation, tried again while there is no leader.
    async fn confirm(&self) -> Outcome {
        let deadline = self.deadline();
        let mut progress = self.progress.clone();
        loop {
            let attempt = deadline.min(Instant::now() + READ_INDEX_TIMEOUT);
            let leader = self.leader();
            let asked = match leader {
                Some(leader) => self.ask_read_index(leader, attempt).await,
                None => None,
            };
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
            self.wait_for_leader(leader, deadline).await?;
        }
    }

    async fn ask_read_index(&self, leader: Leader, attempt: Instant) -> Option<u64> {
        if leader.is_self {
            return timeout_at(attempt, self.read_index()).await.ok().flatten();
        }
        let client = self.client(leader.member, Lane::Control)?;
        let answer = client.call(Kind::ReadIndex, Bytes::new(), super::inner::until(attempt));
        decode_index(self.while_it_leads(leader, async { answer.await.ok() }).await?)
    }

    /// The index that a read confirmed by this leader must see; `None` when this member does not lead.
    pub(super) async fn read_index(&self) -> Option<u64> {
        Some(self.read_log_id().await?.index)
    }

    async fn read_log_id(&self) -> Option<LogId> {
        let linearizer = self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await.ok()?;
        let read = linearizer.read_log_id();
        Some(LogId::new(*read.committed_leader_id(), read.index()))
    }
}

pub(super) fn encode_index(index: u64) -> Bytes {
    Bytes::copy_from_slice(&index.to_le_bytes())
}

fn decode_index(mut bytes: Bytes) -> Option<u64> {
    (bytes.len() == 8).then(|| bytes.get_u64_le())
}
