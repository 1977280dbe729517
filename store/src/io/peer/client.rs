//! Calls to other members: a connection per member and lane, made when first needed and again after it broke.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::connection::{Call, Connection};
use super::handshake::{self, Removed};
use super::{Identity, Kind, Lane, PeerError, VISITOR};
use crate::consensus::types::Address;
use crate::ids::MemberId;
use crate::io::network::Network;
use crate::limits::{PEER_CONNECT_TIMEOUT, PEER_RECONNECT_PAUSE};
use crate::metrics::{PeerMetrics, PeerTraffic};

/// The calling side of the transport.
pub struct Clients {
    network: Arc<dyn Network>,
    me: Identity,
    metrics: PeerMetrics,
    peers: Mutex<HashMap<(MemberId, Lane), Arc<Client>>>,
    /// Some member has said that this one was removed.
    removed: CancellationToken,
}

impl Clients {
    #[must_use]
    pub fn new(network: Arc<dyn Network>, me: Identity) -> Arc<Self> {
        Self::measured(network, me, PeerMetrics::default())
    }

    /// [`Clients::new`], with the traffic counted.
    #[must_use]
    pub fn measured(network: Arc<dyn Network>, me: Identity, metrics: PeerMetrics) -> Arc<Self> {
        let removed = CancellationToken::new();
        Arc::new(Self { network, me, metrics, peers: Mutex::new(HashMap::new()), removed })
    }

    /// The members that this one has an open connection to.
    #[must_use]
    pub fn connected(&self) -> BTreeSet<MemberId> {
        let peers = self.peers.lock();
        peers.values().filter(|client| client.open_connection().is_some()).map(|client| client.member).collect()
    }

    /// Whether there is an open connection to `member` of this kind.
    #[cfg(test)]
    pub(crate) fn reaches(&self, member: MemberId, lane: Lane) -> bool {
        self.peers.lock().get(&(member, lane)).is_some_and(|client| client.open_connection().is_some())
    }

    #[must_use]
    pub fn me(&self) -> Identity {
        self.me
    }

    /// Cancelled once a member refused this one because it was removed from the cluster.
    #[must_use]
    pub fn removed(&self) -> &CancellationToken {
        &self.removed
    }

    /// The client for `member`; nothing is connected yet.
    #[must_use]
    pub fn get(&self, member: MemberId, address: &Address, lane: Lane) -> Arc<Client> {
        let mut peers = self.peers.lock();
        let client = peers.entry((member, lane)).or_insert_with(|| {
            Arc::new(Client {
                network: self.network.clone(),
                me: self.me,
                member,
                lane,
                traffic: self.metrics.peer(member),
                urls: Mutex::new(Vec::new()),
                live: Mutex::new(None),
                failed: tokio::sync::Mutex::new(None),
                down: AtomicBool::new(false),
                removed: self.removed.clone(),
            })
        });
        client.urls.lock().clone_from(&address.peer_urls);
        client.clone()
    }

    /// Takes in where `member` is reached now; a connection that is open stays.
    pub fn refresh(&self, member: MemberId, address: &Address) {
        let peers = self.peers.lock();
        for (_, client) in peers.iter().filter(|((id, _), _)| *id == member) {
            client.urls.lock().clone_from(&address.peer_urls);
        }
    }

    /// Whether nothing listens at `address` any more: its process is gone, not just slow.
    pub async fn is_gone(&self, address: &Address) -> bool {
        for url in &address.peer_urls {
            let connected = tokio::time::timeout(PEER_CONNECT_TIMEOUT, self.network.connect(url)).await;
            match connected {
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                _ => return false,
            }
        }
        true
    }
}

/// When connecting failed last, and why.
type Failure = (Instant, String);

/// One lane to one member.
pub struct Client {
    network: Arc<dyn Network>,
    me: Identity,
    member: MemberId,
    lane: Lane,
    traffic: PeerTraffic,
    urls: Mutex<Vec<String>>,
    live: Mutex<Option<Arc<Connection>>>,
    /// Held while connecting; answers calls until the pause after a failure is over.
    failed: tokio::sync::Mutex<Option<Failure>>,
    /// So that a member that stays away is said to be away once.
    down: AtomicBool,
    removed: CancellationToken,
}

impl Client {
    #[must_use]
    pub fn member(&self) -> MemberId {
        self.member
    }

    /// Where the traffic with this member is counted.
    #[must_use]
    pub fn traffic(&self) -> &PeerTraffic {
        &self.traffic
    }

