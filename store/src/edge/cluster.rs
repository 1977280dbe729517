//! The Cluster service. Membership is not a part of the key space: the revision of these headers stays 0.

use kontiki_api::etcdserverpb as pb;
use kontiki_api::etcdserverpb::cluster_server::Cluster;
use tonic::{Request, Response, Status};

use super::Edge;
use crate::ids::MemberId;

#[tonic::async_trait]
impl Cluster for Edge {
    async fn member_list(
        &self,
        request: Request<pb::MemberListRequest>,
    ) -> Result<Response<pb::MemberListResponse>, Status> {
        self.refuse_limited()?;
        if request.into_inner().linearizable {
            self.member.read_barrier().await?;
        }
        let header = Some(self.header(0));
        Ok(Response::new(pb::MemberListResponse { header, members: self.member.members() }))
    }

    async fn member_add(
        &self,
        request: Request<pb::MemberAddRequest>,
    ) -> Result<Response<pb::MemberAddResponse>, Status> {
        self.refuse_limited()?;
        let request = request.into_inner();
        let member = self.member.add_member(&request.peer_ur_ls, request.is_learner).await?;
        let (header, members) = (Some(self.header(0)), self.member.members());
        Ok(Response::new(pb::MemberAddResponse { header, member: Some(member), members }))
    }

    async fn member_remove(
        &self,
        request: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        self.refuse_limited()?;
        self.member.remove_member(MemberId(request.into_inner().id)).await?;
        Ok(Response::new(pb::MemberRemoveResponse { header: Some(self.header(0)), members: self.member.members() }))
    }

    async fn member_update(
        &self,
        request: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        self.refuse_limited()?;
        let request = request.into_inner();
        self.member.update_member(MemberId(request.id), &request.peer_ur_ls).await?;
        Ok(Response::new(pb::MemberUpdateResponse { header: Some(self.header(0)), members: self.member.members() }))
    }

    async fn member_promote(
        &self,
        request: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        self.refuse_limited()?;
        self.member.promote_member(MemberId(request.into_inner().id)).await?;
        Ok(Response::new(pb::MemberPromoteResponse { header: Some(self.header(0)), members: self.member.members() }))
    }
}
