//! Leases in time: while this member leads it counts them down, renews them, and revokes the expired ones.
//!
//! The deadlines are the leader's alone and never replicated; a new leader gives every lease its full time again, and an
//! election on top. The table of leases is followed through the state's own change feed, caught up before every question,
//! so that a lease can be renewed as soon as its grant was answered.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kontiki_api::etcdserverpb as pb;
use parking_lot::Mutex;
use prometheus::IntCounter;
use tokio::time::Instant;

use super::inner::{Inner, until};
use super::{Leadership, TimeToLive};
use crate::command::Command;
use crate::error::StoreError;
use crate::ids::{LeaseId, Term};
use crate::io::clock::Clock;
use crate::io::peer::{Kind, Lane};
use crate::lease::Lessor;
use crate::limits::READ_INDEX_TIMEOUT;
use crate::state::{LeaseChange, LeaseChanges, Reader};

#[derive(Default)]
struct Timed {
    lessor: Lessor,
    version: u64,
    /// The term of this member's leadership, between taking over and losing it.
    primary: Option<Term>,
}

pub(super) struct Leases {
    timed: Mutex<Timed>,
    reader: Arc<Reader>,
    clock: Arc<dyn Clock>,
    renewed: IntCounter,
}

/// A lease's answer from the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lease<T> {
    NotPrimary,
    Missing,
    Found(T),
}

impl Leases {
    pub(super) fn new(reader: Arc<Reader>, clock: Arc<dyn Clock>, renewed: IntCounter) -> Self {
        Self { timed: Mutex::new(Timed::default()), reader, clock, renewed }
    }

    fn promote(&self, term: Term, extend: std::time::Duration) {
        let mut timed = self.timed.lock();
        let (_, version) = self.reader.lease_changes(0);
        timed.version = version;
        let now = self.clock.now();
        timed.lessor.promote(now, self.reader.leases(), extend);
        timed.primary = Some(term);
    }

    fn demote(&self) {
        let mut timed = self.timed.lock();
        timed.lessor.demote();
        timed.primary = None;
    }

    fn renew(&self, proven: Term, lease: LeaseId) -> Lease<i64> {
        let renewed = self.ask(proven, |lessor, now| lessor.renew(lease, now));
        if let Lease::Found(_) = renewed {
            self.renewed.inc();
        }
        renewed
    }

    fn remaining(&self, proven: Term, lease: LeaseId) -> Lease<TimeToLive> {
        self.ask(proven, |lessor, now| {
            let (remaining_s, granted_s) = lessor.remaining(lease, now)?;
            Some(TimeToLive { remaining_s, granted_s })
        })
    }

    /// Answers for a leader that has proven its leadership of the term `proven`.
    fn ask<T>(&self, proven: Term, question: impl FnOnce(&mut Lessor, std::time::Duration) -> Option<T>) -> Lease<T> {
        let mut timed = self.timed.lock();
        if timed.primary != Some(proven) {
            return Lease::NotPrimary;
        }
        self.catch_up(&mut timed);
        match question(&mut timed.lessor, self.clock.now()) {
            Some(answer) => Lease::Found(answer),
            None => Lease::Missing,
        }
    }

    /// The leases to revoke now, and when to look again.
    fn expired(&self) -> (Vec<LeaseId>, Option<Instant>) {
        let mut timed = self.timed.lock();
        self.catch_up(&mut timed);
        let now = self.clock.now();
        let expired = timed.lessor.expired(now);
        let next = timed.lessor.next_deadline().map(|deadline| Instant::now() + deadline.saturating_sub(now));
        (expired, next)
    }

    fn catch_up(&self, timed: &mut Timed) {
        let now = self.clock.now();
        let (changes, version) = self.reader.lease_changes(timed.version);
        timed.version = version;
        match changes {
            LeaseChanges::Changes(changes) => {
                for change in changes {
                    match change {
                        LeaseChange::Granted { id, ttl_s } => timed.lessor.granted(id, ttl_s, now),
                        LeaseChange::Revoked { id } => timed.lessor.revoked(id),
                    }
                }
            }
            LeaseChanges::Table(leases) => timed.lessor.promote(now, leases, std::time::Duration::ZERO),
        }
    }
}

impl Inner {
    pub(super) async fn keep_alive(self: &Arc<Self>, lease: LeaseId) -> Result<i64, StoreError> {
        let answer = self.ask_primary(Kind::KeepAlive, lease).await?;
        Ok(answer.map_or(0, |ttl| ttl.granted_s))
    }

    pub(super) async fn time_to_live(self: &Arc<Self>, lease: LeaseId) -> Result<Option<TimeToLive>, StoreError> {
        self.ask_primary(Kind::TimeToLive, lease).await
    }

