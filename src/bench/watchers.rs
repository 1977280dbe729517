//! The loads with watchers: how soon they see a put, and what happens when there are many, when some are slow, and when
//! all have to catch up.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::StreamExt as _;
use kontiki_api::etcdserverpb as pb;
use kontiki_api::etcdserverpb::kv_client::KvClient;
use kontiki_api::etcdserverpb::watch_client::WatchClient;
use kontiki_api::mvccpb;
use pb::watch_request::RequestUnion;
use prost::Message as _;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::connection::Connection;
use super::crew::Seat;
use super::drive::{Operate, Pace, Plan, Tally, Window};
use super::measure::micros;
use super::operations::{Keys, closed, get, key, put};
use super::responses::{self, Responses, Told};
use super::servers::Server;

const WATCHERS_A_STREAM: u32 = 100;
/// Revisions that each watcher from far back has missed; it watches a key of its own, so that it has missed most of all.
const MISSED: u32 = 100;

pub async fn make_history(server: &Server, keys: Keys, watchers: u32) -> Result<()> {
    let connections = server.connect(16).await?;
    let value = keys.value();
    let writers = connections.into_iter().zip(0..).map(|(to, writer): (Connection, u32)| {
        let (mut client, value) = (KvClient::new(to), value.clone());
        async move {
            for number in (writer..watchers * MISSED).step_by(16) {
                client.put(put(key("resumed", number % watchers), &value)).await?;
            }
            Ok::<_, Status>(())
        }
    });
    futures::future::try_join_all(writers).await.map(drop).context("making a history")
}

/// A stream with `watchers` on one key, each created.
async fn watch(on: Seat, watched: Bytes, watchers: u32) -> Result<Watching, Status> {
    let (requests, waiting) = mpsc::channel(watchers as usize);
    for _ in 0..watchers {
        let create = pb::WatchCreateRequest { key: watched.clone(), ..Default::default() };
        let create = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        requests.send(create).await.map_err(|_| closed())?;
    }
    let mut responses = Responses::open(on.connection, ReceiverStream::new(waiting)).await?;
    let mut created = 0;
    while created < watchers {
        let count = |told: Told<'_>| match told {
            Told::Created => {
                created += 1;
                Ok(())
            }
            Told::Event(_) => Err(Status::internal("an event before its watcher")),
        };
        responses.read(count).await?;
    }
    Ok(Watching { responses, thread: on.thread, _requests: requests })
}

struct Watching {
    responses: Responses,
    /// Where it is read.
    thread: Handle,
    /// A stream whose requests end is ended by some servers.
    _requests: mpsc::Sender<pb::WatchRequest>,
}

/// A put's value says when it was sent, or should have been: microseconds since the run began.
fn stamp(window: &Window, at: Instant) -> Bytes {
    let micros = at.duration_since(window.begin).as_micros() as u64;
    Bytes::copy_from_slice(&micros.to_le_bytes())
}

fn stamped(window: &Window, value: &[u8]) -> Option<Instant> {
    Some(window.begin + Duration::from_micros(u64::from_le_bytes(value.try_into().ok()?)))
}

