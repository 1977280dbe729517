//! Random histories against a model that keeps a whole copy of the keyspace for every revision.

use std::collections::BTreeMap;

use bytes::Bytes;
use kontiki_api::etcdserverpb as pb;
use kontiki_api::mvccpb::KeyValue;
use proptest::prelude::*;

use crate::command::Command;
use crate::error::StoreError;
use crate::ids::Revision;
use crate::state::testing::{Harness, delete_op, options, put_op, range, range_op, txn, uncached};

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u16),
    Delete(u8, u8),
    /// Puts and deletes in one revision, if they do not meet.
    Txn(Vec<Step>),
    Compact(u8),
    CompactSlice,
    Commit,
    Flush,
    Reopen,
    /// Takes the files as they are, and applies again what was lost.
    Crash,
}

/// Every revision's keyspace; the index is the revision.
#[derive(Clone, Default)]
struct Model {
    revisions: Vec<BTreeMap<String, KeyValue>>,
    floor: i64,
}

impl Model {
    fn new() -> Self {
        Self { revisions: vec![BTreeMap::new(), BTreeMap::new()], floor: -1 }
    }

    fn revision(&self) -> i64 {
        i64::try_from(self.revisions.len()).unwrap() - 1
    }

    fn now(&self) -> &BTreeMap<String, KeyValue> {
        self.revisions.last().unwrap()
    }

    fn put(state: &mut BTreeMap<String, KeyValue>, revision: i64, key: &str, value: &str) {
        let entry = state.entry(key.to_owned()).or_insert_with(|| KeyValue {
            key: Bytes::copy_from_slice(key.as_bytes()),
            create_revision: revision,
            ..KeyValue::default()
        });
        entry.value = Bytes::copy_from_slice(value.as_bytes());
        entry.mod_revision = revision;
        entry.version += 1;
    }

    /// Runs changes as one revision; none is taken when nothing changes.
    fn change(&mut self, steps: &[Step]) {
        let mut next = self.now().clone();
        let revision = self.revision() + 1;
        let mut changed = false;
        for step in steps {
            match step {
                Step::Put(key, value) => {
                    Self::put(&mut next, revision, &name(*key), &value_of(*value));
                    changed = true;
                }
                Step::Delete(from, to) => {
                    let before = next.len();
                    next.retain(|key, _| !(name(*from) <= *key && *key < name(*to)));
                    changed |= next.len() != before;
                }
                _ => unreachable!("only changes are given"),
            }
        }
        if changed {
            self.revisions.push(next);
        }
    }
}

fn name(key: u8) -> String {
    format!("key{key:02}")
}

/// Some values are too large to be cached.
fn value_of(value: u16) -> String {
    if value.is_multiple_of(5) { "x".repeat(5000 + usize::from(value)) } else { value.to_string() }
}

fn change() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0_u8..30, any::<u16>()).prop_map(|(key, value)| Step::Put(key, value)),
        2 => (0_u8..30, 0_u8..31).prop_map(|(from, to)| Step::Delete(from, to)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => change(),
        5 => prop::collection::vec(change(), 1..5).prop_map(Step::Txn),
        2 => any::<u8>().prop_map(Step::Compact),
        2 => Just(Step::CompactSlice),
        8 => Just(Step::Commit),
        1 => Just(Step::Flush),
        1 => Just(Step::Reopen),
        1 => Just(Step::Crash),
    ]
}

fn command(step: &Step) -> Command {
    let op = |step: &Step| match step {
        Step::Put(key, value) => put_op(&name(*key), &value_of(*value)),
        Step::Delete(from, to) => delete_op(&name(*from), &name(*to)),
        _ => unreachable!("only changes are given"),
    };
    match step {
        Step::Txn(steps) => Command::Txn(txn(steps.iter().map(op).collect())),
        Step::Put(key, value) => Command::Put(crate::state::testing::put(&name(*key), &value_of(*value))),
        Step::Delete(from, to) => Command::DeleteRange(crate::state::testing::delete(&name(*from), &name(*to))),
        _ => unreachable!("only changes are given"),
    }
}

