//! openraft's network on the peer transport.
//!
//! Replication is a stream of appends that is pipelined; heartbeats take the control lane, so that they never wait behind
//! data. Votes always take the control lane, snapshots the bulk lane.

use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::Either;
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{StreamAppendError, StreamAppendResult};
use openraft::{OptionalSend, RPCTypes, RaftNetworkFactory, RaftNetworkV2};

use super::client::{Client, Clients};
use super::granted::{Granted, Search};
use super::snapshot::{SendError, send};
use super::{Kind, Lane, PeerError};
use crate::consensus::state_machine::SnapshotData;
use crate::consensus::types::{
    Address, AppendEntriesRequest, AppendEntriesResponse, LogId, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, Types, Vote, VoteRequest, VoteResponse,
};
use crate::consensus::{Storage, codec, wire};
use crate::ids::MemberId;
use crate::io::clock::Stopwatch;
use crate::limits::{PEER_APPEND_TIMEOUT, PEER_APPENDS_IN_FLIGHT};

/// Makes openraft's view of a peer.
pub struct Network<S> {
    clients: Arc<Clients>,
    granted: Arc<Granted>,
    storage: PhantomData<fn() -> S>,
}

impl<S: Storage> Network<S> {
    #[must_use]
    pub fn new(clients: Arc<Clients>) -> Self {
        Self { clients, granted: Arc::default(), storage: PhantomData }
    }

    fn peer(&self, target: MemberId, address: &Address, (lane, kind): (Lane, Kind)) -> Peer<S> {
        Peer {
            me: self.clients.me().member,
            granted: self.granted.clone(),
            search: Search::new(self.granted.clone(), target),
            kind,
            appends: self.clients.get(target, address, lane),
            control: self.clients.get(target, address, Lane::Control),
            bulk: self.clients.get(target, address, Lane::Bulk),
            storage: PhantomData,
        }
    }
}

impl<S: Storage> RaftNetworkFactory<Types> for Network<S> {
    type Network = Peer<S>;

    async fn new_client(&mut self, target: MemberId, address: &Address) -> Peer<S> {
        self.peer(target, address, (Lane::Append, Kind::Append))
    }

    async fn new_heartbeat_client(&mut self, target: MemberId, address: &Address) -> Peer<S> {
        self.peer(target, address, (Lane::Control, Kind::Heartbeat))
    }
}

/// One peer as openraft calls it.
pub struct Peer<S> {
    me: MemberId,
    granted: Arc<Granted>,
    search: Search,
    /// What its appends are: entries, or heartbeats.
    kind: Kind,
    appends: Arc<Client>,
    control: Arc<Client>,
    bulk: Arc<Client>,
    storage: PhantomData<fn() -> S>,
}

type AppendResult = Result<StreamAppendResult<Types>, RPCError<Types>>;

impl<S: Storage> Peer<S> {
    /// An election message and its answer.
    async fn ask<Q: serde::Serialize, A: serde::de::DeserializeOwned>(
        &self,
        (kind, action): (Kind, RPCTypes),
        question: &Q,
        timeout: Duration,
    ) -> Result<A, RPCError<Types>> {
        let body = Bytes::from(codec::encode(question));
        let answer = match tokio::time::timeout(timeout, self.control.call(kind, body, timeout)).await {
            Ok(answer) => answer.map_err(|error| rpc_error(&error))?,
            Err(_) => {
                let target = self.control.member();
                return Err(RPCError::Timeout(Timeout { action, id: self.me, target, timeout }));
            }
        };
        codec::decode(&answer).map_err(|error| RPCError::Network(NetworkError::new(&error)))
    }
}

/// Openraft waits before it tries an unreachable peer again; a lost connection is tried at once.
fn rpc_error(error: &PeerError) -> RPCError<Types> {
    match error {
        PeerError::NotSent(_) => RPCError::Unreachable(Unreachable::new(error)),
        PeerError::Lost(_) | PeerError::Refused(_) => RPCError::Network(NetworkError::new(error)),
    }
}

/// What an append reaches from and to: its answer does not repeat it.
struct Reach {
    previous: Option<LogId>,
    last: Option<LogId>,
}