    /// Sends a call and waits for its answer at most for `timeout`.
    ///
    /// # Errors
    /// See [`PeerError`]; a timeout counts as lost.
    pub async fn call(self: &Arc<Self>, kind: Kind, body: Bytes, timeout: Duration) -> Result<Bytes, PeerError> {
        let deadline = Instant::now() + timeout;
        let connected = tokio::time::timeout_at(deadline, self.connect()).await;
        let connection = connected.map_err(|_| PeerError::NotSent("timed out connecting".to_owned()))??;
        let call = connection.call(kind, body).inspect_err(|_| self.traffic.sent_failures.inc())?;
        match tokio::time::timeout_at(deadline, call).await {
            Ok(answer) => answer,
            Err(_) => Err(PeerError::Lost(format!("no answer within {} ms", timeout.as_millis()))),
        }
    }

    /// Connects, where there is no connection yet, before the first call; at once, because the member may have started
    /// since it could not be reached.
    ///
    /// # Errors
    /// When the member cannot be reached.
    pub async fn open_ahead(self: &Arc<Self>) -> Result<(), PeerError> {
        if self.open_connection().is_none() {
            *self.failed.lock().await = None;
        }
        self.connect().await.map(drop)
    }

    /// An open connection for calls that must stay in order.
    pub(super) async fn ordered(self: &Arc<Self>) -> Result<Ordered, PeerError> {
        Ok(Ordered(self.connect().await?))
    }

    async fn connect(self: &Arc<Self>) -> Result<Arc<Connection>, PeerError> {
        if let Some(live) = self.open_connection() {
            return Ok(live);
        }
        // On a task of its own: a heartbeat gives up after some milliseconds, and the next one should find it done.
        let this = self.clone();
        let connecting = tokio::spawn(async move { this.reconnect().await });
        connecting.await.unwrap_or_else(|error| Err(PeerError::NotSent(error.to_string())))
    }

    fn open_connection(&self) -> Option<Arc<Connection>> {
        self.live.lock().clone().filter(|live| live.is_open())
    }

    async fn reconnect(&self) -> Result<Arc<Connection>, PeerError> {
        let mut failed = self.failed.lock().await;
        if let Some(live) = self.open_connection() {
            return Ok(live);
        }
        if let Some((when, reason)) = &*failed
            // A removed member is refused by everyone from now on.
            && (when.elapsed() < PEER_RECONNECT_PAUSE || self.removed.is_cancelled())
        {
            return Err(PeerError::NotSent(reason.clone()));
        }
        match self.open().await {
            Ok(connection) => {
                if self.down.swap(false, Ordering::Relaxed) {
                    tracing::info!(member = %self.member, lane = ?self.lane, "connected again");
                }
                *failed = None;
                let connection = Arc::new(connection);
                *self.live.lock() = Some(connection.clone());
                Ok(connection)
            }
            Err(error) => {
                if Removed::is(&error) {
                    self.removed.cancel();
                }
                let reason = error.to_string();
                if !self.down.swap(true, Ordering::Relaxed) {
                    tracing::warn!(member = %self.member, lane = ?self.lane, reason, "no connection");
                }
                *failed = Some((Instant::now(), reason.clone()));
                self.traffic.sent_failures.inc();
                Err(PeerError::NotSent(reason))
            }
        }
    }

    async fn open(&self) -> io::Result<Connection> {
        let urls = self.urls.lock().clone();
        let mut failure = io::Error::other("it has no peer address");
        for url in urls {
            let attempt = async {
                let mut stream = self.network.connect(&url).await?;
                handshake::call(&mut stream, self.me, self.member, self.lane).await?;
                Ok(stream)
            };
            match tokio::time::timeout(PEER_CONNECT_TIMEOUT, attempt).await {
                Ok(Ok(stream)) => return Ok(Connection::start(stream, self.traffic.clone())),
                Ok(Err(error)) => failure = error,
                Err(_) => failure = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(failure)
    }
}

/// Asks whoever listens at `url` something, as a visitor.
///
/// # Errors
/// When nobody answers in time, or refuses.
pub async fn visit(network: &dyn Network, url: &str, kind: Kind, timeout: Duration) -> Result<Bytes, PeerError> {
    let visit = async {
        let mut stream = network.connect(url).await?;
        handshake::call(&mut stream, VISITOR, VISITOR.member, Lane::Bulk).await?;
        Ok::<_, io::Error>(Connection::start(stream, PeerTraffic::default()))
    };
    let deadline = Instant::now() + timeout;
    let not_sent = |error: &dyn std::fmt::Display| PeerError::NotSent(error.to_string());
    let connection = tokio::time::timeout_at(deadline, visit).await.map_err(|error| not_sent(&error))?;
    let connection = connection.map_err(|error| not_sent(&error))?;
    let call = connection.call(kind, Bytes::new())?;
    tokio::time::timeout_at(deadline, call).await.map_err(|_| PeerError::Lost("no answer in time".to_owned()))?
}

/// Calls that leave in the order in which they are made.
pub(super) struct Ordered(Arc<Connection>);

impl Ordered {
    pub(super) fn call(&self, kind: Kind, body: Bytes) -> Result<Call, PeerError> {
        self.0.call(kind, body)
    }
}
