use bytes::Bytes;
use kontiki_api::etcdserverpb as pb;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::response_op::Response;

use crate::error::StoreError;
use crate::state::testing::{Harness, delete_op, pairs, put, put_op, range, range_op, txn, txn_op};

fn compare(key: &str, target: CompareTarget, result: CompareResult, operand: TargetUnion) -> pb::Compare {
    pb::Compare {
        result: result.into(),
        target: target.into(),
        key: Bytes::copy_from_slice(key.as_bytes()),
        range_end: Bytes::new(),
        target_union: Some(operand),
    }
}

fn created(key: &str, revision: i64) -> pb::Compare {
    compare(key, CompareTarget::Create, CompareResult::Equal, TargetUnion::CreateRevision(revision))
}

fn value(key: &str, result: CompareResult, value: &str) -> pb::Compare {
    let operand = TargetUnion::Value(Bytes::copy_from_slice(value.as_bytes()));
    compare(key, CompareTarget::Value, result, operand)
}

fn succeeds(harness: &mut Harness, compare: pb::Compare) -> bool {
    let request = pb::TxnRequest { compare: vec![compare], ..pb::TxnRequest::default() };
    let by_reader = harness.reader().txn(&request).unwrap().succeeded;
    let by_writer = harness.txn(request).unwrap().succeeded;
    assert_eq!(by_reader, by_writer);
    by_writer
}

#[test]
fn all_changes_share_one_revision_and_ranges_see_earlier_ones() {
    let mut harness = Harness::new();
    harness.put("a", "1");
    let response = harness
        .txn(txn(vec![
            range_op(range("a", "z")),
            put_op("b", "2"),
            range_op(range("a", "z")),
            delete_op("a", ""),
            range_op(range("a", "z")),
        ]))
        .unwrap();
    assert_eq!((response.header.unwrap().revision, harness.revision()), (3, 3));
    let ranges: Vec<_> = response
        .responses
        .iter()
        .filter_map(|op| match &op.response {
            Some(Response::ResponseRange(range)) => {
                assert_eq!(range.count, i64::try_from(range.kvs.len()).unwrap());
                Some((pairs(&range.kvs).join(" "), range.header.as_ref().unwrap().revision))
            }
            _ => None,
        })
        .collect();
    let expected = [("a=1", 2), ("a=1 b=2", 3), ("b=2", 3)];
    assert_eq!(ranges, expected.map(|(text, revision)| (text.to_owned(), revision)));
    assert_eq!(harness.get("b").unwrap().mod_revision, 3);
}

#[test]
fn a_txn_without_a_change_takes_no_revision() {
    let mut harness = Harness::new();
    harness.put("a", "1");
    let response = harness.txn(txn(vec![delete_op("x", ""), range_op(range("a", ""))])).unwrap();
    assert_eq!((response.header.unwrap().revision, harness.revision()), (2, 2));
}

#[test]
fn create_if_absent_succeeds_once() {
    let mut harness = Harness::new();
    let request = || pb::TxnRequest {
        compare: vec![created("a", 0)],
        success: vec![put_op("a", "1")],
        failure: vec![range_op(range("a", ""))],
    };
    assert!(harness.txn(request()).unwrap().succeeded);
    let response = harness.txn(request()).unwrap();
    assert!(!response.succeeded);
    let Some(Response::ResponseRange(range)) = &response.responses[0].response else { panic!() };
    assert_eq!(pairs(&range.kvs), ["a=1"]);
}

#[test]
fn a_missing_key_compares_as_zeros_but_never_by_value() {
    let mut harness = Harness::new();
    for (target, zero) in [
        (CompareTarget::Version, TargetUnion::Version(0)),
        (CompareTarget::Create, TargetUnion::CreateRevision(0)),
        (CompareTarget::Mod, TargetUnion::ModRevision(0)),
        (CompareTarget::Lease, TargetUnion::Lease(0)),
    ] {
        assert!(succeeds(&mut harness, compare("x", target, CompareResult::Equal, zero.clone())));
        assert!(!succeeds(&mut harness, compare("x", target, CompareResult::Greater, zero)));
    }
    for result in [CompareResult::Equal, CompareResult::NotEqual, CompareResult::Less, CompareResult::Greater] {
        assert!(!succeeds(&mut harness, value("x", result, "")));
    }
}

