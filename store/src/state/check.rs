//! Checks of requests that need no state: done before a command is proposed, so that the log holds only sound ones.

use std::ops::Bound;

use bytes::Bytes;
use kontiki_api::etcdserverpb as pb;
use pb::request_op::Request;

use crate::error::StoreError;
use crate::mvcc::interval::Interval;

/// # Errors
/// `EmptyKey`, `InvalidSortOption`.
pub fn range(request: &pb::RangeRequest) -> Result<(), StoreError> {
    if request.key.is_empty() {
        return Err(StoreError::EmptyKey);
    }
    let known_order = pb::range_request::SortOrder::try_from(request.sort_order).is_ok();
    let known_target = pb::range_request::SortTarget::try_from(request.sort_target).is_ok();
    if known_order && known_target { Ok(()) } else { Err(StoreError::InvalidSortOption) }
}

/// # Errors
/// `EmptyKey`, `ValueProvided`, `LeaseProvided`.
pub fn put(request: &pb::PutRequest) -> Result<(), StoreError> {
    if request.key.is_empty() {
        return Err(StoreError::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(StoreError::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(StoreError::LeaseProvided);
    }
    Ok(())
}

/// # Errors
/// `EmptyKey`.
pub fn delete_range(request: &pb::DeleteRangeRequest) -> Result<(), StoreError> {
    if request.key.is_empty() { Err(StoreError::EmptyKey) } else { Ok(()) }
}

/// # Errors
/// `TooManyOps`, `EmptyKey`, `KeyNotFound` (an operation without a request), `DuplicateKey` and those of the operations.
pub fn txn(request: &pb::TxnRequest, max_ops: usize) -> Result<(), StoreError> {
    txn_shape(request, max_ops)?;
    duplicates(&request.success)?;
    duplicates(&request.failure)?;
    Ok(())
}

/// Whether it can be answered without the log: top-level ranges only. A nested transaction makes it a write for etcd.
#[must_use]
pub fn is_read_only(request: &pb::TxnRequest) -> bool {
    request.success.iter().chain(&request.failure).all(|op| matches!(op.request, Some(Request::RequestRange(_))))
}

/// Whether every operation is a serializable range, so that local state may answer.
#[must_use]
pub fn is_serializable(request: &pb::TxnRequest) -> bool {
    request
        .success
        .iter()
        .chain(&request.failure)
        .all(|op| matches!(&op.request, Some(Request::RequestRange(range)) if range.serializable))
}

fn txn_shape(request: &pb::TxnRequest, max_ops: usize) -> Result<(), StoreError> {
    let ops = request.compare.len().max(request.success.len()).max(request.failure.len());
    if ops > max_ops {
        return Err(StoreError::TooManyOps);
    }
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(StoreError::EmptyKey);
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(Request::RequestRange(body)) => range(body)?,
            Some(Request::RequestPut(body)) => put(body)?,
            Some(Request::RequestDeleteRange(body)) => delete_range(body)?,
            // A nested transaction uses up the operations of its parent, which also bounds the depth.
            Some(Request::RequestTxn(body)) => txn_shape(body, max_ops - ops)?,
            None => return Err(StoreError::KeyNotFound),
        }
    }
    Ok(())
}

/// What one executable path may change: keys put once, and intervals deleted.
#[derive(Default)]
struct Changes {
    puts: std::collections::BTreeSet<Bytes>,
    deletes: Vec<Interval>,
}

impl Changes {
    /// Whether a put of one touches a change of the other.
    fn conflicts(&self, other: &Changes) -> bool {
        let puts_meet = {
            let (few, many) = if self.puts.len() <= other.puts.len() { (self, other) } else { (other, self) };
            few.puts.iter().any(|key| many.puts.contains(key))
        };
        puts_meet || deletes_put(&self.deletes, &other.puts) || deletes_put(&other.deletes, &self.puts)
    }

    fn absorb(&mut self, other: Changes) {
        self.puts.extend(other.puts);
        self.deletes.extend(other.deletes);
    }
}

fn deletes_put(deletes: &[Interval], puts: &std::collections::BTreeSet<Bytes>) -> bool {
    deletes.iter().any(|interval| match interval.bounds() {
        Some((start, end)) => puts.range::<[u8], _>((Bound::Included(start), end)).next().is_some(),
        None => false,
    })
}

/// Every change of one branch, or `DuplicateKey` when some path through it changes a key twice with a put involved. The
/// two branches of a nested transaction exclude each other, so they are not held against one another.
fn duplicates(ops: &[pb::RequestOp]) -> Result<Changes, StoreError> {
    let mut all = Changes::default();
    for op in ops {
        let mut own = Changes::default();
        match &op.request {
            Some(Request::RequestPut(body)) => {
                own.puts.insert(body.key.clone());
            }
            Some(Request::RequestDeleteRange(body)) => own.deletes.push(Interval::of(&body.key, &body.range_end)),
            Some(Request::RequestTxn(body)) => {
                own = duplicates(&body.success)?;
                own.absorb(duplicates(&body.failure)?);
            }
            Some(Request::RequestRange(_)) | None => {}
        }
        if all.conflicts(&own) {
            return Err(StoreError::DuplicateKey);
        }
        all.absorb(own);
    }
    Ok(all)
}
