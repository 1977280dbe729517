//! Requests drawn from a seed over few keys, so that they meet each other.

use bytes::Bytes;
use kontiki_api::etcdserverpb as pb;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::request_op::Request;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::ask::Ask;

/// A source of requests; it follows the revision roughly, so that old, current and future ones are asked for.
pub struct Requests {
    random: StdRng,
    writes: i64,
    compacted: i64,
}

const KEYS: [&str; 8] = ["a", "aa", "ab", "b", "ba", "c", "d", "\0"];
const ENDS: [&str; 9] = ["", "", "", "ab", "b", "c", "e", "\0", "a"];
const LEASES: [i64; 4] = [0, 0, 7, 8];
/// Transactions within transactions. Those within delete nothing: where one puts a key and a later one deletes it, etcd's
/// check for that does not look, and here it does.
const DEPTH: u32 = 2;

impl Requests {
    pub fn new(seed: u64) -> Self {
        Self { random: StdRng::seed_from_u64(seed), writes: 1, compacted: 0 }
    }

    pub fn next(&mut self) -> Ask {
        match self.random.random_range(0..100) {
            0..30 => Ask::Put(self.put()),
            30..55 => Ask::Range(self.range()),
            55..65 => Ask::DeleteRange(self.delete()),
            65..88 => Ask::Txn(self.txn(DEPTH)),
            88..90 => self.compact(),
            90..93 => Ask::LeaseGrant(pb::LeaseGrantRequest { ttl: 1000, id: self.random.random_range(7..10) }),
            93..95 => Ask::LeaseRevoke(pb::LeaseRevokeRequest { id: self.random.random_range(7..10) }),
            95..97 => Ask::LeaseLeases,
            97..99 => Ask::HashKv(pb::HashKvRequest { revision: self.revision() }),
            _ => Ask::Range(pb::RangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() }),
        }
    }

    fn key(&mut self) -> Bytes {
        Bytes::from_static(KEYS.choose(&mut self.random).unwrap().as_bytes())
    }

    fn end(&mut self) -> Bytes {
        Bytes::from_static(ENDS.choose(&mut self.random).unwrap().as_bytes())
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    fn revision(&mut self) -> i64 {
        match self.random.random_range(0..10) {
            0..6 => 0,
            6..9 => self.random.random_range(1..=self.writes.max(1)),
            _ => self.writes + 1000,
        }
    }

    fn put(&mut self) -> pb::PutRequest {
        self.writes += 1;
        let (ignore_value, ignore_lease) = (self.chance(5), self.chance(5));
        let value =
            if ignore_value && self.chance(80) { "" } else { *["x", "y", "z", ""].choose(&mut self.random).unwrap() };
        let lease = if ignore_lease && self.chance(80) { 0 } else { *LEASES.choose(&mut self.random).unwrap() };
        pb::PutRequest {
            key: self.key(),
            value: Bytes::from_static(value.as_bytes()),
            lease,
            prev_kv: self.chance(50),
            ignore_value,
            ignore_lease,
        }
    }

    fn range(&mut self) -> pb::RangeRequest {
        let bound = |random: &mut StdRng, writes: i64| {
            if random.random_range(0..10) == 0 { random.random_range(1..=writes.max(1)) } else { 0 }
        };
        pb::RangeRequest {
            key: self.key(),
            range_end: self.end(),
            limit: *[0, 0, 0, 1, 2, 3].choose(&mut self.random).unwrap(),
            revision: self.revision(),
            sort_order: self.random.random_range(0..3),
            sort_target: self.random.random_range(0..5),
            serializable: self.chance(30),
            keys_only: self.chance(10),
            count_only: self.chance(10),
            min_mod_revision: bound(&mut self.random, self.writes),
            max_mod_revision: bound(&mut self.random, self.writes),
            min_create_revision: bound(&mut self.random, self.writes),
            max_create_revision: bound(&mut self.random, self.writes),
        }
    }

    fn delete(&mut self) -> pb::DeleteRangeRequest {
        self.writes += 1;
        pb::DeleteRangeRequest { key: self.key(), range_end: self.end(), prev_kv: self.chance(50) }
    }

    fn compare(&mut self) -> pb::Compare {
        let number = self.random.random_range(0..4);
        let target = match self.random.random_range(0..5) {
            0 => TargetUnion::Version(number),
            1 => TargetUnion::CreateRevision(self.random.random_range(0..=self.writes)),
            2 => TargetUnion::ModRevision(self.random.random_range(0..=self.writes)),
            3 => TargetUnion::Value(Bytes::from_static(b"x")),
            _ => TargetUnion::Lease(*LEASES.choose(&mut self.random).unwrap()),
        };
        let kind = match &target {
            TargetUnion::Version(_) => CompareTarget::Version,
            TargetUnion::CreateRevision(_) => CompareTarget::Create,
            TargetUnion::ModRevision(_) => CompareTarget::Mod,
            TargetUnion::Value(_) => CompareTarget::Value,
            TargetUnion::Lease(_) => CompareTarget::Lease,
        };
        let results = [CompareResult::Equal, CompareResult::Greater, CompareResult::Less, CompareResult::NotEqual];
        pb::Compare {
            result: (*results.choose(&mut self.random).unwrap()).into(),
            target: kind.into(),
            key: self.key(),
            range_end: if self.chance(30) { self.end() } else { Bytes::new() },
            target_union: Some(target),
        }
    }

    fn txn(&mut self, depth: u32) -> pb::TxnRequest {
        let compares = self.random.random_range(0..3);
        let (successes, failures) = (self.random.random_range(0..4), self.random.random_range(0..3));
        pb::TxnRequest {
            compare: (0..compares).map(|_| self.compare()).collect(),
            success: (0..successes).map(|_| self.operation(depth)).collect(),
            failure: (0..failures).map(|_| self.operation(depth)).collect(),
        }
    }

    fn operation(&mut self, depth: u32) -> pb::RequestOp {
        let request = match self.random.random_range(0..10) {
            0..4 => Request::RequestPut(self.put()),
            4..7 => Request::RequestRange(self.range()),
            7..9 if depth == DEPTH => Request::RequestDeleteRange(self.bounded_delete()),
            9 if depth > 0 => Request::RequestTxn(self.txn(depth - 1)),
            _ => Request::RequestPut(self.put()),
        };
        pb::RequestOp { request: Some(request) }
    }

    /// In a transaction, no unbounded end: etcd's check for a put and a deletion of the same key takes that end for an empty
    /// range and lets both happen in one revision. Here it is refused like any other.
    fn bounded_delete(&mut self) -> pb::DeleteRangeRequest {
        let delete = self.delete();
        let range_end = if delete.range_end == "\0" { Bytes::from_static(b"x") } else { delete.range_end };
        pb::DeleteRangeRequest { range_end, ..delete }
    }

    /// Far enough behind the newest revision that no version of etcd keeps a tombstone that another drops: 3.4 and 3.6
    /// differ in whether one exactly at the compacted revision stays, which ranges and counts do not show.
    fn compact(&mut self) -> Ask {
        self.compacted = (self.compacted + self.random.random_range(0..20)).min(self.writes);
        Ask::Compact(pb::CompactionRequest { revision: self.compacted, physical: self.chance(50) })
    }
}