    /// Renews a lease, or tells its times, if this member leads: a leader that was cut off must not renew what its
    /// successor may have revoked.
    pub(super) async fn answer_for_leases(self: &Arc<Self>, kind: Kind, lease: LeaseId) -> Bytes {
        let Some(proof) = self.prove_leadership().await else { return encode_times(Lease::NotPrimary) };
        let (term, mut progress) = (Term(proof.leader_id.term), self.progress.clone());
        let applied = progress.wait_for(|progress| progress.next > proof.index);
        match tokio::time::timeout(READ_INDEX_TIMEOUT, applied).await {
            Ok(Ok(_)) if kind == Kind::KeepAlive => encode_ttl(self.leases.renew(term, lease)),
            Ok(Ok(_)) => encode_times(self.leases.remaining(term, lease)),
            Ok(Err(_)) | Err(_) => encode_times(Lease::NotPrimary),
        }
    }

    /// Asks the leader's lessor, which may be this one's, until one answers.
    async fn ask_primary(self: &Arc<Self>, kind: Kind, lease: LeaseId) -> Result<Option<TimeToLive>, StoreError> {
        let deadline = self.deadline();
        loop {
            let leader = self.leader();
            let answer = match leader {
                None => None,
                Some(leader) if leader.is_self => Some(self.answer_for_leases(kind, lease).await),
                Some(leader) => match self.client(leader.member, Lane::Control) {
                    Some(client) => {
                        let body = Bytes::copy_from_slice(&lease.0.to_le_bytes());
                        let answer = client.call(kind, body, until(deadline).min(READ_INDEX_TIMEOUT));
                        self.while_it_leads(leader, async { answer.await.ok() }).await
                    }
                    None => None,
                },
            };
            match answer.map_or(Lease::NotPrimary, decode) {
                Lease::Found(times) => return Ok(Some(times)),
                Lease::Missing => return Ok(None),
                Lease::NotPrimary => self.wait_for_leader(leader, deadline).await?,
            }
        }
    }

    /// Counts leases down while this member leads.
    pub(super) async fn run_leases(self: Arc<Self>) {
        let mut leadership = self.leadership.clone();
        loop {
            let now = *leadership.borrow_and_update();
            if now.is_self {
                self.lead_leases(now).await;
                self.leases.demote();
            } else if leadership.changed().await.is_err() {
                return;
            }
            if self.stop.is_cancelled() {
                return;
            }
        }
    }

    async fn lead_leases(self: &Arc<Self>, mine: Leadership) {
        // Everything that earlier leaders granted must be applied before the table is taken over.
        if self.read_barrier().await.is_err() {
            return;
        }
        let mut leadership = self.leadership.clone();
        let mut changes = self.reader.lease_version();
        if *leadership.borrow_and_update() != mine {
            return;
        }
        self.leases.promote(mine.term, self.config.timing.election_max);
        loop {
            let (expired, next) = self.leases.expired();
            if !expired.is_empty() {
                self.revoke(expired).await;
                continue;
            }
            let sleep = async {
                match next {
                    Some(next) => tokio::time::sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = sleep => {}
                changed = changes.changed() => if changed.is_err() { return },
                _ = leadership.changed() => if *leadership.borrow() != mine { return },
                () = self.stop.cancelled() => return,
            }
        }
    }

    async fn revoke(&self, leases: Vec<LeaseId>) {
        let commands: Vec<Command> =
            leases.iter().map(|lease| Command::LeaseRevoke(pb::LeaseRevokeRequest { id: lease.0 })).collect();
        let outcomes = futures::future::join_all(commands.iter().map(|command| self.propose(command))).await;
        for (lease, outcome) in leases.iter().zip(outcomes) {
            match outcome {
                // A client may have revoked it at the same time.
                Ok(_) | Err(StoreError::LeaseNotFound) => {
                    self.metrics.server.leases_expired.inc();
                    tracing::debug!(%lease, "an expired lease was revoked");
                }
                Err(error) => tracing::warn!(%lease, %error, "an expired lease is not revoked yet"),
            }
        }
    }
}

const NOT_PRIMARY: u8 = 0;
const MISSING: u8 = 1;
const FOUND: u8 = 2;

fn encode_ttl(lease: Lease<i64>) -> Bytes {
    encode_times(match lease {
        Lease::Found(ttl_s) => Lease::Found(TimeToLive { remaining_s: ttl_s, granted_s: ttl_s }),
        Lease::Missing => Lease::Missing,
        Lease::NotPrimary => Lease::NotPrimary,
    })
}

fn encode_times(lease: Lease<TimeToLive>) -> Bytes {
    let mut bytes = BytesMut::with_capacity(17);
    match lease {
        Lease::NotPrimary => bytes.put_u8(NOT_PRIMARY),
        Lease::Missing => bytes.put_u8(MISSING),
        Lease::Found(TimeToLive { remaining_s, granted_s }) => {
            bytes.put_u8(FOUND);
            bytes.put_i64_le(remaining_s);
            bytes.put_i64_le(granted_s);
        }
    }
    bytes.freeze()
}

fn decode(mut bytes: Bytes) -> Lease<TimeToLive> {
    match bytes.first() {
        Some(&MISSING) => Lease::Missing,
        Some(&FOUND) if bytes.len() == 17 => {
            bytes.advance(1);
            Lease::Found(TimeToLive { remaining_s: bytes.get_i64_le(), granted_s: bytes.get_i64_le() })
        }
        _ => Lease::NotPrimary,
    }
}