#[test]
fn compares_order_values_and_revisions() {
    let mut harness = Harness::new();
    harness.put("a", "m");
    for (result, operand, holds) in [
        (CompareResult::Equal, "m", true),
        (CompareResult::NotEqual, "m", false),
        (CompareResult::Greater, "l", true),
        (CompareResult::Greater, "m", false),
        (CompareResult::Less, "n", true),
    ] {
        assert_eq!(succeeds(&mut harness, value("a", result, operand)), holds, "{result:?} {operand}");
    }
    let modified = |result, revision| compare("a", CompareTarget::Mod, result, TargetUnion::ModRevision(revision));
    assert!(succeeds(&mut harness, modified(CompareResult::Equal, 2)));
    assert!(succeeds(&mut harness, modified(CompareResult::Less, 3)));
    assert!(!succeeds(&mut harness, modified(CompareResult::Greater, 2)));
}

#[test]
fn a_range_compare_holds_when_every_key_holds() {
    let mut harness = Harness::new();
    harness.put("a", "1");
    harness.put("b", "1");
    let ranged = |result, operand: &str, end: &str| pb::Compare {
        range_end: Bytes::copy_from_slice(end.as_bytes()),
        ..value("a", result, operand)
    };
    assert!(succeeds(&mut harness, ranged(CompareResult::Equal, "1", "z")));
    harness.put("c", "2");
    assert!(!succeeds(&mut harness, ranged(CompareResult::Equal, "1", "z")));
    assert!(succeeds(&mut harness, ranged(CompareResult::Equal, "1", "c")));
    let none = pb::Compare { range_end: Bytes::from_static(b"y"), ..created("x", 0) };
    assert!(succeeds(&mut harness, none));
}

#[test]
fn nested_compares_see_the_state_before_the_whole_txn() {
    let mut harness = Harness::new();
    let nested = pb::TxnRequest {
        compare: vec![created("a", 0)],
        success: vec![put_op("b", "a was missing")],
        failure: vec![put_op("b", "a was there")],
    };
    let response = harness.txn(txn(vec![put_op("a", "1"), txn_op(nested)])).unwrap();
    let Some(Response::ResponseTxn(inner)) = &response.responses[1].response else { panic!() };
    assert!(inner.succeeded);
    assert_eq!(pairs(&[harness.get("b").unwrap()]), ["b=a was missing"]);
    assert_eq!(harness.get("a").unwrap().mod_revision, harness.get("b").unwrap().mod_revision);
}

#[test]
fn an_error_in_any_operation_leaves_nothing_behind() {
    let mut harness = Harness::new();
    for _ in 0..5 {
        harness.put("a", "1");
    }
    harness.compact(4).unwrap();
    let at = |revision| range_op(pb::RangeRequest { revision, ..range("a", "") });
    let leased = pb::RequestOp {
        request: Some(pb::request_op::Request::RequestPut(pb::PutRequest { lease: 99, ..put("c", "1") })),
    };
    let nested = txn_op(txn(vec![at(3)]));
    for (op, error) in [
        (at(3), StoreError::Compacted),
        (at(-2), StoreError::Compacted),
        (at(100), StoreError::FutureRevision),
        (leased, StoreError::LeaseNotFound),
        (nested, StoreError::Compacted),
    ] {
        assert_eq!(harness.txn(txn(vec![put_op("b", "1"), op])), Err(error));
        assert!(harness.get("b").is_none());
        assert_eq!(harness.revision(), 6);
    }
}

#[test]
fn a_read_only_txn_reads_one_revision() {
    let mut harness = Harness::new();
    harness.put("a", "1");
    harness.put("a", "2");
    let old = pb::RangeRequest { revision: 2, ..range("a", "") };
    let request = txn(vec![range_op(range("a", "")), range_op(old)]);
    let response = harness.reader().txn(&request).unwrap();
    let values: Vec<_> = response
        .responses
        .iter()
        .map(|op| match &op.response {
            Some(Response::ResponseRange(range)) => pairs(&range.kvs).join(" "),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(values, ["a=2", "a=1"]);
    assert_eq!(response.header.unwrap().revision, 3);
    let future = txn(vec![range_op(pb::RangeRequest { revision: 9, ..range("a", "") })]);
    assert_eq!(harness.reader().txn(&future), Err(StoreError::FutureRevision));
}
