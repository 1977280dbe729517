//! The KV service.

use std::pin::Pin;

use futures::Stream;
use kontiki_api::etcdserverpb as pb;
use kontiki_api::etcdserverpb::kv_server::Kv;
use prost::Message;
use tonic::{Request, Response, Status};

use super::{Edge, response};
use crate::command::Command;
use crate::error::StoreError;
use crate::ids::Revision;
use crate::state::check;

impl Edge {
    fn check_size(&self, encoded_bytes: usize) -> Result<(), StoreError> {
        if encoded_bytes > self.config.max_request_bytes {
            return Err(StoreError::RequestTooLarge);
        }
        Ok(())
    }
}

type RangeParts = Pin<Box<dyn Stream<Item = Result<pb::RangeStreamResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Kv for Edge {
    async fn range(&self, request: Request<pb::RangeRequest>) -> Result<Response<pb::RangeResponse>, Status> {
        if !request.get_ref().serializable {
            self.refuse_learner()?;
        }
        self.require_known_leader(request.metadata())?;
        let request = request.into_inner();
        check::range(&request)?;
        if !request.serializable {
            self.member.read_barrier().await?;
        }
        let mut answer = self.member.reader().range(&request)?;
        answer.header = self.complete(answer.header);
        Ok(Response::new(answer))
    }

    type RangeStreamStream = RangeParts;

    /// Clients without an answer here fall back to `Range`.
    async fn range_stream(&self, _: Request<pb::RangeRequest>) -> Result<Response<RangeParts>, Status> {
        Err(Status::unimplemented("kontiki: RangeStream is not supported yet"))
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Result<Response<pb::PutResponse>, Status> {
        self.require_leader(request.metadata())?;
        let request = request.into_inner();
        check::put(&request)?;
        self.check_size(request.encoded_len())?;
        let mut answer = response!(self.member.propose(Command::Put(request)).await, Put);
        answer.header = self.complete(answer.header);
        Ok(Response::new(answer))
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        self.require_leader(request.metadata())?;
        let request = request.into_inner();
        check::delete_range(&request)?;
        let mut answer = response!(self.member.propose(Command::DeleteRange(request)).await, DeleteRange);
        answer.header = self.complete(answer.header);
        Ok(Response::new(answer))
    }

    async fn txn(&self, request: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, Status> {
        self.require_leader(request.metadata())?;
        let request = request.into_inner();
        check::txn(&request, self.config.max_txn_ops)?;
        self.check_size(request.encoded_len())?;
        let mut answer = if check::is_read_only(&request) {
            if !check::is_serializable(&request) {
                self.member.read_barrier().await?;
            }
            self.member.reader().txn(&request)?
        } else {
            response!(self.member.propose(Command::Txn(request)).await, Txn)
        };
        answer.header = self.complete(answer.header);
        Ok(Response::new(answer))
    }

    async fn compact(
        &self,
        request: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        self.require_leader(request.metadata())?;
        let request = request.into_inner();
        let (revision, physical) = (Revision(request.revision), request.physical);
        let mut answer = response!(self.member.propose(Command::Compact(request)).await, Compact);
        if physical {
            self.member.reader().compacted_physically(revision).await;
        }
        answer.header = self.complete(answer.header);
        Ok(Response::new(answer))
    }
}
