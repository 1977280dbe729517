//! What a client of a load does, again and again.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use kontiki_api::etcdserverpb as pb;
use kontiki_api::etcdserverpb::kv_client::KvClient;
use kontiki_api::etcdserverpb::lease_client::LeaseClient;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::request_op::Request;
use pb::response_op::Response;
use rand::Rng as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::connection::Connection;
use super::drive::{Operate, Tally};
use super::load::{Kind, Load};
use super::measure::micros;
use super::servers::Server;
use super::watchers;

/// Keys that puts and gets are spread over.
const SPREAD: u32 = 10_000;
const TXN_OPS: u32 = 100;
const LEASE_TTL_S: i64 = 600;

pub fn key(prefix: &str, number: u32) -> Bytes {
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
    pub fn value(self) -> Bytes {
        // Not one letter, which a compressing store would make nothing of.
        let mut random = random();
        (0..self.value_bytes).map(|_| random.random::<u8>()).collect()
    }
}

/// Puts what a load reads.
pub async fn prepare(load: Load, server: &Server, keys: Keys) -> Result<()> {
    let (prefix, count) = match load.kind {
        Kind::Get | Kind::GetSerializable | Kind::Mixed => ("spread", SPREAD),
        Kind::WatchResume => return watchers::make_history(server, keys, load.clients).await,
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

pub fn get(key: Bytes) -> pb::RangeRequest {
    pb::RangeRequest { key, ..Default::default() }
}

pub fn put(key: Bytes, value: &Bytes) -> pb::PutRequest {
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

pub fn closed() -> Status {
    Status::cancelled("the stream has ended")
}

impl Operate for KeepAlive {
    async fn operate(&mut self) -> Result<(), Status> {
        self.requests.send(pb::LeaseKeepAliveRequest { id: self.id }).await.map_err(|_| closed())?;
        let answer = self.answers.message().await?.ok_or_else(closed)?;
        (answer.ttl > 0).then_some(()).ok_or_else(|| Status::not_found("the lease has expired"))
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
