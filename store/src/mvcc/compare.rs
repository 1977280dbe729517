//! Which way a transaction goes: its compares, all against the state before it.

use std::cmp::Ordering;

use kontiki_api::etcdserverpb as pb;
use kontiki_api::mvccpb::KeyValue;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::request_op::Request;

use super::index::At;
use super::interval::Interval;
use super::range::{self, Gone, View};

/// The branch taken, and those of the nested transactions in it, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    pub succeeded: bool,
    pub nested: Vec<Path>,
}

/// # Errors
/// [`Gone`] as for a range.
pub fn path(view: View, at: At, txn: &pb::TxnRequest) -> Result<Path, Gone> {
    let mut succeeded = true;
    for compare in &txn.compare {
        if !holds(view, at, compare)? {
            succeeded = false;
            break;
        }
    }
    let mut nested = Vec::new();
    for op in branch(txn, succeeded) {
        if let Some(Request::RequestTxn(inner)) = &op.request {
            nested.push(path(view, at, inner)?);
        }
    }
    Ok(Path { succeeded, nested })
}

/// The operations of the branch taken.
#[must_use]
pub fn branch(txn: &pb::TxnRequest, succeeded: bool) -> &[pb::RequestOp] {
    if succeeded { &txn.success } else { &txn.failure }
}

/// Whether a compare holds for every key it names. A range without keys, like a missing key, compares as all zeros, and
/// never holds for a value.
fn holds(view: View, at: At, compare: &pb::Compare) -> Result<bool, Gone> {
    let interval = Interval::of(&compare.key, &compare.range_end);
    let of_value = compare.target() == CompareTarget::Value;
    let kvs = range::all(view, at, &interval, !of_value)?;
    if kvs.is_empty() {
        return Ok(!of_value && holds_for(compare, &KeyValue::default()));
    }
    Ok(kvs.iter().all(|kv| holds_for(compare, kv)))
}

fn holds_for(compare: &pb::Compare, kv: &KeyValue) -> bool {
    let operand = &compare.target_union;
    // An operand of another target than the one named counts as zero, as in etcd.
    let order = match compare.target() {
        CompareTarget::Version => kv.version.cmp(&int(operand, |o| match o {
            TargetUnion::Version(n) => Some(*n),
            _ => None,
        })),
        CompareTarget::Create => kv.create_revision.cmp(&int(operand, |o| match o {
            TargetUnion::CreateRevision(n) => Some(*n),
            _ => None,
        })),
        CompareTarget::Mod => kv.mod_revision.cmp(&int(operand, |o| match o {
            TargetUnion::ModRevision(n) => Some(*n),
            _ => None,
        })),
        CompareTarget::Lease => kv.lease.cmp(&int(operand, |o| match o {
            TargetUnion::Lease(n) => Some(*n),
            _ => None,
        })),
        CompareTarget::Value => match operand {
            Some(TargetUnion::Value(value)) => kv.value.cmp(value),
            _ => kv.value.as_ref().cmp(&[]),
        },
    };
    match compare.result() {
        CompareResult::Equal => order == Ordering::Equal,
        CompareResult::NotEqual => order != Ordering::Equal,
        CompareResult::Greater => order == Ordering::Greater,
        CompareResult::Less => order == Ordering::Less,
    }
}

fn int(operand: &Option<TargetUnion>, pick: impl Fn(&TargetUnion) -> Option<i64>) -> i64 {
    operand.as_ref().and_then(pick).unwrap_or(0)
}
