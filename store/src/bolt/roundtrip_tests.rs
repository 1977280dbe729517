//! A state that was exported and imported again answers like the original.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::export::Export;
use super::import::{self, Changes, Imported};
use super::schema::{self, AuthContents};
use super::status::status;
use super::writer::Writer;
use super::{Db, Value};
use crate::command::Command;
use crate::consensus::state_machine::Mark;
use crate::consensus::types::{Address, Membership, StoredMembership, log_id};
use crate::ids::{LeaseId, MemberId, Revision};
use crate::io::engine::{self, Engine, EngineOptions, Step};
use crate::state::State;
use crate::state::testing::{self, Harness, delete_op, put_op, range, txn};
use crate::wal::EntryId;
use kontiki_api::authpb;
use kontiki_api::etcdserverpb as pb;

const OPTIONS: EngineOptions = EngineOptions { block_cache_bytes: 1 << 20, write_buffer_bytes: 1 << 20 };

fn mark() -> Mark {
    let last = log_id(EntryId { term: 7, node: 1, index: 99 });
    let nodes = BTreeMap::from([(MemberId(1), Address { peer_urls: vec!["http://127.0.0.1:2380".to_owned()] })]);
    let membership = Membership::new(vec![BTreeSet::from([MemberId(1)])], nodes).unwrap();
    Mark { last: Some(last), membership: StoredMembership::new(Some(last), membership) }
}

fn export(harness: &mut Harness) -> Vec<u8> {
    harness.state.commit(mark().applied());
    let dir = harness.path("checkpoint");
    let _ = std::fs::remove_dir_all(&dir);
    harness.state.checkpoint(&dir).unwrap();
    let export = Export::open(&dir).unwrap();
    let layout = export.measure(std::io::sink()).unwrap();
    let file = export.write(Vec::new(), layout).unwrap();
    assert_eq!(file.len() as u64, layout.size());
    file
}

/// A state that was opened from an import of `file`.
fn restored(file: &[u8], changes: &Changes) -> (tempfile::TempDir, State, Imported) {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(&engine::generation_path(dir.path(), 1), OPTIONS).unwrap();
    let imported = import::import(&Db::open(file).unwrap(), &engine, changes).unwrap();
    engine.flush().unwrap();
    drop(engine);
    engine::switch_generation(dir.path(), 1).unwrap();
    let state = State::open(dir.path(), testing::options()).unwrap();
    (dir, state, imported)
}

fn assert_same(harness: &Harness, state: &State) {
    let (before, after) = (harness.reader(), state.reader());
    assert_eq!(before.revision(), after.revision());
    assert_eq!(before.compact_revision(), after.compact_revision());
    let floor = before.compact_revision().0.max(1);
    for revision in floor..=before.revision().0 {
        let request = pb::RangeRequest { revision, ..range("\0", "\0") };
        assert_eq!(before.range(&request).unwrap(), after.range(&request).unwrap(), "at {revision}");
        assert_eq!(before.hash_kv(Revision(revision)).unwrap(), after.hash_kv(Revision(revision)).unwrap());
    }
    assert_eq!(before.leases(), after.leases());
    for (lease, _) in before.leases() {
        assert_eq!(before.lease_keys(lease), after.lease_keys(lease));
    }
}

#[derive(Clone, Debug)]
enum Op {
    Put(u8, u16, u8),
    Delete(u8, u8),
    Txn(Vec<(u8, u16)>, u8),
    Grant(u8),
    Revoke(u8),
    Compact(u8),
    CompactStep,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (any::<u8>(), 0u16..6000, 0u8..4).prop_map(|(key, size, lease)| Op::Put(key % 24, size, lease)),
        2 => (0u8..24, 0u8..24).prop_map(|(key, end)| Op::Delete(key, end)),
        3 => (prop::collection::vec((0u8..24, 0u16..50), 1..6), any::<u8>()).prop_map(|(puts, end)| Op::Txn(puts, end)),
        2 => (1u8..4).prop_map(Op::Grant),
        1 => (1u8..4).prop_map(Op::Revoke),
        1 => any::<u8>().prop_map(Op::Compact),
        1 => Just(Op::CompactStep),
    ]
}