/// One writer, at a steady rate or each put when all have seen the one before; every watcher notes how long after its put
/// each event came.
pub async fn watch_latency(watchers: Vec<Seat>, writer: Connection, plan: &Plan) -> Result<Tally> {
    let watched = key("watched", 0);
    let streams =
        futures::future::try_join_all(watchers.into_iter().map(|seat| watch(seat, watched.clone(), 1))).await?;
    let window = Window::starting_now(plan);
    let watchers = streams.len();
    let wanted = Arc::new(Wanted::default());
    let mut seen = JoinSet::new();
    for stream in streams {
        let thread = stream.thread.clone();
        seen.spawn_on(note_events(stream, window, wanted.clone()), &thread);
    }
    let mut client = KvClient::new(writer);
    let mut pace = plan.rate.map(|rate| Pace::of(rate, 1, 0, window.begin));
    let mut all = Tally { span: Some((window.from, window.until)), ..Tally::default() };
    loop {
        let due = match &mut pace {
            Some(pace) => pace.due().await,
            None => Instant::now(),
        };
        if due >= window.until {
            break;
        }
        if pace.is_none() {
            wanted.missing.store(watchers, Ordering::Release);
        }
        match client.put(put(watched.clone(), &stamp(&window, due))).await {
            Ok(_) if pace.is_none() => {
                if wanted.wait().await.is_err() {
                    break;
                }
            }
            Ok(_) => {}
            Err(status) => {
                all.note(&window, due, Err(status));
                // It may be seen all the same, and then the next would be taken for seen too early.
                if pace.is_none() {
                    break;
                }
            }
        }
    }
    // The last put tells every watcher that it has seen all.
    client.put(put(watched, &stamp(&window, window.until))).await?;
    while let Some(watcher) = seen.join_next().await {
        all.add(&watcher.expect("watchers do not panic")?);
    }
    Ok(all)
}

async fn note_events(mut stream: Watching, window: Window, wanted: Arc<Wanted>) -> Result<Tally, Status> {
    let (mut tally, mut done) = (Tally::default(), false);
    while !done {
        let note = |told: Told<'_>| {
            let Told::Event(event) = told else { return Ok(()) };
            let event = mvccpb::Event::decode(event).map_err(responses::invalid)?;
            match event.kv.and_then(|kv| stamped(&window, &kv.value)) {
                Some(sent) if sent >= window.until => done = true,
                Some(sent) => {
                    tally.note(&window, sent, Ok(()));
                    wanted.seen(1);
                }
                None => {}
            }
            Ok(())
        };
        wanted.read(&mut stream, note).await?;
    }
    Ok(tally)
}

/// All watchers at once, from before what [`make_history`] has put.
pub async fn resume(watchers: Vec<Seat>) -> Result<Tally> {
    let newest = KvClient::new(watchers[0].connection.clone()).range(get(key("resumed", 0))).await?.into_inner();
    let newest = newest.header.context("an answer without a header")?.revision;
    let from = newest - watchers.len() as i64 * i64::from(MISSED) + 1;
    let begin = Instant::now();
    let mut catching_up = JoinSet::new();
    for (seat, number) in watchers.into_iter().zip(0..) {
        catching_up.spawn_on(catch_up(seat.connection, key("resumed", number), from), &seat.thread);
    }
    let mut tally = Tally::default();
    while let Some(took) = catching_up.join_next().await {
        tally.latency.saturating_record(micros(took.expect("watchers do not panic")?));
        tally.operations += 1;
    }
    Ok(Tally { span: Some((begin, Instant::now())), ..tally })
}

/// Watches a key from a revision on until its newest event; answers how long that took.
async fn catch_up(to: Connection, watched: Bytes, from: i64) -> Result<Duration, Status> {
    let current = KvClient::new(to.clone()).range(get(watched.clone())).await?.into_inner();
    let last = current.kvs.first().map_or(0, |kv| kv.mod_revision);
    let start = Instant::now();
    let create = pb::WatchCreateRequest { key: watched, start_revision: from, ..Default::default() };
    let create = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    let requests = tokio_stream::once(create).chain(futures::stream::pending());
    let mut events = WatchClient::new(to).watch(requests).await?.into_inner();
    loop {
        let response = events.message().await?.ok_or_else(closed)?;
        if response.canceled {
            return Err(Status::cancelled(response.cancel_reason));
        }
        if response.events.last().is_some_and(|event| event.kv.as_ref().is_some_and(|kv| kv.mod_revision >= last)) {
            return Ok(start.elapsed());
        }
    }
}

