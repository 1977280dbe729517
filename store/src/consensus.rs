//! Consensus: how commands come to be committed on a majority and applied everywhere in the same order.
//!
//! openraft does it; this module is the only one that knows openraft's types. It gives them meaning (`types`), keeps
//! Raft's log in our WAL (`log_store`), runs our state as its state machine (`state_machine`), and turns its messages
//! into bytes (`wire`, `codec`). The network and the running core are in `io::peer` and `member`.

use std::io;
use std::path::Path;

use self::types::Membership;
use crate::command::{Command, Reply};
use crate::state::{self, Applied, Context, State};

pub mod codec;
pub mod log_store;
pub mod rebuild;
pub mod requests;
pub mod responder;
pub mod state_machine;
#[cfg(test)]
mod tests;
pub mod types;
pub mod wire;

/// What the log drives: `state::State` in production, something small in tests.
pub trait StateMachine: Send + 'static {
    type Storage: Storage;

    /// The last committed mark.
    fn applied(&self) -> &Applied;
    /// Deterministic; visible to later applies at once, to readers after `commit`.
    fn apply(&mut self, context: &Context, command: &Command) -> Reply;
    /// Raft's configuration names these; new ones are members of the initial cluster.
    fn adopt_members(&mut self, _members: &Membership) {}
    fn commit(&mut self, applied: Applied);
    fn storage(&self) -> Self::Storage;
    /// Replaces everything by the checkpoint in `dir`, which is moved into place.
    fn install(&mut self, dir: &Path) -> io::Result<()>;
}

/// The slow operations of a state machine, beside its writer and from any thread.
pub trait Storage: Clone + Send + Sync + 'static {
    /// Makes everything committed durable, and says how far that is.
    fn flush(&self) -> io::Result<Applied>;
    /// A consistent copy in `dir`, which must not exist yet.
    fn checkpoint(&self, dir: &Path) -> io::Result<Applied>;
    fn unflushed_bytes(&self) -> u64;
}

impl StateMachine for State {
    type Storage = state::Storage;

    fn applied(&self) -> &Applied {
        State::applied(self)
    }

    fn apply(&mut self, context: &Context, command: &Command) -> Reply {
        State::apply_as(self, context, command)
    }

    fn adopt_members(&mut self, members: &Membership) {
        State::adopt_members(self, members.nodes().map(|(id, address)| (*id, &address.peer_urls[..])));
    }

    fn commit(&mut self, applied: Applied) {
        State::commit(self, applied);
    }

    fn storage(&self) -> state::Storage {
        State::storage(self)
    }

    fn install(&mut self, dir: &Path) -> io::Result<()> {
        State::install(self, dir).map_err(io::Error::other)
    }
}

impl Storage for state::Storage {
    fn flush(&self) -> io::Result<Applied> {
        state::Storage::flush(self)
    }

    fn checkpoint(&self, dir: &Path) -> io::Result<Applied> {
        state::Storage::checkpoint(self, dir).map_err(io::Error::other)
    }

    fn unflushed_bytes(&self) -> u64 {
        state::Storage::unflushed_bytes(self)
    }
}