fn run(harness: &mut Harness, op: Op) {
    let key = |n: u8| format!("key/{n:03}");
    // Requests that fail change nothing, which is part of the test.
    let _ = match op {
        Op::Put(n, size, lease) => harness.run(&Command::Put(pb::PutRequest {
            lease: lease.into(),
            ..testing::put(&key(n), &"v".repeat(size.into()))
        })),
        Op::Delete(from, to) => harness.run(&Command::DeleteRange(testing::delete(&key(from), &key(to)))),
        Op::Txn(puts, end) => {
            let puts: BTreeMap<u8, u16> = puts.into_iter().collect();
            let mut ops: Vec<_> = puts.iter().map(|(n, v)| put_op(&key(*n), &v.to_string())).collect();
            ops.push(delete_op(&key(30), &key(end)));
            harness.run(&Command::Txn(txn(ops)))
        }
        Op::Grant(id) => harness.grant(id.into(), 60 + i64::from(id)),
        Op::Revoke(id) => harness.revoke(id.into()),
        Op::Compact(part) => {
            let revision = harness.revision() * i64::from(part) / 255;
            harness.run(&Command::Compact(pb::CompactionRequest { revision, physical: false }))
        }
        Op::CompactStep => {
            harness.state.compact_step();
            return;
        }
    };
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn any_history_survives_the_way_through_a_file(ops in prop::collection::vec(op(), 1..120)) {
        let mut harness = Harness::new();
        ops.into_iter().for_each(|op| run(&mut harness, op));
        let file = export(&mut harness);
        let changes = Changes { applied: mark().applied(), ..Changes::default() };
        let (_dir, state, _) = restored(&file, &changes);
        assert_same(&harness, &state);
        while state.compact_step() {}
        assert_same(&harness, &state);
        let again = status(&Db::open(&file[..]).unwrap()).unwrap();
        prop_assert_eq!(again.revision, harness.revision().max(0) * i64::from(again.revision > 0));
    }
}

#[test]
fn a_bumped_revision_survives_another_export() {
    let mut harness = Harness::new();
    harness.put("a", "1");
    harness.delete("a", "");
    let file = export(&mut harness);
    let changes =
        Changes { applied: mark().applied(), bump_revision: 1000, mark_compacted: true, ..Changes::default() };
    let (_dir, mut state, imported) = restored(&file, &changes);
    assert_eq!((imported.revision, imported.compact_revision), (1003, 1003));
    while state.compact_step() {}
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = dir.path().join("copy");
    state.commit(mark().applied());
    state.checkpoint(&checkpoint).unwrap();
    let export = Export::open(&checkpoint).unwrap();
    let again = export.write(Vec::new(), export.measure(std::io::sink()).unwrap()).unwrap();
    assert_eq!(status(&Db::open(&again[..]).unwrap()).unwrap().revision, 1003);
    let unchanged = Changes { applied: mark().applied(), ..Changes::default() };
    let (_dir, state, imported) = restored(&again, &unchanged);
    assert_eq!(imported, Imported { revision: 1003, compact_revision: 1003, records: 0, leases: 0 });
    assert_eq!(state.reader().revision(), Revision(1003));
}

