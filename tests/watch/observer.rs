//! A watcher that keeps what it saw, and goes on at another member when its stream ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use kontiki_api::etcdserverpb as pb;
use kontiki_api::etcdserverpb::watch_client::WatchClient;
use kontiki_api::mvccpb::event::EventType;
use pb::watch_request::RequestUnion;
use tokio::sync::{mpsc, watch};
use tonic::transport::Channel;

use crate::support::text;

/// One change as a watcher was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub key: String,
    /// None for a deletion.
    pub value: Option<String>,
    pub previous: Option<String>,
}

/// The history of one watcher.
#[derive(Debug, Default)]
pub struct Seen {
    pub name: String,
    pub revisions: BTreeMap<i64, Vec<Change>>,
    pub bookmarks: usize,
    pub resumptions: usize,
}

/// How a watcher reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    Eager,
    /// Pauses after every response, so that it falls behind.
    Slow,
    /// Ends its stream now and then and opens another.
    Restless,
}

/// A running watcher.
pub struct Observer {
    position: Arc<AtomicI64>,
    created: watch::Receiver<bool>,
    /// The revision after which it may end.
    end: watch::Sender<i64>,
    task: tokio::task::JoinHandle<Seen>,
}

impl Observer {
    pub fn start(name: &str, pace: Pace, channels: Vec<Channel>, member: usize, prefix: &'static str) -> Self {
        let position = Arc::new(AtomicI64::new(1));
        let (created_sender, created) = watch::channel(false);
        let (end, end_receiver) = watch::channel(i64::MAX);
        let observing = Observing {
            seen: Seen { name: name.to_owned(), ..Seen::default() },
            pace,
            position: position.clone(),
            created: created_sender,
            end: end_receiver,
            prefix,
        };
        Self { position, created, end, task: tokio::spawn(observing.run(channels, member)) }
    }

    pub async fn created(&self) {
        self.created.clone().wait_for(|created| *created).await.unwrap();
    }

    /// The revision up to which everything was told.
    pub fn position(&self) -> i64 {
        self.position.load(Ordering::SeqCst)
    }

    /// What was seen, once that is everything up to `revision`.
    pub async fn until(self, revision: i64) -> Seen {
        self.end.send_replace(revision);
        let seen = tokio::time::timeout(Duration::from_secs(60), self.task).await;
        let position = self.position.load(Ordering::SeqCst);
        seen.unwrap_or_else(|_| panic!("the watcher does not catch up: at {position} of {revision}")).unwrap()
    }
}

struct Observing {
    seen: Seen,
    pace: Pace,
    position: Arc<AtomicI64>,
    created: watch::Sender<bool>,
    end: watch::Receiver<i64>,
    prefix: &'static str,
}

/// Responses after which a restless watcher opens another stream.
const RESTLESS_RESPONSES: usize = 100;
const SLOW_PAUSE: Duration = Duration::from_millis(3);
/// A quiet stream is asked where it is this often, as an API server with a waiting reader does.
const ASK_PROGRESS: Duration = Duration::from_millis(100);

impl Observing {
    async fn run(mut self, channels: Vec<Channel>, mut member: usize) -> Seen {
        while self.position.load(Ordering::SeqCst) < *self.end.borrow() {
            // A stream that fails, because its member was killed, is followed by one at the next member.
            let finished = self.stream(channels[member].clone()).await.unwrap_or(false);
            if !finished {
                self.seen.resumptions += 1;
                member = (member + 1) % channels.len();
            }
        }
        self.seen
    }

    /// Whether the end was reached.
    async fn stream(&mut self, channel: Channel) -> Result<bool, tonic::Status> {
        let (sender, requests) = mpsc::channel(16);
        let start_revision = self.position.load(Ordering::SeqCst) + 1;
        let create = pb::WatchCreateRequest {
            key: self.prefix.into(),
            range_end: successor(self.prefix).into(),
            start_revision,
            prev_kv: true,
            ..Default::default()
        };
        sender.send(request(RequestUnion::CreateRequest(create))).await.unwrap();
        let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
        let opening = WatchClient::new(channel).max_decoding_message_size(256 << 20).watch(requests).await;
        let mut stream = opening?.into_inner();
        let mut end = self.end.clone();
        let mut responses = 0;
        while self.position.load(Ordering::SeqCst) < *end.borrow() {
            if self.pace == Pace::Restless && responses == RESTLESS_RESPONSES {
                return Ok(false);
            }
            let response = tokio::select! {
                response = stream.message() => response?,
                () = tokio::time::sleep(ASK_PROGRESS) => {
                    let ask = request(RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
                    // A stream that no longer reads requests ends with an error, which `message` tells.
                    let _ = sender.try_send(ask);
                    continue;
                }
                _ = end.changed() => continue,
            };
            let Some(response) = response else { return Ok(false) };
            responses += 1;
            self.take(response);
            if self.pace == Pace::Slow {
                tokio::time::sleep(SLOW_PAUSE).await;
            }
        }
        Ok(true)
    }

    fn take(&mut self, response: pb::WatchResponse) {
        let name = self.seen.name.clone();
        assert!(!response.canceled, "{name}: cancelled: {response:?}");
        if response.created {
            self.created.send_replace(true);
            return;
        }
        let revision = response.header.as_ref().unwrap().revision;
        if response.events.is_empty() {
            // A bookmark: everything up to here has been told.
            self.seen.bookmarks += 1;
            self.advance(revision);
            return;
        }
        let mut of_response: BTreeMap<i64, Vec<Change>> = BTreeMap::new();
        for event in response.events {
            let is_delete = event.r#type() == EventType::Delete;
            let kv = event.kv.unwrap();
            if !is_delete && kv.create_revision != kv.mod_revision {
                assert!(event.prev_kv.is_some(), "{name}: no previous value at {}", kv.mod_revision);
            }
            of_response.entry(kv.mod_revision).or_default().push(Change {
                key: text(&kv.key),
                value: (!is_delete).then(|| text(&kv.value)),
                previous: event.prev_kv.map(|kv| text(&kv.value)),
            });
        }
        for (revision, changes) in of_response {
            assert!(
                revision > self.position.load(Ordering::SeqCst),
                "{name}: revision {revision} after its end was told"
            );
            let before = self.seen.revisions.insert(revision, changes);
            assert!(before.is_none(), "{name}: revision {revision} came in two responses");
            self.advance(revision);
        }
    }

    fn advance(&self, revision: i64) {
        self.position.fetch_max(revision, Ordering::SeqCst);
    }
}

fn request(union: RequestUnion) -> pb::WatchRequest {
    pb::WatchRequest { request_union: Some(union) }
}

/// The end of the range of all keys with a prefix.
fn successor(prefix: &str) -> String {
    let mut end = prefix.to_owned().into_bytes();
    *end.last_mut().unwrap() += 1;
    String::from_utf8(end).unwrap()
}
