//! What a client of a load does, again and again.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use kontiki_api::etcdserverpb as pb;
use kontiki_api::etcdserverpb::kv_client::KvClient;
use kontiki_api::etcdserverpb::lease_client::LeaseClient;
use kontiki_api::etcdserverpb::watch_client::WatchClient;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::request_op::Request;
use pb::response_op::Response;
use pb::watch_request::RequestUnion;
use rand::Rng as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::connection::Connection;
use super::crew::Seat;
use super::drive::{Operate, Pace, Plan, Tally, Window};
use super::load::{Kind, Load};
use super::measure::micros;
use super::servers::Server;

/// Keys that puts and gets are spread over.
const SPREAD: u32 = 10_000;
const TXN_OPS: u32 = 100;
const LEASE_TTL_S: i64 = 600;
const WATCHERS_A_STREAM: u32 = 100;

fn key(prefix: &str, number: u32) -> Bytes {
    format!("bench/{prefix}/{number:08}").into()
}

fn some_key(random: &mut StdRng) -> Bytes {
    key("spread", random.random_range(0..SPREAD))
}

fn random() -> StdRng {
    StdRng::from_os_rng()
}

#[derive(Clone, Copy, Debug)]
pub struct Keys {
    pub value_bytes: usize,
}

impl Keys {
    fn value(self) -> Bytes {
        // Not one letter, which a compressing store would make nothing of.
        let mut random = random();
        (0..self.value_bytes).map(|_| random.random::<u8>()).collect()
    }
}

/// Puts what a load reads.
pub async fn prepare(load: Load, server: &Server, keys: Keys) -> Result<()> {
    let (prefix, count) = match load.kind {
        Kind::Get | Kind::GetSerializable | Kind::Mixed => ("spread", SPREAD),
        Kind::WatchResume => return make_history(server, keys, load.clients).await,
        Kind::Range(count) => ("range", count),
        _ => return Ok(()),
    };
    let connection = server.connect(1).await?.remove(0);
    let all = pb::RangeRequest { range_end: key(prefix, count), count_only: true, ..get(key(prefix, 0)) };
    if KvClient::new(connection.clone()).range(all).await?.into_inner().count == i64::from(count) {
        return Ok(());
    }
    let value = keys.value();
    let fill = |first: u32| {
        let (mut client, value) = (KvClient::new(connection.clone()), value.clone());
        async move {
            let put = |number| pb::RequestOp { request: Some(Request::RequestPut(put(key(prefix, number), &value))) };
            let success = (first..count.min(first + TXN_OPS)).map(put).collect();
            client.txn(pb::TxnRequest { success, ..Default::default() }).await.map(drop)
        }
    };
    let all = futures::stream::iter((0..count).step_by(TXN_OPS as usize).map(fill));
    all.buffered(8).try_collect::<()>().await.context("filling")
}

/// Revisions that each watcher from far back has missed; it watches a key of its own, so that it has missed most of all.
const MISSED: u32 = 100;

