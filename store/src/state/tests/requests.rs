use kontiki_api::etcdserverpb as pb;

use crate::error::StoreError;
use crate::state::check;
use crate::state::testing::{delete_op, put, put_op, range, range_op, txn, txn_op};

const MAX_OPS: usize = 128;

#[track_caller]
fn refused(request: &pb::TxnRequest, error: StoreError) {
    assert_eq!(check::txn(request, MAX_OPS), Err(error));
}

#[track_caller]
fn sound(request: &pb::TxnRequest) {
    assert_eq!(check::txn(request, MAX_OPS), Ok(()));
}

#[test]
fn an_empty_key_is_refused_everywhere() {
    assert_eq!(check::range(&range("", "")), Err(StoreError::EmptyKey));
    assert_eq!(check::put(&put("", "1")), Err(StoreError::EmptyKey));
    assert_eq!(check::delete_range(&pb::DeleteRangeRequest::default()), Err(StoreError::EmptyKey));
    refused(&txn(vec![put_op("", "1")]), StoreError::EmptyKey);
    let compare = vec![pb::Compare::default()];
    refused(&pb::TxnRequest { compare, ..pb::TxnRequest::default() }, StoreError::EmptyKey);
}

#[test]
fn contradicting_puts_are_refused() {
    let request = pb::PutRequest { ignore_value: true, ..put("a", "1") };
    assert_eq!(check::put(&request), Err(StoreError::ValueProvided));
    let request = pb::PutRequest { ignore_lease: true, lease: 1, ..put("a", "1") };
    assert_eq!(check::put(&request), Err(StoreError::LeaseProvided));
}

#[test]
fn unknown_sort_options_are_refused() {
    for request in
        [pb::RangeRequest { sort_order: 3, ..range("a", "") }, pb::RangeRequest { sort_target: 5, ..range("a", "") }]
    {
        assert_eq!(check::range(&request), Err(StoreError::InvalidSortOption));
        refused(&txn(vec![range_op(request)]), StoreError::InvalidSortOption);
    }
}

#[test]
fn an_operation_without_a_request_is_key_not_found() {
    refused(&txn(vec![pb::RequestOp::default()]), StoreError::KeyNotFound);
}

#[test]
fn the_longest_list_counts_and_nested_txns_share_the_limit() {
    let many = |count: usize| (0..count).map(|n| put_op(&format!("{n}"), "")).collect::<Vec<_>>();
    sound(&txn(many(128)));
    refused(&txn(many(129)), StoreError::TooManyOps);
    sound(&txn(vec![txn_op(txn(many(127)))]));
    refused(&txn(vec![txn_op(txn(many(128)))]), StoreError::TooManyOps);
    let failure = many(129);
    refused(&pb::TxnRequest { failure, ..pb::TxnRequest::default() }, StoreError::TooManyOps);
}

#[test]
fn a_key_is_not_put_twice_on_any_path() {
    refused(&txn(vec![put_op("a", "1"), put_op("a", "2")]), StoreError::DuplicateKey);
    refused(&txn(vec![put_op("b", "1"), delete_op("a", "c")]), StoreError::DuplicateKey);
    refused(&txn(vec![delete_op("b", "\0"), put_op("c", "1")]), StoreError::DuplicateKey);
    refused(&txn(vec![put_op("a", "1"), txn_op(txn(vec![put_op("a", "2")]))]), StoreError::DuplicateKey);
    let failing = pb::TxnRequest { failure: vec![delete_op("a", "")], ..pb::TxnRequest::default() };
    refused(&txn(vec![txn_op(failing), put_op("a", "1")]), StoreError::DuplicateKey);
    refused(
        &pb::TxnRequest { failure: vec![put_op("a", "1"), put_op("a", "2")], ..txn(vec![]) },
        StoreError::DuplicateKey,
    );
}

#[test]
fn branches_that_exclude_each_other_may_change_the_same_key() {
    sound(&pb::TxnRequest { failure: vec![put_op("a", "2")], ..txn(vec![put_op("a", "1")]) });
    let nested = pb::TxnRequest { failure: vec![delete_op("a", "c")], ..txn(vec![put_op("b", "1")]) };
    sound(&txn(vec![txn_op(nested)]));
    sound(&txn(vec![delete_op("a", "c"), delete_op("b", "d")]));
    sound(&txn(vec![put_op("a", "1"), delete_op("b", "a")]));
    sound(&txn(vec![put_op("a", "1"), range_op(range("a", ""))]));
}

#[test]
fn only_top_level_ranges_make_a_txn_read_only() {
    assert!(check::is_read_only(&txn(vec![range_op(range("a", ""))])));
    assert!(!check::is_read_only(&txn(vec![txn_op(txn(vec![range_op(range("a", ""))]))])));
    assert!(!check::is_read_only(&txn(vec![put_op("a", "")])));
    let serializable = pb::RangeRequest { serializable: true, ..range("a", "") };
    assert!(check::is_serializable(&txn(vec![range_op(serializable.clone())])));
    assert!(!check::is_serializable(&txn(vec![range_op(serializable), range_op(range("a", ""))])));
}
