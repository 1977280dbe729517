//! Starting: recover what is on disk, join the parts, listen, and make a cluster where there is none.
//!
//! Every member of a new cluster initialises itself with the same membership; openraft allows exactly that, and the
//! handshake keeps members of another mind out. A member whose log holds anything goes on from it instead.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use openraft::SnapshotPolicy;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::barrier::Barrier;
use super::inner::{Inner, Raft};
use super::leases::Leases;
use super::maintain::{self, Maintained};
use super::service::PeerService;
use super::{Leadership, MemberConfig, StartError, rebuild};
use crate::consensus::log_store::LogStore;
use crate::consensus::requests::Requests;
use crate::consensus::state_machine::Machine;
use crate::consensus::types::Address;
use crate::consensus::{StateMachine, codec};
use crate::ids::{MemberId, Term};
use crate::io::checkpoint::Checkpoints;
use crate::io::clock::SystemClock;
use crate::io::disk::LocalDisk;
use crate::io::engine;
use crate::io::network::{Listener, Tcp};
use crate::io::peer::client::Clients;
use crate::io::peer::raft::Network;
use crate::io::peer::snapshot::Receiver;
use crate::io::peer::{Identity, Kind, Lane, server};
use crate::io::random::{Random, SystemRandom};
use crate::io::wal::{Wal, WalOptions};
use crate::limits;
use crate::state::{State, StateOptions};
use crate::wal::segment::Owner;

pub(super) async fn start(config: MemberConfig) -> Result<Arc<Inner>, StartError> {
    check(&config)?;
    let me = Identity { cluster: config.cluster_id, member: config.id };
    let clients = Clients::new(Tcp::shared(), me);
    let Recovered { wal, state, checkpoints } = rebuild::recover(&config, &clients).await?;
    let requests = Requests::new(config.id, SystemRandom.next_u64());
    let reader = state.reader();
    let storage = StateMachine::storage(&state);
    let log = wal.reader();
    let pristine = log.bounds().1.is_none() && log.vote().is_empty();
    if pristine {
        refuse_amnesia(&config, &clients).await?;
    }
    // Only now: members that start together would otherwise connect, and wait for each other's answers.
    let mut listeners = Vec::new();
    for address in &config.peer_listen {
        let listener = Tcp::shared().listen(*address).await;
        listeners.push(listener.map_err(|source| StartError::Listen { address: *address, source })?);
    }
    let machine =
        Machine::new(state, checkpoints.clone(), requests.clone()).map_err(|error| data(&config.data_dir, &error))?;
    let (progress, running) = (machine.progress(), machine.running());
    let quota = (config.id, config.maintenance.quota_backend_bytes);
    let maintained = Maintained::new(quota, &reader, checkpoints.clone(), machine.rebuilder());
    let settings = Arc::new(settings(&config)?);
    let network = Network::new(clients.clone());
    let raft = Raft::new(config.id, settings, network, LogStore::new(Arc::new(wal)), machine)
        .await
        .map_err(|error| StartError::Raft(error.to_string()))?;
    running.store(true, Ordering::Relaxed);
    let (lost, losses) = mpsc::channel(limits::LOST_CONNECTIONS_WAITING);
    let (leading, leadership) = watch::channel(Leadership::default());
    let inner = Arc::new(Inner {
        leases: Leases::new(reader.clone(), Arc::new(SystemClock::default())),
        barrier: Barrier::default(),
        snapshots: Arc::new(Receiver::new(checkpoints)),
        stopping: AtomicBool::new(false),
        stop: CancellationToken::new(),
        tasks: TaskTracker::new(),
        config,
        raft,
        reader,
        storage,
        log,
        clients,
        requests,
        progress,
        leadership,
        lost,
        maintained,
    });
    run_tasks(&inner, listeners, leading, losses);
    bootstrap(&inner, pristine).await?;
    Ok(inner)
}

