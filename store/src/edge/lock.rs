//! The Lock service: a mutex of etcd's client library, run here for callers that have none.

use bytes::Bytes;
use kontiki_api::v3lockpb::lock_server::Lock;
use kontiki_api::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};
use tonic::{Request, Response, Status};

use super::Edge;
use super::access::split;
use super::concurrency::{Session, Withdraw, by_creation, get, if_created_at, key_of, prefix_of, put, ranged};
use pb::request_op::Request as Operation;

use kontiki_api::etcdserverpb as pb;

#[tonic::async_trait]
impl Lock for Edge {
    /// Answers when the caller holds the lock, with the key that stands for it.
    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        let (sender, request) = split(request);
        let session = Session::new(self, sender);
        let lease = session.lease(request.lease).await?;
        let prefix = prefix_of(&request.name);
        let key = key_of(&prefix, lease);
        let owner = || Operation::RequestRange(by_creation(&prefix));
        let claim = if_created_at(&key, 0, vec![put(&key, Bytes::new(), lease), owner()], vec![get(&key), owner()]);
        let claimed = session.txn(claim).await?;
        let revision = match claimed.succeeded {
            true => claimed.header.as_ref().map_or(0, |header| header.revision),
            false => ranged(&claimed, 0).first().map_or(0, |mine| mine.create_revision),
        };
        if ranged(&claimed, 1).first().is_none_or(|owner| owner.create_revision == revision) {
            return Ok(Response::new(LockResponse { header: claimed.header, key }));
        }
        let withdraw = Withdraw::new(&session, &key);
        session.await_predecessors(&prefix, revision - 1).await?;
        let mine = session.range(pb::RangeRequest { key: key.clone(), ..Default::default() }).await?;
        if mine.kvs.is_empty() {
            return Err(Status::unknown("mutex: session is expired"));
        }
        withdraw.keep();
        Ok(Response::new(LockResponse { header: mine.header, key }))
    }

    async fn unlock(&self, request: Request<UnlockRequest>) -> Result<Response<UnlockResponse>, Status> {
        let (sender, request) = split(request);
        let deleted = Session::new(self, sender).delete(request.key).await?;
        Ok(Response::new(UnlockResponse { header: deleted.header }))
    }
}
