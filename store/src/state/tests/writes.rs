use kontiki_api::etcdserverpb as pb;

use crate::command::{Command, Response};
use crate::error::StoreError;
use crate::state::testing::{Harness, delete, pairs, put, uncached};

fn put_response(harness: &mut Harness, request: pb::PutRequest) -> pb::PutResponse {
    match harness.run(&Command::Put(request)).unwrap() {
        Response::Put(response) => response,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_fresh_store_is_at_revision_1_and_the_first_write_makes_it_2() {
    let mut harness = Harness::new();
    assert_eq!((harness.revision(), harness.reader().compact_revision().0), (1, -1));
    assert_eq!(harness.put("a", "1"), 2);
}

#[test]
fn a_put_counts_versions_and_keeps_the_creation() {
    let mut harness = Harness::new();
    harness.put("a", "1");
    harness.put("b", "1");
    harness.put("a", "2");
    let kv = harness.get("a").unwrap();
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (2, 4, 2));
    harness.delete("a", "");
    harness.put("a", "3");
    let kv = harness.get("a").unwrap();
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (6, 6, 1));
}

#[test]
fn a_put_of_the_same_value_takes_a_revision() {
    let mut harness = Harness::new();
    harness.put("a", "1");
    assert_eq!(harness.put("a", "1"), 3);
}

#[test]
fn a_put_answers_with_the_previous_value_when_asked() {
    for options in [crate::state::testing::options(), uncached()] {
        let mut harness = Harness::with(options);
        let asked = |value| pb::PutRequest { prev_kv: true, ..put("a", value) };
        assert_eq!(put_response(&mut harness, asked("1")).prev_kv, None);
        let response = put_response(&mut harness, asked("2"));
        assert_eq!(response.header.unwrap().revision, 3);
        assert_eq!(pairs(&[response.prev_kv.unwrap()]), ["a=1"]);
        assert_eq!(put_response(&mut harness, put("a", "3")).prev_kv, None);
    }
}

#[test]
fn ignore_value_keeps_the_value_and_ignore_lease_the_lease() {
    let mut harness = Harness::new();
    harness.grant(7, 60).unwrap();
    harness.put_leased("a", 7).unwrap();
    put_response(&mut harness, pb::PutRequest { ignore_value: true, ..put("a", "") });
    assert_eq!(pairs(&[harness.get("a").unwrap()]), ["a=leased"]);
    assert_eq!(harness.get("a").unwrap().lease, 0);
    harness.put_leased("a", 7).unwrap();
    put_response(&mut harness, pb::PutRequest { ignore_lease: true, ..put("a", "new") });
    let kv = harness.get("a").unwrap();
    assert_eq!((pairs(std::slice::from_ref(&kv)), kv.lease), (vec!["a=new".to_owned()], 7));
}

#[test]
fn ignoring_value_or_lease_of_a_missing_key_is_key_not_found() {
    let mut harness = Harness::new();
    for request in
        [pb::PutRequest { ignore_value: true, ..put("a", "") }, pb::PutRequest { ignore_lease: true, ..put("a", "1") }]
    {
        assert_eq!(harness.run(&Command::Put(request)), Err(StoreError::KeyNotFound));
    }
    assert_eq!(harness.revision(), 1);
}

#[test]
fn deleting_nothing_succeeds_and_takes_no_revision() {
    let mut harness = Harness::new();
    assert_eq!(harness.delete("a", ""), 0);
    assert_eq!(harness.delete("b", "a"), 0);
    assert_eq!(harness.revision(), 1);
}

#[test]
fn a_range_is_deleted_in_one_revision_and_answered_in_key_order() {
    let mut harness = Harness::new();
    for key in ["c", "a", "b", "d"] {
        harness.put(key, key);
    }
    let request = pb::DeleteRangeRequest { prev_kv: true, ..delete("a", "d") };
    let Response::DeleteRange(response) = harness.run(&Command::DeleteRange(request)).unwrap() else { panic!() };
    assert_eq!((response.deleted, response.header.unwrap().revision), (3, 6));
    assert_eq!(pairs(&response.prev_kvs), ["a=a", "b=b", "c=c"]);
    assert_eq!(harness.revision(), 6);
    assert!(harness.get("b").is_none() && harness.get("d").is_some());
}

#[test]
fn changes_of_a_batch_see_each_other_before_they_are_committed() {
    for options in [crate::state::testing::options(), uncached()] {
        let mut harness = Harness::with(options);
        harness.state.apply(&Command::Put(put("a", "1"))).unwrap();
        let reply = harness.state.apply(&Command::Put(pb::PutRequest { prev_kv: true, ..put("a", "2") })).unwrap();
        let Response::Put(response) = reply else { panic!() };
        assert_eq!(pairs(&[response.prev_kv.unwrap()]), ["a=1"]);
        assert!(harness.get("a").is_none(), "not committed yet");
        assert_eq!(harness.revision(), 1);
        harness.commit();
        assert_eq!(pairs(&[harness.get("a").unwrap()]), ["a=2"]);
        assert_eq!(harness.revision(), 3);
    }
}

#[test]
fn readers_see_the_state_before_a_batch_until_it_is_committed() {
    let mut harness = Harness::new();
    harness.put("a", "1");
    harness.put("b", "1");
    harness.state.apply(&Command::Put(put("a", "2"))).unwrap();
    harness.state.apply(&Command::Put(put("c", "1"))).unwrap();
    harness.state.apply(&Command::DeleteRange(delete("b", ""))).unwrap();
    let all = crate::state::testing::range("a", "z");
    let response = harness.reader().range(&all).unwrap();
    assert_eq!((pairs(&response.kvs), response.count), (vec!["a=1".to_owned(), "b=1".to_owned()], 2));
    harness.commit();
    let response = harness.reader().range(&all).unwrap();
    assert_eq!((pairs(&response.kvs), response.count), (vec!["a=2".to_owned(), "c=1".to_owned()], 2));
}

#[test]
fn keys_and_values_are_any_bytes() {
    let mut harness = Harness::new();
    let key = bytes::Bytes::from_static(&[0, 255, 0]);
    harness.run(&Command::Put(pb::PutRequest { key: key.clone(), ..pb::PutRequest::default() })).unwrap();
    let request = pb::RangeRequest { key: key.clone(), ..pb::RangeRequest::default() };
    let response = harness.reader().range(&request).unwrap();
    assert_eq!((response.kvs[0].key.clone(), response.kvs[0].value.len()), (key, 0));
}

#[test]
fn a_value_too_large_for_the_cache_is_read_from_the_database() {
    let mut harness = Harness::new();
    let value = "x".repeat(100_000);
    harness.put("a", &value);
    assert_eq!(harness.get("a").unwrap().value.len(), value.len());
}

#[test]
fn the_value_cache_stays_within_its_budget_and_forgets_nothing() {
    let mut harness =
        Harness::with(crate::state::StateOptions { value_cache_bytes: 10_000, ..crate::state::testing::options() });
    for n in 0..500 {
        harness.put(&format!("key{n:03}"), &"v".repeat(100));
    }
    let response = harness.reader().range(&crate::state::testing::range("k", "l")).unwrap();
    assert_eq!((response.kvs.len(), response.count), (500, 500));
    assert!(response.kvs.iter().all(|kv| kv.value.len() == 100));
}
