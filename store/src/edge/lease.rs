//! The Lease service.

use std::pin::Pin;

use futures::stream::unfold;
use futures::{Stream, StreamExt};
use kontiki_api::etcdserverpb as pb;
use kontiki_api::etcdserverpb::lease_server::Lease;
use tonic::{Request, Response, Status};

use super::{Edge, response};
use crate::command::Command;
use crate::error::StoreError;
use crate::ids::LeaseId;
use crate::io::random::{Random, SystemRandom};
use crate::limits;

type KeepAlives = Pin<Box<dyn Stream<Item = Result<pb::LeaseKeepAliveResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Lease for Edge {
    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        self.require_leader(request.metadata())?;
        let mut request = request.into_inner();
        if request.ttl > limits::LEASE_TTL_MAX_S {
            return Err(StoreError::LeaseTtlTooLarge.into());
        }
        request.ttl = request.ttl.max(self.config.lease_ttl_min_s);
        while request.id == 0 {
            // Clients print and compare it as a positive number.
            request.id = i64::try_from(SystemRandom.next_u64() >> 1).expect("63 bits fit");
        }
        let mut answer = response!(self.member.propose(Command::LeaseGrant(request)).await, LeaseGrant);
        answer.header = self.complete(answer.header);
        Ok(Response::new(answer))
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        self.require_leader(request.metadata())?;
        let command = Command::LeaseRevoke(request.into_inner());
        let mut answer = response!(self.member.propose(command).await, LeaseRevoke);
        answer.header = self.complete(answer.header);
        Ok(Response::new(answer))
    }

    type LeaseKeepAliveStream = KeepAlives;

    async fn lease_keep_alive(
        &self,
        request: Request<tonic::Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<KeepAlives>, Status> {
        self.require_leader(request.metadata())?;
        let state = (self.clone(), request.into_inner(), false);
        // One answer for each request, in order; an error ends the stream, as the client then opens another.
        let answers = unfold(state, |(edge, mut requests, ended)| async move {
            if ended {
                return None;
            }
            let request = match requests.next().await? {
                Ok(request) => request,
                Err(status) => return Some((Err(status), (edge, requests, true))),
            };
            let header = Some(edge.header_now());
            match edge.member.keep_alive(LeaseId(request.id)).await {
                Ok(ttl) => {
                    let answer = pb::LeaseKeepAliveResponse { header, id: request.id, ttl };
                    Some((Ok(answer), (edge, requests, false)))
                }
                Err(error) => Some((Err(error.into()), (edge, requests, true))),
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        self.require_leader(request.metadata())?;
        let request = request.into_inner();
        let times = self.member.time_to_live(LeaseId(request.id)).await?;
        let mut answer = pb::LeaseTimeToLiveResponse {
            header: Some(self.header_now()),
            id: request.id,
            ttl: times.map_or(-1, |times| times.remaining_s),
            granted_ttl: times.map_or(0, |times| times.granted_s),
            keys: Vec::new(),
        };
        if request.keys && times.is_some() {
            self.member.read_barrier().await?;
            if let Some((_, keys)) = self.member.reader().lease_keys(LeaseId(request.id)) {
                answer.keys = keys;
            }
        }
        Ok(Response::new(answer))
    }

    async fn lease_leases(
        &self,
        request: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        self.require_leader(request.metadata())?;
        let leases = self.member.reader().leases();
        let leases = leases.into_iter().map(|(id, _)| pb::LeaseStatus { id: id.0 }).collect();
        Ok(Response::new(pb::LeaseLeasesResponse { header: Some(self.header_now()), leases }))
    }
}