fn check(config: &MemberConfig) -> Result<(), StartError> {
    if !config.peers.contains_key(&config.id) {
        return Err(StartError::Config(format!("member {} is not in the initial cluster", config.id)));
    }
    for (id, peer) in &config.peers {
        let plain = peer.peer_urls.iter().all(|url| url.starts_with("http://"));
        if peer.peer_urls.is_empty() || !plain {
            return Err(StartError::Config(format!(
                "member {id} ({}) needs peer URLs that start with http://",
                peer.name
            )));
        }
    }
    Ok(())
}

pub(super) struct Recovered {
    wal: Wal,
    state: State,
    checkpoints: Checkpoints,
}

/// What was found on disk.
pub(super) enum Opened {
    Whole(Box<Recovered>),
    /// The state cannot be used, and there are others to get one from.
    Damaged {
        reason: String,
        checkpoints: Checkpoints,
    },
}

pub(super) async fn open(config: &MemberConfig) -> Result<Opened, StartError> {
    let has_others = config.peers.len() > 1;
    let dir = config.data_dir.join("member");
    let options = WalOptions {
        dir: dir.join("log"),
        owner: Owner { cluster: config.cluster_id.0, member: config.id.0 },
        segment_bytes: limits::LOG_SEGMENT_BYTES,
        cache_bytes: limits::LOG_CACHE_BYTES,
        fsync: config.fsync,
    };
    let open = move || -> Result<Opened, (PathBuf, String)> {
        let at = |dir: &Path, error: &dyn std::fmt::Display| (dir.to_owned(), error.to_string());
        // The state first: its lock keeps a second process away from the log too.
        let state_dir = dir.join("state");
        let damaged = |reason: String| -> Result<Opened, (PathBuf, String)> {
            let checkpoints = Checkpoints::open(dir.join("snapshots")).map_err(|e| at(&dir, &e))?;
            Ok(Opened::Damaged { reason, checkpoints })
        };
        if let Some(reason) = engine::damage(&state_dir).filter(|_| has_others) {
            return damaged(reason);
        }
        let state = match State::open(&state_dir, StateOptions::default()) {
            Ok(state) => state,
            Err(error) if has_others && error.is_damage() => return damaged(error.to_string()),
            Err(error) => return Err(at(&state_dir, &error)),
        };
        let wal = Wal::open(Arc::new(LocalDisk), &SystemRandom, options.clone()).map_err(|e| at(&options.dir, &e))?;
        let (purged, _) = wal.reader().bounds();
        if let Some(purged) = purged.filter(|purged| has_others && purged.index > state.applied().index.0) {
            let reason =
                format!("it ends at entry {}, but the log begins after {}", state.applied().index, purged.index);
            return damaged(reason);
        }
        let checkpoints = Checkpoints::open(dir.join("snapshots")).map_err(|e| at(&dir, &e))?;
        Ok(Opened::Whole(Box::new(Recovered { wal, state, checkpoints })))
    };
    let opened = tokio::task::spawn_blocking(open).await.expect("recovery does not panic");
    opened.map_err(|(dir, reason)| StartError::Data { dir, reason })
}

/// A member that lost its directory must not come back under its old id: it would vote again in terms it has voted in, and
/// count for entries that it no longer has. The others remember it.
async fn refuse_amnesia(config: &MemberConfig, clients: &Clients) -> Result<(), StartError> {
    let others = config.peers.iter().filter(|(id, _)| **id != config.id).map(|(id, peer)| {
        let client = clients.get(*id, &Address { peer_urls: peer.peer_urls.clone() }, Lane::Control);
        async move {
            let answer = client.call(Kind::IsKnown, Bytes::new(), limits::IS_KNOWN_TIMEOUT).await;
            answer.is_ok_and(|answer| codec::decode::<bool>(&answer).unwrap_or(false))
        }
    });
    match futures::future::join_all(others).await.contains(&true) {
        true => Err(StartError::Config(format!(
            "member {} has already been bootstrapped, but its data directory is empty: remove it from the cluster and \
             add it again as a new member",
            config.id
        ))),
        false => Ok(()),
    }
}

fn data(dir: &Path, error: &io::Error) -> StartError {
    StartError::Data { dir: dir.to_owned(), reason: error.to_string() }
}

