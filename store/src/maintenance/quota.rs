//! How much a store may hold, and what a request adds to it.
//!
//! A quota is a member's own setting, so it decides nothing in apply: the member refuses before it proposes, and raises
//! the replicated alarm, which then decides for all. The size is that of the stored records; nothing else is ever free
//! but unusable here, so deleting and compacting gives space back by itself.

use kontiki_api::etcdserverpb as pb;
use pb::request_op::Request;

use crate::command::Command;
use crate::limits;

/// What a key takes besides its own bytes; etcd's figure.
const KEY_OVERHEAD_BYTES: u64 = 256;
/// What a lease takes; etcd's figure.
const LEASE_OVERHEAD_BYTES: u64 = 64;

/// The quota in force; none when it is switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota(Option<u64>);

impl Quota {
    /// From etcd's setting: 0 is the default, negative is none.
    #[must_use]
    pub fn of(setting: i64) -> Self {
        Self(match setting {
            0 => Some(limits::QUOTA_BYTES),
            setting => u64::try_from(setting).ok(),
        })
    }

    /// Whether a store of `size` has no room for `cost` more.
    #[must_use]
    pub fn is_exceeded(self, size: u64, cost: u64) -> bool {
        self.0.is_some_and(|quota| size.saturating_add(cost) >= quota)
    }

    #[must_use]
    pub fn bytes(self) -> Option<u64> {
        self.0
    }
}

/// What a command may add to the store at most; 0 for those that need no space.
#[must_use]
pub fn cost(command: &Command) -> u64 {
    match command {
        Command::Put(request) => put(request),
        Command::Txn(request) => txn(request),
        Command::LeaseGrant(_) => LEASE_OVERHEAD_BYTES,
        _ => 0,
    }
}

fn put(request: &pb::PutRequest) -> u64 {
    KEY_OVERHEAD_BYTES + (request.key.len() + request.value.len()) as u64
}

fn txn(request: &pb::TxnRequest) -> u64 {
    let branch = |ops: &[pb::RequestOp]| -> u64 {
        ops.iter()
            .map(|op| match &op.request {
                Some(Request::RequestPut(body)) => put(body),
                Some(Request::RequestTxn(body)) => txn(body),
                _ => 0,
            })
            .sum()
    };
    branch(&request.success).max(branch(&request.failure))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_has_a_default_and_can_be_switched_off() {
        assert_eq!(Quota::of(0).bytes(), Some(2 << 30));
        assert_eq!(Quota::of(-1).bytes(), None);
        assert_eq!(Quota::of(53_248).bytes(), Some(53_248));
        assert!(!Quota::of(-1).is_exceeded(u64::MAX, u64::MAX));
        assert!(Quota::of(100).is_exceeded(99, 1) && !Quota::of(100).is_exceeded(98, 1));
    }

    #[test]
    fn a_transaction_costs_its_dearer_branch() {
        let put = |bytes: usize| pb::RequestOp {
            request: Some(Request::RequestPut(pb::PutRequest { value: vec![0; bytes].into(), ..Default::default() })),
        };
        let inner = pb::TxnRequest { success: vec![put(1)], failure: vec![put(10), put(10)], compare: vec![] };
        let nested = pb::RequestOp { request: Some(Request::RequestTxn(inner)) };
        let outer = pb::TxnRequest { success: vec![put(100)], failure: vec![nested, put(5)], compare: vec![] };
        assert_eq!(cost(&Command::Txn(outer)), 3 * 256 + 25);
        assert_eq!(cost(&Command::Txn(pb::TxnRequest::default())), 0);
        assert_eq!(cost(&Command::LeaseGrant(pb::LeaseGrantRequest::default())), 64);
    }
}