#[test]
fn the_file_has_every_bucket_of_etcd() {
    let mut harness = Harness::new();
    harness.put("a", "1");
    harness.grant(5, 60).unwrap();
    harness.compact(2).unwrap();
    let file = export(&mut harness);
    let db = Db::open(&file[..]).unwrap();
    let mut contents = Vec::new();
    db.walk(&db.root(), &mut |name, value| {
        let Value::Bucket(bucket) = value else { panic!("only buckets are at the top") };
        let mut keys = Vec::new();
        db.walk(&bucket, &mut |key, _| {
            keys.push(key.escape_ascii().to_string());
            Ok::<_, super::BoltError>(Step::Next)
        })?;
        contents.push(format!("{}: {}", name.escape_ascii(), keys.join(" ")));
        Ok::<_, super::BoltError>(Step::Next)
    })
    .unwrap();
    expect_test::expect![[r#"
        alarm: 
        auth: 
        authRoles: 
        authUsers: 
        cluster: 
        key: \x00\x00\x00\x00\x00\x00\x00\x02_\x00\x00\x00\x00\x00\x00\x00\x00
        lease: \x00\x00\x00\x00\x00\x00\x00\x05
        members: 1
        members_removed: 
        meta: confState consistent_index scheduledCompactRev storageVersion term
    "#]]
    .assert_eq(&(contents.join("\n") + "\n"));
    let (_dir, state, _) = restored(&file, &Changes { applied: mark().applied(), ..Changes::default() });
    assert_eq!(state.reader().lease_keys(LeaseId(5)), Some((60, Vec::new())));
}

/// A file with the given pairs of `key`, and users.
fn file_of(pairs: &[(&[u8], &[u8])], auth: &AuthContents) -> Vec<u8> {
    fn fill<W: std::io::Write>(writer: &mut Writer<W>, pairs: &[(&[u8], &[u8])], auth: &AuthContents) {
        for (name, pairs) in auth.pairs() {
            writer.begin_bucket(name.as_bytes());
            pairs.iter().for_each(|(key, value)| writer.put(key, value).unwrap());
            writer.end_bucket().unwrap();
        }
        writer.begin_bucket(schema::KEY.as_bytes());
        pairs.iter().for_each(|(key, value)| writer.put(key, value).unwrap());
        writer.end_bucket().unwrap();
    }
    let mut measuring = Writer::measuring(std::io::sink());
    fill(&mut measuring, pairs, auth);
    let mut writer = Writer::writing(Vec::new(), measuring.finish().unwrap().0).unwrap();
    fill(&mut writer, pairs, auth);
    writer.finish().unwrap().1
}

fn refusal(file: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path(), OPTIONS).unwrap();
    import::import(&Db::open(file).unwrap(), &engine, &Changes::default()).unwrap_err().to_string()
}

#[test]
fn what_cannot_be_taken_over_is_named() {
    let none = AuthContents::default();
    let revision = schema::revision(5);
    assert_eq!(
        refusal(&file_of(&[(b"nonsense", b"")], &none)),
        "not etcd's data: bucket \"key\": nonsense is not a revision"
    );
    let error = refusal(&file_of(&[(&revision, b"\xff")], &none));
    assert!(error.starts_with("not etcd's data: bucket \"key\": revision 5/0 "), "{error}");
    let kv = kontiki_api::mvccpb::KeyValue { key: "a".into(), mod_revision: 6, ..Default::default() };
    assert_eq!(
        refusal(&file_of(&[(&revision, &prost::Message::encode_to_vec(&kv))], &none)),
        "not etcd's data: bucket \"key\": revision 5/0 says that it is of revision 6"
    );
}

#[test]
fn users_and_roles_come_along() {
    let permission = authpb::Permission { perm_type: 2, key: "k".into(), range_end: "l".into() };
    let role = authpb::Role { name: "r".into(), key_permission: vec![permission] };
    let options = Some(authpb::UserAddOptions { no_password: false });
    let user = authpb::User { name: "alice".into(), password: "$2a$10$x".into(), roles: vec!["r".into()], options };
    let given = AuthContents { enabled: true, revision: 7, roles: vec![role], users: vec![user] };
    let (dir, state, _) = restored(&file_of(&[], &given), &Changes::default());
    let auth = state.reader().auth();
    assert!(auth.is_enabled() && auth.revision() == 7 && auth.user("alice").is_some() && auth.role("r").is_some());
    drop(state);
    let engine = Engine::open(&engine::generation_path(dir.path(), 1), OPTIONS).unwrap();
    assert_eq!(super::auth::read(&engine).unwrap(), given);
}
