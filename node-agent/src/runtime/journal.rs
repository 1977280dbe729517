//! What a shim knows, as a sequence of records and the state they add up to.
//!
//! The shim appends each record to `run_dir/pods/<uid>/journal` before it acts on it, and keeps the [`Snapshot`] that the
//! records make. After the agent's restart a living shim sends its snapshot; for a dead one the agent reads the journal and
//! gets the same. `/run` is a tmpfs, so a reboot leaves no journal of processes that are gone.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::plan::{ContainerKey, ContainerPlan, Exit, Sandbox, SandboxPlan, Started};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Record {
    Sandbox { plan: Box<SandboxPlan>, sandbox: Sandbox },
    Started { key: ContainerKey, plan: Box<ContainerPlan>, started: Started },
    Exited { key: ContainerKey, exit: Exit },
    Acknowledged { key: ContainerKey },
    Removed { key: ContainerKey },
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Snapshot {
    pub(super) sandbox: Option<(SandboxPlan, Sandbox)>,
    /// In the order of their starts.
    pub(super) containers: Vec<ContainerRecord>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ContainerRecord {
    pub(super) key: ContainerKey,
    pub(super) plan: ContainerPlan,
    pub(super) started: Started,
    pub(super) exit: Option<Exit>,
    pub(super) acknowledged: bool,
}

impl Snapshot {
    pub(super) fn apply(&mut self, record: Record) {
        match record {
            Record::Sandbox { plan, sandbox } => self.sandbox = Some((*plan, sandbox)),
            Record::Started { key, plan, started } => {
                self.containers.push(ContainerRecord { key, plan: *plan, started, exit: None, acknowledged: false });
            }
            Record::Exited { key, exit } => self.edit(&key, |container| container.exit = Some(exit)),
            Record::Acknowledged { key } => self.edit(&key, |container| container.acknowledged = true),
            Record::Removed { key } => self.containers.retain(|container| container.key != key),
        }
    }

    fn edit(&mut self, key: &ContainerKey, edit: impl FnOnce(&mut ContainerRecord)) {
        if let Some(container) = self.containers.iter_mut().find(|container| container.key == *key) {
            edit(container);
        }
    }

    /// Exits that the agent has to be told again.
    pub(super) fn unacknowledged(&self) -> impl Iterator<Item = (&ContainerKey, &Exit)> {
        let waiting = self.containers.iter().filter(|container| !container.acknowledged);
        waiting.filter_map(|container| Some((&container.key, container.exit.as_ref()?)))
    }

    /// What a dead shim's journal adds up to. A last line cut short is left out: it was never acted on.
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        let mut snapshot = Self::default();
        for line in std::fs::read(path)?.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice(line) {
                Ok(record) => snapshot.apply(record),
                Err(error) => tracing::warn!(%error, path = %path.display(), "unreadable journal record"),
            }
        }
        Ok(snapshot)
    }
}

/// The file a shim appends to. Not synced: it only has to outlive processes, not the machine.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
}

impl Journal {
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { file: OpenOptions::new().create(true).append(true).open(path)? })
    }

    pub(super) fn append(&mut self, record: &Record) -> io::Result<()> {
        let mut line = serde_json::to_vec(record).expect("invariant: records have string keys only");
        line.push(b'\n');
        self.file.write_all(&line)
    }
}

/// The state directory's file of records.
pub(super) const FILE_NAME: &str = "journal";

pub(super) fn key_of(pod_uid: &str, plan: &ContainerPlan) -> ContainerKey {
    ContainerKey { pod_uid: pod_uid.to_owned(), name: plan.name.clone(), attempt: plan.attempt, id: plan.id.clone() }
}

/// Exit of a process from what `waitid` said.
pub(super) fn exit_of(
    code: Option<i32>,
    signal: Option<i32>,
    oom: bool,
    started: SystemTime,
    finished: SystemTime,
) -> Exit {
    let code = code.unwrap_or_else(|| signal.map_or(255, |signal| 128 + signal));
    Exit { code, signal, oom, started_at: started, finished_at: finished }
}
