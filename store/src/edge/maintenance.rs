//! The Maintenance service: status, hashes, leadership transfer. The rest answers `Unimplemented`.

use kontiki_api::etcdserverpb as pb;
use kontiki_api::etcdserverpb::alarm_request::AlarmAction;
use kontiki_api::etcdserverpb::maintenance_server::Maintenance;
use tonic::{Request, Response, Status};

use super::snapshot::Chunks;
use super::{ETCD_VERSION, Edge, STORAGE_VERSION};
use crate::error::StoreError;
use crate::ids::{MemberId, Revision};

fn later(what: &str) -> Status {
    Status::unimplemented(format!("kontiki: {what} is not supported yet"))
}

#[tonic::async_trait]
impl Maintenance for Edge {
    async fn status(&self, _: Request<pb::StatusRequest>) -> Result<Response<pb::StatusResponse>, Status> {
        let status = self.member.status();
        let size = self.member.reader().size();
        let mut errors = Vec::new();
        if status.leader.is_none() {
            errors.push(StoreError::NoLeader.to_string());
        }
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
            storage_version: STORAGE_VERSION.to_owned(),
            db_size_quota: 0,
            downgrade_info: Some(pb::DowngradeInfo { enabled: false, target_version: String::new() }),
        }))
    }

    /// No alarm can be raised yet, so the list is truly empty.
    async fn alarm(&self, request: Request<pb::AlarmRequest>) -> Result<Response<pb::AlarmResponse>, Status> {
        self.refuse_learner()?;
        let (sender, request) = super::access::split(request);
        self.may_alarm(&sender, request.action()).await?;
        match request.action() {
            AlarmAction::Get | AlarmAction::Deactivate => {
                Ok(Response::new(pb::AlarmResponse { header: Some(self.header_now()), alarms: Vec::new() }))
            }
            AlarmAction::Activate => Err(later("raising an alarm")),
        }
    }

    async fn hash_kv(&self, request: Request<pb::HashKvRequest>) -> Result<Response<pb::HashKvResponse>, Status> {
        self.refuse_learner()?;
        let mut answer = self.member.reader().hash_kv(Revision(request.into_inner().revision))?;
        answer.header = Some(self.header_now());
        Ok(Response::new(answer))
    }

    async fn move_leader(
        &self,
        request: Request<pb::MoveLeaderRequest>,
    ) -> Result<Response<pb::MoveLeaderResponse>, Status> {
        self.refuse_learner()?;
        let status = self.member.status();
        if status.leader != Some(status.id) {
            return Err(StoreError::NotLeader.into());
        }
        let target = MemberId(request.into_inner().target_id);
        if !self.member.members().iter().any(|member| member.id == target.0) {
            return Err(StoreError::BadLeaderTransferee.into());
        }
        if target != status.id {
            self.member.transfer_leadership(Some(target)).await?;
        }
        Ok(Response::new(pb::MoveLeaderResponse { header: None }))
    }

    async fn defragment(&self, _: Request<pb::DefragmentRequest>) -> Result<Response<pb::DefragmentResponse>, Status> {
        self.refuse_learner()?;
        Err(later("defragmentation"))
    }

    async fn hash(&self, _: Request<pb::HashRequest>) -> Result<Response<pb::HashResponse>, Status> {
        self.refuse_learner()?;
        Err(later("the hash of the whole database"))
    }

    type SnapshotStream = Chunks;

    async fn snapshot(&self, _: Request<pb::SnapshotRequest>) -> Result<Response<Chunks>, Status> {
        self.stream_snapshot().await
    }

    async fn downgrade(&self, _: Request<pb::DowngradeRequest>) -> Result<Response<pb::DowngradeResponse>, Status> {
        self.refuse_learner()?;
        Err(later("a downgrade"))
    }
}