impl Reach {
    fn of(request: &AppendEntriesRequest) -> Self {
        let last = request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id);
        Self { previous: request.prev_log_id, last }
    }

    /// The answer in the stream's terms, and whether the stream goes on after it.
    fn result(self, response: AppendEntriesResponse) -> (StreamAppendResult<Types>, bool) {
        let Self { previous, last } = self;
        match response {
            AppendEntriesResponse::Success => (Ok(last), true),
            AppendEntriesResponse::PartialSuccess(upto) => (Ok(upto), upto == last),
            AppendEntriesResponse::Conflict => match previous {
                Some(previous) => (Err(StreamAppendError::Conflict(previous)), false),
                // Nothing comes before the first entry, so nothing can conflict with it.
                None => (Ok(None), false),
            },
            AppendEntriesResponse::HigherVote(vote) => (Err(StreamAppendError::HigherVote(vote)), false),
        }
    }
}

impl<S: Storage> RaftNetworkV2<Types> for Peer<S> {
    type SnapshotData = SnapshotData<S>;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse, RPCError<Types>> {
        let body = wire::encode_append(request);
        let (sent, traffic) = (Stopwatch::start(), self.appends.traffic());
        let answer = self.appends.call(self.kind, body, option.soft_ttl()).await;
        match &answer {
            Ok(_) => traffic.round_trip.observe(sent.elapsed().as_secs_f64()),
            Err(_) => traffic.heartbeat_failures.inc(),
        }
        let answer = answer.map_err(|error| rpc_error(&error))?;
        wire::decode_append_response(answer).map_err(|error| RPCError::Network(NetworkError::new(&error)))
    }

    fn stream_append<'s, I>(
        &'s mut self,
        requests: I,
        _option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, AppendResult>, RPCError<Types>>>
    where
        I: futures::Stream<Item = AppendEntriesRequest> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let connection = self.appends.ordered().await.map_err(|error| rpc_error(&error))?;
            let (search, kind) = (&mut self.search, self.kind);
            let answers = requests.map(move |request| {
                // A heartbeat is to be heard.
                let known = (kind == Kind::Append).then(|| search.answer(&request)).flatten();
                if let Some(known) = known {
                    return Either::Left(futures::future::ready(Ok((Ok(Some(known)), true))));
                }
                let reach = Reach::of(&request);
                // Sent here, in order; the future only waits for the answer.
                let call = connection.call(kind, wire::encode_append(request));
                Either::Right(async move {
                    let call = call.map_err(|error| rpc_error(&error))?;
                    let answer = tokio::time::timeout(PEER_APPEND_TIMEOUT, call)
                        .await
                        .map_err(|_| rpc_error(&PeerError::Lost("an append was not answered".to_owned())))?;
                    let response = wire::decode_append_response(answer.map_err(|error| rpc_error(&error))?)
                        .map_err(|error| RPCError::Network(NetworkError::new(&error)))?;
                    Ok(reach.result(response))
                })
            });
            let results = answers.buffered(PEER_APPENDS_IN_FLIGHT).scan(true, |goes_on, answer| {
                let item = goes_on.then(|| match answer {
                    Ok((result, more)) => {
                        *goes_on = more;
                        Ok(result)
                    }
                    Err(error) => {
                        *goes_on = false;
                        Err(error)
                    }
                });
                futures::future::ready(item)
            });
            Ok(Box::pin(results) as BoxStream<'s, AppendResult>)
        })
    }

    async fn vote(&mut self, request: VoteRequest, option: RPCOption) -> Result<VoteResponse, RPCError<Types>> {
        let response = self.ask((Kind::Vote, RPCTypes::Vote), &request, option.soft_ttl()).await?;
        self.granted.note(self.control.member(), &request, &response);
        Ok(response)
    }

    async fn pre_vote(&mut self, request: VoteRequest, option: RPCOption) -> Result<VoteResponse, RPCError<Types>> {
        self.ask((Kind::PreVote, RPCTypes::Vote), &request, option.soft_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: openraft::alias::SnapshotOf<Types, SnapshotData<S>>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse, StreamingError<Types>> {
        let transfer = std::pin::pin!(send(&self.bulk, vote, snapshot));
        match futures::future::select(transfer, std::pin::pin!(cancel)).await {
            Either::Left((Ok(response), _)) => Ok(response),
            Either::Left((Err(SendError::Peer(error)), _)) => Err(rpc_error(&error).into()),
            Either::Left((Err(error), _)) => Err(StreamingError::Network(NetworkError::new(&error))),
            Either::Right((closed, _)) => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse, RPCError<Types>> {
        self.ask((Kind::TransferLeader, RPCTypes::TransferLeader), &request, option.soft_ttl()).await
    }
}
