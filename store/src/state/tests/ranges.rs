use bytes::Bytes;
use kontiki_api::etcdserverpb as pb;
use pb::range_request::{SortOrder, SortTarget};

use crate::error::StoreError;
use crate::state::testing::{Harness, pairs, range, uncached};

/// Keys a..e, changed in the order c, a, e, b, d, and a once more.
fn filled() -> Harness {
    let mut harness = Harness::new();
    for (key, value) in [("c", "3"), ("a", "9"), ("e", "1"), ("b", "7"), ("d", "5"), ("a", "2")] {
        harness.put(key, value);
    }
    harness
}

fn keys(response: &pb::RangeResponse) -> String {
    response.kvs.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect()
}

#[track_caller]
fn check(harness: &Harness, request: &pb::RangeRequest, expected_keys: &str, more: bool, count: i64) {
    let response = harness.reader().range(request).unwrap();
    assert_eq!((keys(&response).as_str(), response.more, response.count), (expected_keys, more, count), "{request:?}");
    assert_eq!(response.header.unwrap().revision, harness.revision());
}

#[test]
fn the_end_decides_what_a_range_is() {
    let harness = filled();
    check(&harness, &range("b", ""), "b", false, 1);
    check(&harness, &range("x", ""), "", false, 0);
    check(&harness, &range("b", "d"), "bc", false, 2);
    check(&harness, &range("b", "\0"), "bcde", false, 4);
    check(&harness, &range("\0", "\0"), "abcde", false, 5);
    check(&harness, &range("d", "b"), "", false, 0);
    check(&harness, &range("d", "d"), "", false, 0);
}

#[test]
fn count_ignores_the_limit_and_the_filters() {
    let harness = filled();
    check(&harness, &pb::RangeRequest { limit: 2, ..range("a", "z") }, "ab", true, 5);
    check(&harness, &pb::RangeRequest { limit: 5, ..range("a", "z") }, "abcde", false, 5);
    check(&harness, &pb::RangeRequest { limit: -1, ..range("a", "z") }, "abcde", false, 5);
    check(&harness, &pb::RangeRequest { min_mod_revision: 5, ..range("a", "z") }, "abd", false, 5);
    check(&harness, &pb::RangeRequest { count_only: true, limit: 2, ..range("a", "z") }, "", false, 5);
}

#[test]
fn more_is_what_the_filters_leave() {
    let harness = filled();
    check(&harness, &pb::RangeRequest { min_mod_revision: 5, limit: 3, ..range("a", "z") }, "abd", false, 5);
    check(&harness, &pb::RangeRequest { min_mod_revision: 5, limit: 2, ..range("a", "z") }, "ab", true, 5);
}

#[test]
fn filters_bound_both_revisions() {
    let harness = filled();
    check(&harness, &pb::RangeRequest { max_mod_revision: 4, ..range("a", "z") }, "ce", false, 5);
    check(&harness, &pb::RangeRequest { min_create_revision: 5, ..range("a", "z") }, "bd", false, 5);
    check(&harness, &pb::RangeRequest { max_create_revision: 3, ..range("a", "z") }, "ac", false, 5);
    check(&harness, &pb::RangeRequest { max_mod_revision: -1, ..range("a", "z") }, "", false, 5);
}

#[test]
fn sorting_looks_at_everything_before_the_limit() {
    let harness = filled();
    let sorted = |order: SortOrder, target: SortTarget, limit| pb::RangeRequest {
        sort_order: order.into(),
        sort_target: target.into(),
        limit,
        ..range("a", "z")
    };
    check(&harness, &sorted(SortOrder::Descend, SortTarget::Key, 0), "edcba", false, 5);
    check(&harness, &sorted(SortOrder::Ascend, SortTarget::Mod, 0), "cebda", false, 5);
    check(&harness, &sorted(SortOrder::Descend, SortTarget::Mod, 2), "ad", true, 5);
    check(&harness, &sorted(SortOrder::Ascend, SortTarget::Create, 0), "caebd", false, 5);
    check(&harness, &sorted(SortOrder::Ascend, SortTarget::Value, 0), "eacdb", false, 5);
    check(&harness, &sorted(SortOrder::Descend, SortTarget::Version, 1), "a", true, 5);
}

#[test]
fn a_target_without_an_order_sorts_what_the_limit_has_left() {
    let harness = filled();
    let request = pb::RangeRequest { sort_target: SortTarget::Value.into(), limit: 3, ..range("a", "z") };
    // a=2 b=7 c=3 and one more (d=5) are fetched, sorted by value and cut.
    check(&harness, &request, "acd", true, 5);
}

#[test]
fn keys_only_strips_values_after_sorting_by_them() {
    let harness = filled();
    let request = pb::RangeRequest {
        keys_only: true,
        sort_order: SortOrder::Ascend.into(),
        sort_target: SortTarget::Value.into(),
        ..range("a", "z")
    };
    let response = harness.reader().range(&request).unwrap();
    assert_eq!(keys(&response), "eacdb");
    assert!(response.kvs.iter().all(|kv| kv.value.is_empty() && kv.mod_revision > 0 && kv.version > 0));
}

#[test]
fn an_old_revision_is_read_as_it_was_with_the_current_one_in_the_header() {
    for options in [crate::state::testing::options(), uncached()] {
        let mut harness = Harness::with(options);
        harness.put("a", "1");
        harness.put("b", "1");
        harness.put("a", "2");
        harness.delete("b", "");
        let at = |revision| {
            let response = harness.reader().range(&pb::RangeRequest { revision, ..range("a", "z") }).unwrap();
            assert_eq!(response.header.unwrap().revision, 5);
            assert_eq!(response.count, i64::try_from(response.kvs.len()).unwrap());
            pairs(&response.kvs).join(" ")
        };
        assert_eq!(at(1), "");
        assert_eq!(at(2), "a=1");
        assert_eq!(at(3), "a=1 b=1");
        assert_eq!(at(4), "a=2 b=1");
        assert_eq!(at(5), "a=2");
        assert_eq!(at(0), "a=2");
        assert_eq!(at(-3), "a=2");
        let limited = pb::RangeRequest { revision: 4, limit: 1, ..range("a", "z") };
        let response = harness.reader().range(&limited).unwrap();
        assert_eq!((response.kvs.len(), response.more, response.count), (1, true, 2));
    }
}

#[test]
fn a_future_revision_is_refused() {
    let harness = filled();
    let request = pb::RangeRequest { revision: harness.revision() + 1, ..range("a", "") };
    assert_eq!(harness.reader().range(&request), Err(StoreError::FutureRevision));
}

#[test]
fn a_long_range_is_complete_and_in_order() {
    let mut harness = Harness::with(uncached());
    for n in 0..3500 {
        harness.put(&format!("{n:05}"), &n.to_string());
    }
    let first_revision = 1 + 3500;
    harness.delete("00100", "00200");
    let response = harness.reader().range(&range("0", "1")).unwrap();
    assert_eq!((response.kvs.len(), response.count), (3400, 3400));
    assert!(response.kvs.is_sorted_by(|a, b| a.key < b.key));
    let request = pb::RangeRequest { revision: first_revision, limit: 10, ..range("00095", "1") };
    let response = harness.reader().range(&request).unwrap();
    assert_eq!((response.kvs.len(), response.more, response.count), (10, true, 3405));
    assert_eq!(response.kvs[9].key, Bytes::from_static(b"00104"));
}
