//! The Election service: an election of etcd's client library, run here for callers that have none.

use std::pin::Pin;

use bytes::Bytes;
use futures::Stream;
use futures::stream::unfold;
use kontiki_api::etcdserverpb as pb;
use kontiki_api::mvccpb::KeyValue;
use kontiki_api::mvccpb::event::EventType;
use kontiki_api::v3electionpb::election_server::Election;
use kontiki_api::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest, ProclaimResponse,
    ResignRequest, ResignResponse,
};
use pb::request_op::Request as Operation;
use tonic::{Request, Response, Status};

use super::Edge;
use super::access::split;
use super::concurrency::{Events, Session, Withdraw, by_creation, get, if_created_at, key_of, prefix_of, put, ranged};

type Leaders = Pin<Box<dyn Stream<Item = Result<LeaderResponse, Status>> + Send>>;

fn not_leader() -> Status {
    Status::unknown("election: not leader")
}

fn provided(leader: Option<LeaderKey>) -> Result<LeaderKey, Status> {
    leader.ok_or_else(|| Status::unknown("\"leader\" field must be provided"))
}

#[tonic::async_trait]
impl Election for Edge {
    /// Answers when the caller is elected.
    async fn campaign(&self, request: Request<CampaignRequest>) -> Result<Response<CampaignResponse>, Status> {
        let (sender, request) = split(request);
        let session = Session::new(self, sender);
        let lease = session.lease(request.lease).await?;
        let prefix = prefix_of(&request.name);
        let key = key_of(&prefix, lease);
        let stand = if_created_at(&key, 0, vec![put(&key, request.value.clone(), lease)], vec![get(&key)]);
        let standing = session.txn(stand).await?;
        let mut rev = standing.header.as_ref().map_or(0, |header| header.revision);
        let withdraw = Withdraw::new(&session, &key);
        if let (false, Some(mine)) = (standing.succeeded, ranged(&standing, 0).first()) {
            rev = mine.create_revision;
            if mine.value != request.value {
                let leader = LeaderKey { name: request.name.clone(), key: key.clone(), rev, lease };
                proclaim(&session, leader, request.value).await?;
            }
        }
        session.await_predecessors(&prefix, rev - 1).await?;
        withdraw.keep();
        let leader = Some(LeaderKey { name: request.name, key, rev, lease });
        Ok(Response::new(CampaignResponse { header: standing.header, leader }))
    }

    async fn proclaim(&self, request: Request<ProclaimRequest>) -> Result<Response<ProclaimResponse>, Status> {
        let (sender, request) = split(request);
        let leader = provided(request.leader)?;
        let header = proclaim(&Session::new(self, sender), leader, request.value).await?;
        Ok(Response::new(ProclaimResponse { header }))
    }

    async fn leader(&self, request: Request<LeaderRequest>) -> Result<Response<LeaderResponse>, Status> {
        let (sender, request) = split(request);
        let found = Session::new(self, sender).range(by_creation(&prefix_of(&request.name))).await?;
        match found.kvs.into_iter().next() {
            Some(kv) => Ok(Response::new(LeaderResponse { header: found.header, kv: Some(kv) })),
            None => Err(Status::unknown("election: no leader")),
        }
    }

    type ObserveStream = Leaders;

    /// Every leader and every value that it proclaims.
    async fn observe(&self, request: Request<LeaderRequest>) -> Result<Response<Leaders>, Status> {
        let (sender, request) = split(request);
        let prefix = prefix_of(&request.name);
        let observer = Observer { session: Session::new(self, sender), prefix, following: None };
        let leaders = unfold(Some(observer), |observer| async move {
            let mut observer = observer?;
            match observer.next().await {
                Ok(leader) => Some((Ok(leader), Some(observer))),
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(Box::pin(leaders)))
    }

    async fn resign(&self, request: Request<ResignRequest>) -> Result<Response<ResignResponse>, Status> {
        let (sender, request) = split(request);
        let leader = provided(request.leader)?;
        let delete =
            Operation::RequestDeleteRange(pb::DeleteRangeRequest { key: leader.key.clone(), ..Default::default() });
        let answer =
            Session::new(self, sender).txn(if_created_at(&leader.key, leader.rev, vec![delete], vec![])).await?;
        Ok(Response::new(ResignResponse { header: answer.header }))
    }
}

/// Changes the value of one who is still elected.
async fn proclaim(session: &Session, leader: LeaderKey, value: Bytes) -> Result<Option<pb::ResponseHeader>, Status> {
    let change = vec![put(&leader.key, value, leader.lease)];
    let answer = session.txn(if_created_at(&leader.key, leader.rev, change, vec![])).await?;
    if answer.succeeded { Ok(answer.header) } else { Err(not_leader()) }
}

/// Follows an election.
struct Observer {
    session: Session,
    prefix: Bytes,
    /// What happens to the key of the present leader.
    following: Option<Events>,
}

impl Observer {
    async fn next(&mut self) -> Result<LeaderResponse, Status> {
        if let Some(events) = &mut self.following {
            let event = events.next().await?;
            if event.r#type() == EventType::Put {
                return Ok(self.response(event.kv.unwrap_or_default()));
            }
            self.following = None;
        }
        let found = self.session.range(by_creation(&self.prefix)).await?;
        let revision = found.header.as_ref().map_or(0, |header| header.revision);
        let leader = match found.kvs.into_iter().next() {
            Some(leader) => leader,
            None => self.first_after(revision).await?,
        };
        let since = revision.max(leader.mod_revision);
        self.following = Some(self.session.watch(leader.key.clone(), Bytes::new(), since + 1)?);
        let header = found.header.map(|header| pb::ResponseHeader { revision: since, ..header });
        Ok(LeaderResponse { header, kv: Some(leader) })
    }

    /// Nobody stands: the first to do so after `revision`.
    async fn first_after(&self, revision: i64) -> Result<KeyValue, Status> {
        let all = by_creation(&self.prefix);
        let mut events = self.session.watch(all.key, all.range_end, revision + 1)?;
        loop {
            let event = events.next().await?;
            if event.r#type() == EventType::Put {
                return Ok(event.kv.unwrap_or_default());
            }
        }
    }

    fn response(&self, kv: KeyValue) -> LeaderResponse {
        LeaderResponse { header: Some(self.session.header(kv.mod_revision)), kv: Some(kv) }
    }
}
