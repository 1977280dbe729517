//! The KV service.

use kontiki_api::etcdserverpb as pb;
use kontiki_api::etcdserverpb::kv_server::Kv;
use prost::Message;
use tonic::{Request, Response, Status};

use super::access::split;
use super::range_stream;
use super::{Edge, response};
use crate::auth::{AuthState, Caller};
use crate::command::Command;
use crate::error::StoreError;
use crate::ids::Revision;
use crate::io::clock::Stopwatch;
use crate::metrics::RequestKind;
use crate::state::check;

impl Edge {
    fn check_size(&self, encoded_bytes: usize) -> Result<(), StoreError> {
        if encoded_bytes > self.config.max_request_bytes {
            return Err(StoreError::RequestTooLarge);
        }
        Ok(())
    }

    /// Reads, after everything that was committed before unless the read is serializable, and notes how long that took.
    async fn read_settled<T>(
        &self,
        kind: RequestKind,
        serializable: bool,
        read: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let since = Stopwatch::start();
        let settled = if serializable { Ok(()) } else { self.member.read_barrier().await };
        let answer = match settled {
            Ok(()) => read.await,
            Err(error) => Err(error),
        };
        self.member.metrics().requests.note(kind, answer.is_ok(), since.elapsed());
        answer
    }
}

#[tonic::async_trait]
impl Kv for Edge {
    async fn range(&self, request: Request<pb::RangeRequest>) -> Result<Response<pb::RangeResponse>, Status> {
        if !request.get_ref().serializable {
            self.refuse_learner()?;
        }
        self.refuse_quarantined()?;
        let (sender, request) = split(request);
        check::range(&request)?;
        let read = || self.member.reader().range(&request);
        let may = |auth: &AuthState, caller: &Caller| auth.may_read(caller, &request.key, &request.range_end);
        let read = self.read_settled(RequestKind::Range, request.serializable, self.read_as(&sender, may, read));
        let mut answer = read.await?;
        answer.header = self.complete(answer.header);
        Ok(Response::new(answer))
    }

    type RangeStreamStream = range_stream::Parts;

    async fn range_stream(&self, request: Request<pb::RangeRequest>) -> Result<Response<range_stream::Parts>, Status> {
        self.refuse_limited()?;
        let (sender, request) = split(request);
        Ok(Response::new(range_stream::start(self.clone(), sender, request).await?))
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Result<Response<pb::PutResponse>, Status> {
        self.refuse_limited()?;
        let (sender, request) = split(request);
        check::put(&request)?;
        self.check_size(request.encoded_len())?;
        let caller = self.caller(&sender).await?;
        let mut answer = response!(self.member.propose_as(&caller, Command::Put(request)).await, Put);
        answer.header = self.complete(answer.header);
        Ok(Response::new(answer))
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        self.refuse_limited()?;
        let (sender, request) = split(request);
        check::delete_range(&request)?;
        let caller = self.caller(&sender).await?;
        let command = Command::DeleteRange(request);
        let mut answer = response!(self.member.propose_as(&caller, command).await, DeleteRange);
        answer.header = self.complete(answer.header);
        Ok(Response::new(answer))
    }

    async fn txn(&self, request: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, Status> {
        self.refuse_limited()?;
        let (sender, request) = split(request);
        check::txn(&request, self.config.max_txn_ops)?;
        self.check_size(request.encoded_len())?;
        let mut answer = if check::is_read_only(&request) {
            let (reader, serializable) = (self.member.reader(), check::is_serializable(&request));
            let may = |auth: &AuthState, caller: &Caller| reader.may_txn(auth, caller, &request);
            let read = self.read_as(&sender, may, || reader.txn(&request));
            self.read_settled(RequestKind::ReadonlyTxn, serializable, read).await?
        } else {
            let caller = self.caller(&sender).await?;
            response!(self.member.propose_as(&caller, Command::Txn(request)).await, Txn)
        };
        answer.header = self.complete(answer.header);
        Ok(Response::new(answer))
    }

    async fn compact(
        &self,
        request: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        self.refuse_limited()?;
        let (sender, request) = split(request);
        let (revision, physical) = (Revision(request.revision), request.physical);
        let caller = self.caller(&sender).await?;
        let mut answer = response!(self.member.propose_as(&caller, Command::Compact(request)).await, Compact);
        if physical {
            self.member.reader().compacted_physically(revision).await;
        }
        answer.header = self.complete(answer.header);
        Ok(Response::new(answer))
    }
}
