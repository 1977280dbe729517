//! The Lease service.

use std::pin::Pin;

use bytes::Bytes;
use futures::stream::unfold;
use futures::{Stream, StreamExt};
use kontiki_api::etcdserverpb as pb;
use kontiki_api::etcdserverpb::lease_server::Lease;
use tonic::{Request, Response, Status};

use super::access::{Sender, split};
use super::{Edge, response};
use crate::command::Command;
use crate::error::StoreError;
use crate::ids::LeaseId;
use crate::io::random::{Random, SystemRandom};
use crate::limits;

impl Edge {
    /// Renews a lease for whoever may write all of its keys.
    async fn keep_alive(&self, sender: &Sender, lease: LeaseId) -> Result<i64, StoreError> {
        let caller = self.caller(sender).await?;
        if self.member.reader().auth_enabled() {
            self.member.reader().may_use_lease(&caller, lease)?;
        }
        self.member.keep_alive(lease).await
    }

    async fn identify_user(&self, sender: &Sender) -> Result<(), StoreError> {
        let caller = self.caller(sender).await?;
        Ok(self.member.reader().auth().require_user(&caller)?)
    }

    /// The keys that hang on a lease, for whoever may read all of them.
    async fn lease_keys(&self, sender: &Sender, lease: LeaseId) -> Result<Vec<Bytes>, StoreError> {
        let caller = self.caller(sender).await?;
        let reader = self.member.reader();
        let Some((_, keys)) = reader.lease_keys(lease) else { return Ok(Vec::new()) };
        if reader.auth_enabled() {
            // The permissions after the keys: who was shut out before one was attached does not see it.
            reader.auth().may_read_keys(&caller, keys.iter().map(|key| &**key))?;
        }
        Ok(keys)
    }

    /// All leases, for whoever may read every key that hangs on one.
    async fn leases(&self, sender: &Sender) -> Result<Vec<(LeaseId, i64)>, StoreError> {
        let caller = self.caller(sender).await?;
        let reader = self.member.reader();
        let leases = reader.leases();
        if reader.auth_enabled() {
            let keys = |lease: &(LeaseId, i64)| reader.lease_keys(lease.0).map_or_else(Vec::new, |(_, keys)| keys);
            let auth = reader.auth();
            auth.require_user(&caller)?;
            for lease in &leases {
                auth.may_read_keys(&caller, keys(lease).iter().map(|key| &**key))?;
            }
        }
        Ok(leases)
    }
}

type KeepAlives = Pin<Box<dyn Stream<Item = Result<pb::LeaseKeepAliveResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Lease for Edge {
    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        self.refuse_limited()?;
        let (sender, mut request) = split(request);
        if request.ttl > limits::LEASE_TTL_MAX_S {
            return Err(StoreError::LeaseTtlTooLarge.into());
        }
        request.ttl = request.ttl.max(self.config.lease_ttl_min_s);
        while request.id == 0 {
            // Clients print and compare it as a positive number.
            request.id = i64::try_from(SystemRandom.next_u64() >> 1).expect("63 bits fit");
        }
        let caller = self.caller(&sender).await?;
        let command = Command::LeaseGrant(request);
        let mut answer = response!(self.member.propose_as(&caller, command).await, LeaseGrant);
        answer.header = self.complete(answer.header);
        Ok(Response::new(answer))
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        self.refuse_limited()?;
        let (sender, request) = split(request);
        let caller = self.caller(&sender).await?;
        let command = Command::LeaseRevoke(request);
        let mut answer = response!(self.member.propose_as(&caller, command).await, LeaseRevoke);
        answer.header = self.complete(answer.header);
        Ok(Response::new(answer))
    }

    type LeaseKeepAliveStream = KeepAlives;

    async fn lease_keep_alive(
        &self,
        request: Request<tonic::Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<KeepAlives>, Status> {
        self.refuse_limited()?;
        let (sender, requests) = split(request);
        let state = (self.clone(), sender, requests, false);
        // One answer for each request, in order; an error ends the stream, as the client then opens another.
        let answers = unfold(state, |(edge, sender, mut requests, ended)| async move {
            if ended {
                return None;
            }
            let request = match requests.next().await? {
                Ok(request) => request,
                Err(status) => return Some((Err(status), (edge, sender, requests, true))),
            };
            let header = Some(edge.header_now());
            match edge.keep_alive(&sender, LeaseId(request.id)).await {
                Ok(ttl) => {
                    let answer = pb::LeaseKeepAliveResponse { header, id: request.id, ttl };
                    Some((Ok(answer), (edge, sender, requests, false)))
                }
                Err(error) => Some((Err(error.into()), (edge, sender, requests, true))),
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        self.refuse_limited()?;
        let (sender, request) = split(request);
        self.identify_user(&sender).await?;
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
            answer.keys = self.lease_keys(&sender, LeaseId(request.id)).await?;
        }
        Ok(Response::new(answer))
    }

    async fn lease_leases(
        &self,
        request: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        self.refuse_limited()?;
        let (sender, _) = split(request);
        let leases = self.leases(&sender).await?;
        let leases = leases.into_iter().map(|(id, _)| pb::LeaseStatus { id: id.0 }).collect();
        Ok(Response::new(pb::LeaseLeasesResponse { header: Some(self.header_now()), leases }))
    }
}
