//! The threads that watchers run on: one for each processor, of which the first is the caller's own.
//!
//! A thousand watchers on one thread would be measured one after the other, however fast the server tells them.

use std::thread::available_parallelism;

use anyhow::{Context, Result};
use tokio::runtime::{Builder, Handle, Runtime};

use super::connection::Connection;

pub struct Crew {
    own: Handle,
    others: Vec<Runtime>,
}

/// A connection, and the thread that it is served on.
#[derive(Clone)]
pub struct Seat {
    pub connection: Connection,
    pub thread: Handle,
}

impl Crew {
    pub fn new() -> Result<Self> {
        let others = available_parallelism().map_or(1, usize::from) - 1;
        let start = || Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let others = std::iter::repeat_with(start).take(others).collect::<Result<_, _>>();
        Ok(Self { own: Handle::current(), others: others.context("cannot start a thread for watchers")? })
    }

    /// The thread whose turn it is.
    pub fn thread(&self, turn: usize) -> Handle {
        match turn % (1 + self.others.len()) {
            0 => self.own.clone(),
            other => self.others[other - 1].handle().clone(),
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        // What runs there has been told to end, and nobody may wait for a thread here.
        self.others.drain(..).for_each(Runtime::shutdown_background);
    }
}
