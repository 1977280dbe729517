//! The Maintenance service: status, alarms, hashes, defragmentation, leadership transfer, downgrades.
//!
//! All of it but alarms and downgrades is about the member that is asked, and never forwarded.

use kontiki_api::etcdserverpb as pb;
use kontiki_api::etcdserverpb::alarm_request::AlarmAction;
use kontiki_api::etcdserverpb::downgrade_request::DowngradeAction;
use kontiki_api::etcdserverpb::maintenance_server::Maintenance;
use tonic::{Request, Response, Status};

use super::access::split;
use super::snapshot::Chunks;
use super::{ETCD_VERSION, Edge, STORAGE_VERSION, response};
use crate::command::Command;
use crate::error::StoreError;
use crate::ids::{MemberId, Revision};
use crate::maintenance::alarms::{self, Alarm};
use crate::member::DowngradeRefusal;

#[tonic::async_trait]
impl Maintenance for Edge {
    async fn status(&self, _: Request<pb::StatusRequest>) -> Result<Response<pb::StatusResponse>, Status> {
        let status = self.member.status();
        let size = self.member.reader().size();
        let agreed = self.member.agreed();
        let mut errors = Vec::new();
        if status.leader.is_none() {
            errors.push(StoreError::NoLeader.to_string());
        }
        errors.extend(self.member.alarms().iter().map(alarms::text));
        // While a downgrade is under way the data is used as the older release would.
        let storage_version = agreed.downgrade.map_or_else(|| STORAGE_VERSION.to_owned(), |target| target.to_string());
        Ok(Response::new(pb::StatusResponse {
            header: Some(self.header_now()),
            version: ETCD_VERSION.to_owned(),
            db_size: i64::try_from(size.total).unwrap_or(i64::MAX),
            leader: status.leader.map_or(0, |leader| leader.0),
            raft_index: status.committed.0,
            raft_term: status.term.0,
            raft_applied_index: status.applied.0,
            errors,
            db_size_in_use: i64::try_from(size.in_use).unwrap_or(i64::MAX),
            is_learner: status.is_learner,
            storage_version,
            db_size_quota: self.member.quota_bytes(),
            downgrade_info: Some(agreed.downgrade_info()),
        }))
    }

    async fn alarm(&self, request: Request<pb::AlarmRequest>) -> Result<Response<pb::AlarmResponse>, Status> {
        self.refuse_learner()?;
        let (sender, request) = split(request);
        self.may_alarm(&sender, request.action()).await?;
        let mut answer = if request.action() == AlarmAction::Get {
            self.member.read_barrier().await?;
            let alarms = self.member.agreed().alarms.matching(request.alarm, MemberId(request.member_id));
            pb::AlarmResponse { header: None, alarms: alarms.into_iter().map(Alarm::to_message).collect() }
        } else {
            let caller = self.caller(&sender).await?;
            response!(self.member.propose_as(&caller, Command::Alarm(request)).await, Alarm)
        };
        answer.header = Some(self.header_now());
        Ok(Response::new(answer))
    }

    async fn hash_kv(&self, request: Request<pb::HashKvRequest>) -> Result<Response<pb::HashKvResponse>, Status> {
        self.refuse_learner()?;
        let mut answer = self.member.hash_kv(Revision(request.into_inner().revision)).await?;
        answer.header = Some(self.header_now());
        Ok(Response::new(answer))
    }

    async fn move_leader(
        &self,
        request: Request<pb::MoveLeaderRequest>,
    ) -> Result<Response<pb::MoveLeaderResponse>, Status> {
        self.refuse_learner()?;
        let target = MemberId(request.into_inner().target_id);
        match self.member.move_leader(target).await {
            Ok(()) => Ok(Response::new(pb::MoveLeaderResponse { header: None })),
            Err(StoreError::Timeout) => {
                Err(Status::unknown("etcdserver: request timed out, leader transfer took too long"))
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn defragment(&self, _: Request<pb::DefragmentRequest>) -> Result<Response<pb::DefragmentResponse>, Status> {
        self.refuse_learner()?;
        self.member.defragment().await;
        Ok(Response::new(pb::DefragmentResponse { header: None }))
    }

    async fn hash(&self, _: Request<pb::HashRequest>) -> Result<Response<pb::HashResponse>, Status> {
        self.refuse_learner()?;
        let hash = self.member.hash().await?;
        Ok(Response::new(pb::HashResponse { header: Some(self.header_now()), hash }))
    }

    type SnapshotStream = Chunks;

    async fn snapshot(&self, _: Request<pb::SnapshotRequest>) -> Result<Response<Chunks>, Status> {
        self.stream_snapshot().await
    }

    async fn downgrade(
        &self,
        request: Request<pb::DowngradeRequest>,
    ) -> Result<Response<pb::DowngradeResponse>, Status> {
        self.refuse_learner()?;
        let request = request.into_inner();
        let version = match DowngradeAction::try_from(request.action) {
            Ok(DowngradeAction::Validate) => {
                self.member.validate_downgrade(&request.version).await.map(|(_, cluster)| cluster)
            }
            Ok(DowngradeAction::Enable) => self.member.enable_downgrade(&request.version).await,
            Ok(DowngradeAction::Cancel) => self.member.cancel_downgrade().await,
            Err(_) => return Err(Status::unknown("etcdserver: unknown method")),
        };
        let version = version.map_err(|refusal| match refusal {
            DowngradeRefusal::Rule(error) => Status::from(error),
            DowngradeRefusal::Store(error) => error.into(),
        })?;
        Ok(Response::new(pb::DowngradeResponse { header: Some(self.header_now()), version: version.to_string() }))
    }
}
