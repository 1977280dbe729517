//! Starting: recover what is on disk, join the parts, listen, and make a cluster where there is none.
//!
//! Every member of a new cluster initialises itself with the same membership; openraft allows exactly that, and the
//! handshake keeps members of another mind out. A member whose log holds anything goes on from it instead, and one that
//! joins an existing cluster waits for what the leader sends it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use openraft::SnapshotPolicy;
use openraft::async_runtime::watch::WatchReceiver;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::auth::Authority;
use super::force::take_over;
use super::inner::{Inner, Raft};
use super::join::{Beginning, identify};
use super::leadership::{self, Contact};
use super::leases::Leases;
use super::maintain::{self, Maintained};
use super::rebuild::{self, Others};
use super::service::{PeerService, Standing};
use super::{Leadership, MemberConfig, StartError};
use crate::consensus::log_store::LogStore;
use crate::consensus::requests::Requests;
use crate::consensus::state_machine::Machine;
use crate::consensus::types::Address;
use crate::consensus::{StateMachine, codec};
use crate::ids::MemberId;
use crate::io::checkpoint::Checkpoints;
use crate::io::clock::SystemClock;
use crate::io::disk::LocalDisk;
use crate::io::engine;
use crate::io::network::{Listener, Network as PeerNetwork, Tcp};
use crate::io::peer::client::Clients;
use crate::io::peer::raft::Network;
use crate::io::peer::snapshot::Receiver;
use crate::io::peer::{Identity, Kind, Lane, server};
use crate::io::random::{Random, SystemRandom};
use crate::io::tls::{self, Certificates, SecureTcp};
use crate::io::wal::{Wal, WalOptions};
use crate::limits;
use crate::metrics::Metrics;
use crate::state::{State, StateOptions};
use crate::wal::segment::Owner;

pub(super) async fn start(mut config: MemberConfig) -> Result<Arc<Inner>, StartError> {
    check(&config)?;
    let authority = Authority::new(&config.auth).map_err(|error| StartError::Config(error.to_string()))?;
    let network = peer_network(&config)?;
    let seeds = seeds(&config);
    let beginning = identify(&mut config, network.clone()).await?;
    let metrics = Arc::new(Metrics::new());
    for (name, stage, is_open) in config.gates.all() {
        metrics.server.features.with_label_values(&[name, stage]).set(is_open.into());
    }
    let me = Identity { cluster: config.cluster_id, member: config.id };
    let clients = Clients::measured(network.clone(), me, metrics.peers.clone());
    let others = Others { seeds, network: network.clone(), clients: clients.clone() };
    let Recovered { wal, state, checkpoints } = rebuild::recover(&config, &others, &metrics).await?;
    let requests = Requests::new(config.id, SystemRandom.next_u64());
    let reader = state.reader();
    let storage = StateMachine::storage(&state);
    let log = wal.reader();
    let pristine = log.bounds().1.is_none() && log.vote().is_empty();
    if config.force_new_cluster && !pristine {
        take_over(&wal, state.applied(), &config).await.map_err(|error| data(&config.data_dir, &error))?;
    }
    if pristine && beginning == Beginning::Initialise {
        refuse_amnesia(&config, &clients).await?;
    }
    // Only now: members that start together would otherwise connect, and wait for each other's answers.
    let listeners = listen(&config, &*network).await?;
    let machine =
        Machine::new(state, checkpoints.clone(), requests.clone()).map_err(|error| data(&config.data_dir, &error))?;
    let machine = machine.measured(metrics.apply.clone(), metrics.snapshots.clone(), config.warn_apply);
    let (progress, running) = (machine.progress(), machine.running());
    let quota = (config.id, config.maintenance.quota_backend_bytes);
    let maintained = Maintained::new(quota, &reader, checkpoints.clone(), machine.rebuilder());
    let settings = Arc::new(settings(&config)?);
    let network = Network::new(clients.clone());
    let raft = Raft::new(config.id, settings, network, LogStore::new(Arc::new(wal), config.id), machine)
        .await
        .map_err(|error| StartError::Raft(error.to_string()))?;
    running.store(true, Ordering::Relaxed);
    let (lost, losses) = mpsc::channel(limits::LOST_CONNECTIONS_WAITING);
    let (leading, leadership) = watch::channel(Leadership::default());
    let inner = Arc::new(Inner {
        leases: Leases::new(reader.clone(), Arc::new(SystemClock::default()), metrics.server.leases_renewed.clone()),
        barrier: Arc::default(),
        leads: Arc::default(),
        contact: Contact::default(),
        started: Instant::now(),
        reconfiguration: Mutex::default(),
        left: CancellationToken::new(),
        snapshots: Arc::new(Receiver::new(checkpoints.clone(), metrics.snapshots.clone())),
        checkpoints,
        authority,
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
        metrics,
        progress,
        leadership,
        lost,
        maintained,
    });
    run_tasks(&inner, listeners, leading, losses);
    bootstrap(&inner, pristine, beginning).await?;
    Ok(inner)
}

/// Where the settings say that others are, whatever becomes of `config.peers`.
fn seeds(config: &MemberConfig) -> Vec<String> {
    let others = config.peers.iter().filter(|(id, _)| **id != config.id);
    others.flat_map(|(_, peer)| peer.peer_urls.clone()).collect()
}

