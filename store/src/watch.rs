//! Watch: how committed changes reach those who asked for them.
//!
//! Apply publishes each revision once, to a ring shared by all. A watcher is a cursor into it and never a queue, so a
//! slow one holds back neither a write nor another watcher; one that has fallen behind the ring reads the missed
//! revisions from disk, in bounded slices, on its own task. The rules of delivery (ordered, unique, without gaps, a
//! revision in one response) are etcd's, and are kept here and nowhere else.

mod answer;
pub(crate) mod hub;
mod intervals;
mod replay;
mod response;
pub mod ring;
mod stream;
#[cfg(test)]
mod tests;
mod watcher;

pub use answer::{Answer, Head};
pub use stream::{WatchHub, WatchStream, WatchStreamOptions};