/// Watchers of one key, of which the first few open their streams and read nothing; the others read on.
pub async fn watch_and_stall(watchers: Vec<Seat>, slow: usize) -> Result<Stalled, Status> {
    let watched = key("watched", 1);
    let mut streams =
        futures::future::try_join_all(watchers.into_iter().map(|seat| watch(seat, watched.clone(), 1))).await?;
    let quick = streams.split_off(slow.min(streams.len()));
    let mut readers = JoinSet::new();
    for mut stream in quick {
        let thread = stream.thread.clone();
        readers.spawn_on(async move { while stream.responses.read(|_| Ok(())).await.is_ok() {} }, &thread);
    }
    Ok(Stalled { _slow: streams, _readers: readers })
}

/// The watchers, for as long as this is kept.
pub struct Stalled {
    _slow: Vec<Watching>,
    _readers: JoinSet<()>,
}

/// Puts what [`watch_and_stall`] watches.
pub struct PutWatched {
    client: KvClient<Connection>,
    value: Bytes,
}

impl PutWatched {
    pub fn new(to: Connection, keys: Keys) -> Self {
        Self { client: KvClient::new(to), value: keys.value() }
    }
}

impl Operate for PutWatched {
    async fn operate(&mut self) -> Result<(), Status> {
        self.client.put(put(key("watched", 1), &self.value)).await.map(drop)
    }
}

/// One put after the other, each when all watchers have seen the one before.
pub async fn fan_out(watchers: u32, seats: &[Seat], writer: Connection, plan: &Plan) -> Result<Tally> {
    let watched = key("fan-out", 0);
    let streams = watchers.div_ceil(WATCHERS_A_STREAM);
    let open = (0..streams).map(|number| {
        let here = WATCHERS_A_STREAM.min(watchers - number * WATCHERS_A_STREAM);
        watch(seats[number as usize % seats.len()].clone(), watched.clone(), here)
    });
    let streams = futures::future::try_join_all(open).await?;
    let wanted = Arc::new(Wanted::default());
    let mut counting = JoinSet::new();
    for stream in streams {
        let thread = stream.thread.clone();
        counting.spawn_on(count_events(stream, wanted.clone()), &thread);
    }
    let mut client = KvClient::new(writer);
    let value = Keys { value_bytes: plan.value_bytes }.value();
    let window = Window::starting_now(plan);
    let mut tally = Tally { span: Some((window.from, window.until)), ..Tally::default() };
    while Instant::now() < window.until {
        let start = Instant::now();
        wanted.missing.store(watchers as usize, Ordering::Release);
        let outcome = client.put(put(watched.clone(), &value)).await.map(drop);
        let failed = outcome.is_err();
        if !failed {
            wanted.wait().await?;
        }
        tally.note(&window, start, outcome);
        if failed {
            break;
        }
    }
    Ok(tally)
}

/// Events that a put has still to cause.
#[derive(Default)]
struct Wanted {
    missing: AtomicUsize,
    all: Notify,
    /// Tells that a watcher's stream has ended, so that they will never all be seen.
    broken: Notify,
}

impl Wanted {
    async fn read(
        &self,
        stream: &mut Watching,
        told: impl FnMut(Told<'_>) -> Result<(), Status>,
    ) -> Result<(), Status> {
        stream.responses.read(told).await.inspect_err(|_| self.broken.notify_one())
    }

    async fn wait(&self) -> Result<(), Status> {
        tokio::select! {
            () = self.all.notified() => Ok(()),
            () = self.broken.notified() => Err(closed()),
        }
    }

    fn seen(&self, events: usize) {
        if events > 0 && self.missing.fetch_sub(events, Ordering::AcqRel) == events {
            self.all.notify_one();
        }
    }
}

async fn count_events(mut stream: Watching, wanted: Arc<Wanted>) -> Result<(), Status> {
    loop {
        let mut events = 0;
        let count = |told: Told<'_>| {
            events += usize::from(matches!(told, Told::Event(_)));
            Ok(())
        };
        wanted.read(&mut stream, count).await?;
        wanted.seen(events);
    }
}