fn check(config: &MemberConfig) -> Result<(), StartError> {
    refuse_etcds(&config.data_dir)?;
    if !config.peers.contains_key(&config.id) {
        return Err(StartError::Config(format!("member {} is not in the initial cluster", config.id)));
    }
    for (id, peer) in &config.peers {
        let known = peer.peer_urls.iter().all(|url| url.starts_with("http://") || url.starts_with("https://"));
        if peer.peer_urls.is_empty() || !known {
            return Err(StartError::Config(format!(
                "member {id} ({}) needs peer URLs that start with http:// or https://",
                peer.name
            )));
        }
    }
    Ok(())
}

/// Plain TCP, or TLS with the files that the configuration names; with `--peer-auto-tls` they are made first.
fn peer_network(config: &MemberConfig) -> Result<Arc<dyn PeerNetwork>, StartError> {
    let Some(settings) = &config.peer_tls else { return Ok(Tcp::shared()) };
    let hosts: Vec<String> = config.peer_listen.iter().map(|address| address.ip().to_string()).collect();
    let settings = tls::self_signed(settings, &config.data_dir.join("fixtures/peer"), &hosts)?;
    Ok(SecureTcp::shared(Certificates::load(settings)?))
}

async fn listen(config: &MemberConfig, network: &dyn PeerNetwork) -> Result<Vec<Box<dyn Listener>>, StartError> {
    let mut listeners = Vec::new();
    for address in &config.peer_listen {
        let listener = network.listen(*address).await;
        listeners.push(listener.map_err(|source| StartError::Listen { address: *address, source })?);
    }
    Ok(listeners)
}

/// A directory that etcd made is not touched, and whoever gave it hears how to take it over.
fn refuse_etcds(dir: &Path) -> Result<(), StartError> {
    let database = dir.join("member/snap/db");
    if !database.exists() && !dir.join("member/wal").exists() {
        return Ok(());
    }
    let reason = format!(
        "it was made by etcd. To go on with its data, stop etcd, run `kontiki snapshot restore {} --skip-hash-check \
         --data-dir NEW` on every member with its --name, --initial-cluster and --initial-advertise-peer-urls (all from \
         the same file), and start with --data-dir NEW",
        database.display()
    );
    Err(StartError::Data { dir: dir.to_owned(), reason })
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

pub(super) async fn open(config: &MemberConfig, metrics: &Metrics) -> Result<Opened, StartError> {
    let has_others = config.peers.len() > 1;
    let dir = config.data_dir.join("member");
    let options = WalOptions {
        dir: config.log_dir(),
        owner: Owner { cluster: config.cluster_id.0, member: config.id.0 },
        segment_bytes: limits::LOG_SEGMENT_BYTES,
        cache_bytes: limits::LOG_CACHE_BYTES,
        fsync: config.fsync,
    };
    let state_options = StateOptions {
        metrics: metrics.state.clone(),
        compaction_pace: config.maintenance.compaction_pace,
        ..StateOptions::default()
    };
    let wal_metrics = metrics.wal.clone();
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
        let state = match State::open(&state_dir, state_options) {
            Ok(state) => state,
            Err(error) if has_others && error.is_damage() => return damaged(error.to_string()),
            Err(error) => return Err(at(&state_dir, &error)),
        };
        let wal = Wal::open_measured(Arc::new(LocalDisk), &SystemRandom, options.clone(), wal_metrics);
        let wal = wal.map_err(|e| at(&options.dir, &e))?;
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
            answer.map_or(Standing::Unknown, |answer| codec::decode(&answer).unwrap_or(Standing::Unknown))
        }
    });
    let standings = futures::future::join_all(others).await;
    if standings.contains(&Standing::Removed) || clients.removed().is_cancelled() {
        return Err(StartError::Removed(config.id));
    }
    match standings.contains(&Standing::Joined) {
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
        enable_pre_vote: Some(config.tuning.pre_vote),
        // A restarted leader must not go on as one: its state may lack what it had committed.
        enable_leader_restore: Some(false),
        // Followers hear of an entry while the leader's own disk still writes it.
        broadcast_submitted_on_append: Some(true),
        // A leader cut off from the majority falls silent now and then, so that the others may elect.
        quorum_loss_probe_interval: Some(2 * millis(timing.election_max)),
        backoff: "10ms 20ms 40ms 80ms 160ms 200ms".to_owned(),
        max_payload_entries: limits::APPEND_ENTRIES_MAX,
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: config.tuning.keep_entries,
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
    tasks.spawn(leadership::follow(inner.clone(), leading));
    tasks.spawn(inner.clone().watch_connections(losses));
    tasks.spawn(inner.clone().run_leases());
    tasks.spawn(inner.clone().run_upkeep());
    tasks.spawn(inner.clone().publish());
    tasks.spawn(inner.clone().run_reconfiguration());
    tasks.spawn(inner.clone().watch_standing());
    tasks.spawn(inner.clone().keep_roster());
    maintain::run(inner);
}

async fn bootstrap(inner: &Inner, pristine: bool, beginning: Beginning) -> Result<(), StartError> {
    use openraft::errors::{InitializeError, RaftError};
    if !pristine {
        let membership = inner.raft.server_metrics().borrow_watched().membership_config.clone();
        if membership.voter_ids().eq([inner.config.id]) {
            // Nobody else could have a say.
            let elected = inner.raft.trigger().elect(false).await;
            elected.map_err(|error| StartError::Raft(error.to_string()))?;
        }
        return Ok(());
    }
    if beginning == Beginning::Join {
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
