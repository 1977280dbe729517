use bytes::Bytes;

use crate::command::Response;
use crate::error::StoreError;
use crate::ids::LeaseId;
use crate::state::testing::Harness;
use crate::state::{LeaseChange, LeaseChanges};

fn keys(harness: &Harness, lease: i64) -> Vec<Bytes> {
    harness.reader().lease_keys(LeaseId(lease)).unwrap().1
}

#[test]
fn revoking_deletes_the_keys_in_one_revision() {
    let mut harness = Harness::new();
    harness.grant(5, 60).unwrap();
    for key in ["c", "a", "b"] {
        harness.put_leased(key, 5).unwrap();
    }
    assert_eq!(keys(&harness, 5), ["a", "b", "c"]);
    let Response::LeaseRevoke(response) = harness.revoke(5).unwrap() else { panic!() };
    assert_eq!((response.header.unwrap().revision, harness.revision()), (5, 5));
    assert!(harness.get("a").is_none());
    assert_eq!(harness.reader().lease_keys(LeaseId(5)), None);
}

#[test]
fn revoking_a_lease_without_keys_takes_no_revision() {
    let mut harness = Harness::new();
    harness.grant(5, 60).unwrap();
    harness.revoke(5).unwrap();
    assert_eq!(harness.revision(), 1);
    assert_eq!(harness.revoke(5), Err(StoreError::LeaseNotFound));
}

#[test]
fn a_lease_is_granted_once() {
    let mut harness = Harness::new();
    harness.grant(5, 60).unwrap();
    assert_eq!(harness.grant(5, 10), Err(StoreError::LeaseExists));
    assert_eq!(harness.reader().leases(), [(LeaseId(5), 60)]);
}

#[test]
fn a_put_on_an_unknown_lease_is_refused() {
    let mut harness = Harness::new();
    assert_eq!(harness.put_leased("a", 9), Err(StoreError::LeaseNotFound));
    assert_eq!(harness.put_leased("a", -9), Err(StoreError::LeaseNotFound));
    assert_eq!(harness.revision(), 1);
}

#[test]
fn a_key_hangs_on_its_last_put_lease() {
    let mut harness = Harness::new();
    harness.grant(5, 60).unwrap();
    harness.grant(6, 60).unwrap();
    harness.put_leased("a", 5).unwrap();
    harness.put_leased("a", 6).unwrap();
    assert_eq!((keys(&harness, 5).len(), keys(&harness, 6).len()), (0, 1));
    harness.put("a", "free");
    assert!(keys(&harness, 6).is_empty());
    harness.revoke(6).unwrap();
    assert!(harness.get("a").is_some());
    harness.put_leased("b", 5).unwrap();
    harness.delete("b", "");
    assert!(keys(&harness, 5).is_empty());
}

#[test]
fn leases_and_their_keys_survive_a_restart() {
    let mut harness = Harness::new();
    harness.grant(5, 60).unwrap();
    harness.grant(6, 70).unwrap();
    harness.put_leased("a", 5).unwrap();
    harness.put_leased("b", 5).unwrap();
    harness.put_leased("c", 5).unwrap();
    harness.put("b", "free");
    harness.delete("c", "");
    let mut harness = harness.reopen();
    assert_eq!(harness.reader().leases(), [(LeaseId(5), 60), (LeaseId(6), 70)]);
    assert_eq!(keys(&harness, 5), ["a"]);
    harness.revoke(5).unwrap();
    assert!(harness.get("a").is_none() && harness.get("b").is_some());
}

#[test]
fn lease_changes_are_told_once_and_the_table_to_newcomers() {
    let mut harness = Harness::new();
    let reader = harness.reader();
    let (changes, version) = reader.lease_changes(0);
    assert_eq!(changes, LeaseChanges::Table(vec![]));
    let woken = reader.lease_version();
    harness.grant(5, 60).unwrap();
    harness.grant(6, 60).unwrap();
    harness.revoke(5).unwrap();
    assert!(woken.has_changed().unwrap());
    let (changes, next) = reader.lease_changes(version);
    let granted = |id| LeaseChange::Granted { id: LeaseId(id), ttl_s: 60 };
    let revoked = LeaseChange::Revoked { id: LeaseId(5) };
    assert_eq!(changes, LeaseChanges::Changes(vec![granted(5), granted(6), revoked]));
    assert_eq!(reader.lease_changes(next), (LeaseChanges::Changes(vec![]), next));
    assert_eq!(reader.lease_changes(0).0, LeaseChanges::Table(vec![(LeaseId(6), 60)]));
}