/// Everything a client can ask at this moment, at every revision.
fn compare(harness: &Harness, model: &Model) -> Result<(), TestCaseError> {
    let reader = harness.reader();
    prop_assert_eq!(reader.revision(), Revision(model.revision()));
    prop_assert_eq!(reader.compact_revision(), Revision(model.floor));
    for revision in 1..=model.revision() {
        let all = pb::RangeRequest { revision, ..range("key", "kez") };
        let answer = reader.range(&all);
        if revision < model.floor {
            prop_assert_eq!(answer, Err(StoreError::Compacted));
            continue;
        }
        let expected: Vec<KeyValue> = model.revisions[usize::try_from(revision).unwrap()].values().cloned().collect();
        let answer = answer.unwrap();
        prop_assert_eq!(answer.count, i64::try_from(expected.len()).unwrap());
        prop_assert_eq!(&answer.kvs, &expected);
        let (from, to) = (name(u8::try_from(revision % 30).unwrap()), name(25));
        let part = pb::RangeRequest { revision, limit: 3, ..range(&from, &to) };
        let answer = reader.range(&part).unwrap();
        let expected: Vec<_> = expected.into_iter().filter(|kv| *from.as_bytes() <= kv.key && kv.key < to).collect();
        prop_assert_eq!(answer.count, i64::try_from(expected.len()).unwrap());
        prop_assert_eq!(answer.more, expected.len() > 3);
        prop_assert_eq!(&answer.kvs[..], &expected[..expected.len().min(3)]);
    }
    Ok(())
}

/// A history with what is needed to take up again after a crash: the model as of each committed mark.
struct Run {
    harness: Harness,
    model: Model,
    committed: Model,
    /// The model as of each commit.
    marks: BTreeMap<u64, Model>,
    commits: u64,
}

impl Run {
    fn commit(&mut self) {
        self.harness.commit();
        self.commits += 1;
        self.committed = self.model.clone();
        self.marks.insert(self.commits, self.model.clone());
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Put(..) | Step::Delete(..) => {
                self.harness.state.apply(&command(&step)).unwrap();
                self.model.change(&[step]);
            }
            Step::Txn(steps) => {
                let txn = Step::Txn(steps.clone());
                let Command::Txn(request) = command(&txn) else { unreachable!() };
                if crate::state::check::txn(&request, 128).is_ok() {
                    self.harness.state.apply(&Command::Txn(request)).unwrap();
                    self.model.change(&steps);
                }
            }
            Step::Compact(part) => {
                let revision = self.model.revision() * i64::from(part) / 256;
                let request = pb::CompactionRequest { revision, physical: false };
                let reply = self.harness.state.apply(&Command::Compact(request));
                prop_assert_eq!(reply.is_ok(), revision > self.model.floor);
                self.model.floor = self.model.floor.max(revision);
            }
            Step::CompactSlice => {
                self.harness.state.compact_step();
            }
            Step::Commit => self.commit(),
            Step::Flush => {
                self.harness.state.flush().unwrap();
            }
            Step::Reopen => {
                self.commit();
                self.harness = std::mem::replace(&mut self.harness, Harness::new()).reopen();
            }
            Step::Crash => {
                self.harness = self.harness.crashed();
                self.commits = self.harness.state.applied().index.0;
                self.model = self.marks.get(&self.commits).cloned().unwrap_or_else(Model::new);
                self.committed = self.model.clone();
            }
        }
        Ok(())
    }
}

fn run(uncached_values: bool, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let options = if uncached_values { uncached() } else { options() };
    let mut run = Run {
        harness: Harness::with(options),
        model: Model::new(),
        committed: Model::new(),
        marks: BTreeMap::new(),
        commits: 0,
    };
    for (index, step) in steps.into_iter().enumerate() {
        run.step(step)?;
        if index % 16 == 0 {
            compare(&run.harness, &run.committed)?;
        }
    }
    run.commit();
    compare(&run.harness, &run.committed)?;
    // What the writer sees inside a transaction is the same.
    let reply = run.harness.txn(txn(vec![range_op(range("key", "kez"))])).unwrap();
    let Some(pb::response_op::Response::ResponseRange(answer)) = &reply.responses[0].response else { panic!() };
    prop_assert_eq!(&answer.kvs, &run.model.now().values().cloned().collect::<Vec<_>>());
    run.harness.compact_physically();
    compare(&run.harness, &run.committed)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn every_revision_reads_as_the_model_says(
        uncached_values in any::<bool>(),
        steps in prop::collection::vec(step(), 1..150),
    ) {
        run(uncached_values, steps)?;
    }
}