fn settings(config: &MemberConfig) -> Result<openraft::Config, StartError> {
    let millis = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let timing = config.timing;
    let settings = openraft::Config {
        cluster_name: config.cluster_id.to_string(),
        heartbeat_interval: millis(timing.heartbeat),
        election_timeout_min: millis(timing.election_min),
        election_timeout_max: millis(timing.election_max),
        enable_pre_vote: Some(true),
        // A restarted leader must not go on as one: its state may lack what it had committed.
        enable_leader_restore: Some(false),
        // Followers hear of an entry while the leader's own disk still writes it.
        broadcast_submitted_on_append: Some(true),
        // A leader cut off from the majority falls silent now and then, so that the others may elect.
        quorum_loss_probe_interval: Some(2 * millis(timing.election_max)),
        backoff: "10ms 20ms 40ms 80ms 160ms 200ms".to_owned(),
        max_payload_entries: limits::APPEND_ENTRIES_MAX,
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: limits::LOG_KEEP_ENTRIES,
        purge_batch_size: 1024,
        replication_lag_threshold: limits::LOG_KEEP_ENTRIES,
        ..Default::default()
    };
    settings.validate().map_err(|error| StartError::Config(error.to_string()))
}

fn run_tasks(
    inner: &Arc<Inner>,
    listeners: Vec<Box<dyn Listener>>,
    leading: watch::Sender<Leadership>,
    losses: mpsc::Receiver<MemberId>,
) {
    let tasks = &inner.tasks;
    let service = Arc::new(PeerService(Arc::downgrade(inner)));
    for listener in listeners {
        tasks.spawn(server::serve(listener, inner.clients.me(), service.clone(), inner.stop.clone()));
    }
    tasks.spawn(follow_leadership(inner.clone(), leading));
    tasks.spawn(inner.clone().watch_connections(losses));
    tasks.spawn(inner.clone().run_leases());
    tasks.spawn(inner.clone().run_upkeep());
    tasks.spawn(inner.clone().publish());
    maintain::run(inner);
}

/// Turns Raft's metrics into [`Leadership`], and stops the process when Raft itself has failed.
async fn follow_leadership(inner: Arc<Inner>, leading: watch::Sender<Leadership>) {
    // These metrics change with the leader or the vote only, not with every entry.
    let mut metrics = inner.raft.server_metrics();
    loop {
        let now = {
            let metrics = metrics.borrow_watched();
            let leader = metrics.current_leader;
            Leadership { leader, term: Term(metrics.vote.leader_id.term), is_self: leader == Some(inner.config.id) }
        };
        leading.send_if_modified(|known| {
            let changed = *known != now;
            if changed && known.leader != now.leader {
                match now.leader {
                    Some(leader) => {
                        tracing::info!(%leader, term = %now.term, is_self = now.is_self, "a leader is known")
                    }
                    None => tracing::info!(term = %now.term, "no leader is known"),
                }
            }
            *known = now;
            changed
        });
        tokio::select! {
            changed = metrics.changed() => if changed.is_err() { break },
            () = inner.stop.cancelled() => return,
        }
    }
    if !inner.is_stopping() {
        let failed = inner.raft.metrics().borrow_watched().running_state.clone().err();
        let reason = failed.map_or_else(|| "it ended".to_owned(), |error| error.to_string());
        crate::io::abort(&format!("raft stopped by itself: {reason}; stopping the process"));
    }
}

async fn bootstrap(inner: &Inner, pristine: bool) -> Result<(), StartError> {
    use openraft::errors::{InitializeError, RaftError};
    if !pristine {
        if inner.config.peers.len() == 1 {
            // Nobody else could have a say.
            let elected = inner.raft.trigger().elect(false).await;
            elected.map_err(|error| StartError::Raft(error.to_string()))?;
        }
        return Ok(());
    }
    let members: BTreeMap<MemberId, Address> =
        inner.config.peers.iter().map(|(id, peer)| (*id, Address { peer_urls: peer.peer_urls.clone() })).collect();
    match inner.raft.initialize(members).await {
        // Not allowed: another member was faster, and its log is here already.
        Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
        Err(error) => Err(StartError::Raft(error.to_string())),
    }
}