async fn make_history(server: &Server, keys: Keys, watchers: u32) -> Result<()> {
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

fn get(key: Bytes) -> pb::RangeRequest {
    pb::RangeRequest { key, ..Default::default() }
}

fn put(key: Bytes, value: &Bytes) -> pb::PutRequest {
    pb::PutRequest { key, value: value.clone(), ..Default::default() }
}

pub struct Put {
    client: KvClient<Connection>,
    random: StdRng,
    value: Bytes,
}

impl Put {
    pub fn new(to: Connection, keys: Keys) -> Self {
        Self { client: KvClient::new(to), random: random(), value: keys.value() }
    }
}

impl Operate for Put {
    async fn operate(&mut self) -> Result<(), Status> {
        self.client.put(put(some_key(&mut self.random), &self.value)).await.map(drop)
    }
}

/// The newest revision of each key that any client has heard of: what Kubernetes' API server knows from its watches.
#[derive(Clone)]
pub struct Known(Arc<[AtomicI64]>);

impl Default for Known {
    fn default() -> Self {
        Self((0..SPREAD).map(|_| AtomicI64::new(0)).collect())
    }
}

/// An optimistic update of a key: one that was changed meanwhile is a try, too.
pub struct Update {
    client: KvClient<Connection>,
    random: StdRng,
    value: Bytes,
    known: Known,
}

impl Update {
    pub fn new(to: Connection, keys: Keys, known: Known) -> Self {
        Self { client: KvClient::new(to), random: random(), value: keys.value(), known }
    }
}

impl Operate for Update {
    async fn operate(&mut self) -> Result<(), Status> {
        let number = self.random.random_range(0..SPREAD);
        let (key, known) = (key("spread", number), &self.known.0[number as usize]);
        let unchanged = pb::Compare {
            result: CompareResult::Equal.into(),
            target: CompareTarget::Mod.into(),
            key: key.clone(),
            target_union: Some(TargetUnion::ModRevision(known.load(Ordering::Relaxed))),
            ..Default::default()
        };
        let op = |request| vec![pb::RequestOp { request: Some(request) }];
        let txn = pb::TxnRequest {
            compare: vec![unchanged],
            success: op(Request::RequestPut(put(key.clone(), &self.value))),
            failure: op(Request::RequestRange(get(key.clone()))),
        };
        let mut answer = self.client.txn(txn).await?.into_inner();
        let revision = match answer.responses.pop().and_then(|op| op.response) {
            Some(Response::ResponseRange(mut range)) => range.kvs.pop().map_or(0, |kv| kv.mod_revision),
            _ => answer.header.map_or(0, |header| header.revision),
        };
        known.fetch_max(revision, Ordering::Relaxed);
        Ok(())
    }
}

pub struct Get {
    client: KvClient<Connection>,
    random: StdRng,
    serializable: bool,
}

impl Get {
    pub fn new(to: Connection, serializable: bool) -> Self {
        Self { client: KvClient::new(to), random: random(), serializable }
    }
}

impl Operate for Get {
    async fn operate(&mut self) -> Result<(), Status> {
        let get = pb::RangeRequest { serializable: self.serializable, ..get(some_key(&mut self.random)) };
        let answer = self.client.range(get).await?.into_inner();
        (answer.kvs.len() == 1).then_some(()).ok_or_else(|| Status::data_loss("a key is missing"))
    }
}

/// What the parts of a Kubernetes cluster ask: mostly nodes that renew their leases and pods whose state changes.
pub struct Mixed {
    update: Update,
    get: Get,
}

impl Mixed {
    pub fn new(to: Connection, keys: Keys, known: Known) -> Self {
        Self { update: Update::new(to.clone(), keys, known), get: Get::new(to, false) }
    }

    /// A key that nobody else uses comes and goes: two requests, one operation.
    async fn create_and_delete(&mut self) -> Result<(), Status> {
        let own = &mut self.update;
        let key = key("mixed", own.random.random_range(0..u32::MAX));
        let (client, value) = (&mut own.client, &own.value);
        client.put(put(key.clone(), value)).await?;
        client.delete_range(pb::DeleteRangeRequest { key, ..Default::default() }).await.map(drop)
    }
}

impl Operate for Mixed {
    async fn operate(&mut self) -> Result<(), Status> {
        match self.update.random.random_range(0..100) {
            0..60 => self.update.operate().await,
            60..80 => self.get.operate().await,
            80..90 => {
                let page = pb::RangeRequest { range_end: key("spread", SPREAD), limit: 500, ..get(key("spread", 0)) };
                self.get.client.range(page).await.map(drop)
            }
            _ => self.create_and_delete().await,
        }
    }
}

pub struct Range {
    client: KvClient<Connection>,
    count: u32,
}

impl Range {
    pub fn new(to: Connection, count: u32) -> Self {
        Self { client: KvClient::new(to).max_decoding_message_size(usize::MAX), count }
    }
}

impl Operate for Range {
    async fn operate(&mut self) -> Result<(), Status> {
        let range = pb::RangeRequest { range_end: key("range", self.count), ..get(key("range", 0)) };
        let answer = self.client.range(range).await?.into_inner();
        (answer.kvs.len() == self.count as usize).then_some(()).ok_or_else(|| Status::data_loss("keys are missing"))
    }
}

pub struct Grant(LeaseClient<Connection>);

impl Grant {
    pub fn new(to: Connection) -> Self {
        Self(LeaseClient::new(to))
    }
}

impl Operate for Grant {
    async fn operate(&mut self) -> Result<(), Status> {
        self.0.lease_grant(pb::LeaseGrantRequest { ttl: LEASE_TTL_S, id: 0 }).await.map(drop)
    }
}

pub struct KeepAlive {
    requests: mpsc::Sender<pb::LeaseKeepAliveRequest>,
    answers: Streaming<pb::LeaseKeepAliveResponse>,
    id: i64,
}

impl KeepAlive {
    pub async fn open(to: Connection) -> Result<Self, Status> {
        let mut client = LeaseClient::new(to);
        let id = client.lease_grant(pb::LeaseGrantRequest { ttl: LEASE_TTL_S, id: 0 }).await?.into_inner().id;
        let (requests, waiting) = mpsc::channel(1);
        // etcd answers a stream when it was asked something.
        requests.send(pb::LeaseKeepAliveRequest { id }).await.map_err(|_| closed())?;
        let mut answers = client.lease_keep_alive(ReceiverStream::new(waiting)).await?.into_inner();
        answers.message().await?;
        Ok(Self { requests, answers, id })
    }
}

fn closed() -> Status {
    Status::cancelled("the stream has ended")
}

impl Operate for KeepAlive {
    async fn operate(&mut self) -> Result<(), Status> {
        self.requests.send(pb::LeaseKeepAliveRequest { id: self.id }).await.map_err(|_| closed())?;
        let answer = self.answers.message().await?.ok_or_else(closed)?;
        (answer.ttl > 0).then_some(()).ok_or_else(|| Status::not_found("the lease has expired"))
    }
}

/// A stream with `watchers` on one key, each created.
async fn watch(on: Seat, watched: Bytes, watchers: u32) -> Result<Watching, Status> {
    let (requests, waiting) = mpsc::channel(watchers as usize);
    for _ in 0..watchers {
        let create = pb::WatchCreateRequest { key: watched.clone(), ..Default::default() };
        let create = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        requests.send(create).await.map_err(|_| closed())?;
    }
    let mut events = WatchClient::new(on.connection).watch(ReceiverStream::new(waiting)).await?.into_inner();
    for _ in 0..watchers {
        let created = events.message().await?.ok_or_else(closed)?;
        if !created.created {
            return Err(Status::internal("an event before its watcher"));
        }
    }
    Ok(Watching { events, thread: on.thread, _requests: requests })
}

struct Watching {
    events: Streaming<pb::WatchResponse>,
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
    let mut tally = Tally::default();
    loop {
        let response = wanted.next(&mut stream).await?;
        for event in response.events {
            let Some(sent) = event.kv.and_then(|kv| stamped(&window, &kv.value)) else { continue };
            if sent >= window.until {
                return Ok(tally);
            }
            tally.note(&window, sent, Ok(()));
            wanted.seen(1);
        }
    }
}

/// All watchers at once, from before what [`prepare`] has put.
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
        readers.spawn_on(async move { while let Ok(Some(_)) = stream.events.message().await {} }, &thread);
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

/// So many keys, one put each, by all clients together.
pub async fn fill(clients: Vec<Connection>, count: u32, keys: Keys) -> Result<Tally> {
    let next = Arc::new(AtomicUsize::new(0));
    let begin = Instant::now();
    let writers = clients.into_iter().map(|to| {
        let (mut client, next, value) = (KvClient::new(to), next.clone(), keys.value());
        tokio::spawn(async move {
            let mut tally = Tally::default();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed) as u32;
                if number >= count {
                    return Ok::<_, Status>(tally);
                }
                let start = Instant::now();
                client.put(put(key("fill", number), &value)).await?;
                tally.operations += 1;
                tally.latency.saturating_record(micros(start.elapsed()));
            }
        })
    });
    let mut all = Tally::default();
    for writer in writers.collect::<Vec<_>>() {
        all.add(&writer.await.expect("writers do not panic")?);
    }
    Ok(Tally { span: Some((begin, Instant::now())), ..all })
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
    async fn next(&self, stream: &mut Watching) -> Result<pb::WatchResponse, Status> {
        let response = stream.events.message().await.and_then(|response| response.ok_or_else(closed));
        response.inspect_err(|_| self.broken.notify_one())
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
        let response = wanted.next(&mut stream).await?;
        let events = response.events.len();
        wanted.seen(events);
    }
}
