//! The Cluster service. Membership is fixed at bootstrap for now: changes answer `Unimplemented`.

use kontiki_api::etcdserverpb as pb;
use kontiki_api::etcdserverpb::cluster_server::Cluster;
use tonic::{Request, Response, Status};

use super::Edge;

fn fixed() -> Status {
    Status::unimplemented("kontiki: membership changes are not supported yet")
}

#[tonic::async_trait]
impl Cluster for Edge {
    async fn member_list(
        &self,
        request: Request<pb::MemberListRequest>,
    ) -> Result<Response<pb::MemberListResponse>, Status> {
        if request.into_inner().linearizable {
            self.member.read_barrier().await?;
        }
        // Membership is not a part of the key space: the revision of this header stays 0.
        let header = Some(self.header(0));
        Ok(Response::new(pb::MemberListResponse { header, members: self.member.members() }))
    }

    async fn member_add(&self, _: Request<pb::MemberAddRequest>) -> Result<Response<pb::MemberAddResponse>, Status> {
        Err(fixed())
    }

    async fn member_remove(
        &self,
        _: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        Err(fixed())
    }

    async fn member_update(
        &self,
        _: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        Err(fixed())
    }

    async fn member_promote(
        &self,
        _: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        Err(fixed())
    }
}
