//! Comparing the members' contents in the background.
//!
//! The leader asks every member for the digest at one revision above one compaction floor. Who differs from the majority
//! is quarantined by a replicated command: from then on it serves nothing, and has itself rebuilt (`rebuild`). Where no
//! majority says what is right, the whole cluster stops changing until an operator decides.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::inner::Inner;
use super::maintain::pause;
use crate::command::Command;
use crate::ids::{MemberId, Revision};
use crate::io::clock::{Breaks, Clock, SystemClock};
use crate::io::peer::{Kind, Lane};
use crate::limits::{CHECK_TICK, DIGEST_REST_FACTOR, DIGEST_TIMEOUT};
use crate::maintenance::Quarantine;
use crate::maintenance::alarms::{Alarm, Cause};
use crate::maintenance::consistency::{Last, Rhythm, Verdict, judge};

/// Where contents are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) revision: i64,
    pub(super) floor: i64,
}

impl Inner {
    pub(super) async fn run_checks(self: Arc<Self>) {
        let options = &self.config.maintenance;
        let rhythm = Rhythm { interval: options.corrupt_check_time, after_compaction: options.compact_hash_check_time };
        let clock = SystemClock::default();
        let mut last =
            Last { ended: clock.now(), took: std::time::Duration::ZERO, floor: self.reader.compact_revision().0 };
        if options.initial_corrupt_check && self.read_barrier().await.is_ok() {
            self.check().await;
            tracing::info!("finished the initial corruption check");
        }
        while pause(&self, CHECK_TICK).await {
            let leads = self.leader().is_some_and(|leader| leader.is_self);
            let floor = self.reader.compact_revision().0;
            let started = clock.now();
            if !leads || !rhythm.is_due(started, floor, last) {
                continue;
            }
            tokio::select! {
                () = self.check() => {}
                () = self.stop.cancelled() => return,
            }
            if floor > last.floor {
                tracing::info!(compact_revision = floor, "finished compaction hash check");
            }
            last = Last { ended: clock.now(), took: clock.now().saturating_sub(started), floor };
        }
    }

    /// Compares everyone's contents now, and acts on what it finds.
    pub(super) async fn check(&self) {
        let members = self.member_ids();
        if members.len() < 2 || self.is_quarantined() {
            return;
        }
        let point = Point { revision: self.reader.revision().0, floor: self.reader.compact_revision().0 };
        let digests = self.digests(&members, point).await;
        tracing::debug!(?point, answers = digests.len(), members = members.len(), "compared the members");
        let (Point { revision, floor }, verdict) = (point, judge(members.len(), &digests));
        if verdict != Verdict::Consistent {
            let digests: Vec<String> = digests.iter().map(|(member, hash)| format!("{member}:{hash:08x}")).collect();
            tracing::error!(
                revision,
                compact_revision = floor,
                ?verdict,
                digests = digests.join(","),
                "found data inconsistency with peers"
            );
        }
        match verdict {
            Verdict::Consistent if digests.len() == members.len() => self.withdraw_doubt().await,
            Verdict::Consistent => {}
            Verdict::Differ(members) => {
                for member in members {
                    self.quarantine(member, true).await;
                }
            }
            Verdict::NoMajority => {
                self.quarantine(MemberId(0), true).await;
            }
        }
    }

    /// Ends an alarm about a difference that nobody could attribute, now that there is none.
    async fn withdraw_doubt(&self) {
        let doubt = Alarm::new(kontiki_api::etcdserverpb::AlarmType::Corrupt, MemberId(0));
        if self.reader.agreed().alarms.cause(doubt) == Some(Cause::Differs) {
            self.quarantine(MemberId(0), false).await;
        }
    }

    /// Whether the cluster knows now.
    pub(super) async fn quarantine(&self, member: MemberId, raised: bool) -> bool {
        match self.propose(&Command::Quarantine(Quarantine { member: member.0, raised })).await {
            Ok(_) => true,
            Err(error) => {
                tracing::warn!(%member, raised, %error, "the outcome of the comparison is not agreed on yet");
                false
            }
        }
    }

    /// The digests of those who can give one at exactly that point.
    async fn digests(&self, members: &[MemberId], point: Point) -> Vec<(MemberId, u32)> {
        let ask = |member: MemberId| async move {
            if member == self.config.id {
                return Some((member, self.digest(point).await.ok()?));
            }
            let client = self.client(member, Lane::Control)?;
            let answer = client.call(Kind::HashKv, encode(point), DIGEST_TIMEOUT).await;
            match answer.map(|mut answer| (answer.len() == 4).then(|| answer.get_u32_le())) {
                Ok(digest) => Some((member, digest?)),
                Err(error) => {
                    tracing::debug!(%member, %error, "a member has no digest to compare");
                    None
                }
            }
        };
        futures::future::join_all(members.iter().copied().map(ask)).await.into_iter().flatten().collect()
    }

    /// This member's digest, once it has come to that point.
    pub(super) async fn digest(&self, point: Point) -> Result<u32, String> {
        if self.is_quarantined() {
            return Err("it is being rebuilt".to_owned());
        }
        let mut progress = self.progress.clone();
        let reader = self.reader.clone();
        let there = |reader: &crate::state::Reader| {
            reader.revision().0 >= point.revision && reader.compact_revision().0 >= point.floor
        };
        let reached = progress.wait_for(|_| there(&reader));
        tokio::time::timeout(DIGEST_TIMEOUT, reached)
            .await
            .map_err(|_| "it does not come to that revision".to_owned())?
            .map_err(|_| "it stops".to_owned())?;
        let reader = self.reader.clone();
        let digest = tokio::task::spawn_blocking(move || {
            let mut breaks = Breaks::new(DIGEST_REST_FACTOR);
            reader.hash_kv_resting(Revision(point.revision), &mut || breaks.rest())
        });
        let digest = digest.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        match digest.compact_revision == point.floor {
            true => Ok(digest.hash),
            false => Err("it has compacted further".to_owned()),
        }
    }

    /// Answers another member's question for a digest.
    pub(super) async fn answer_digest(&self, body: Bytes) -> Result<Bytes, String> {
        let point = decode(body).ok_or("a point of sixteen bytes")?;
        let digest = self.digest(point).await?;
        Ok(Bytes::copy_from_slice(&digest.to_le_bytes()))
    }
}

fn encode(point: Point) -> Bytes {
    let mut body = BytesMut::with_capacity(16);
    body.put_i64_le(point.revision);
    body.put_i64_le(point.floor);
    body.freeze()
}

fn decode(mut body: Bytes) -> Option<Point> {
    (body.len() == 16).then(|| Point { revision: body.get_i64_le(), floor: body.get_i64_le() })
}
