//! The configuration as a whole: command line, environment and file into settings, and settings into a member.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::notice::Level;
use super::settings::AutoCompaction;
use super::url::strings;
use super::*;

/// What a command line (and `NAME=value` words before it) make of the settings, and the messages on the way.
fn settled(words: &str) -> Result<(StoreSettings, Vec<String>), String> {
    settled_with_file(words, None)
}

fn settled_with_file(words: &str, file: Option<&str>) -> Result<(StoreSettings, Vec<String>), String> {
    let (variables, words): (Vec<&str>, Vec<&str>) =
        words.split_whitespace().partition(|word| word.starts_with("ETCD_"));
    let words: Vec<String> = words.into_iter().map(str::to_owned).collect();
    let variables: Vec<(String, String)> = variables
        .into_iter()
        .map(|variable| variable.split_once('=').unwrap())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let line = words::parse(&words).map_err(|error| error.to_string())?;
    let read = |_: &Path| file.map(str::to_owned).ok_or(io::Error::from(io::ErrorKind::NotFound));
    let mut notices = Vec::new();
    let settings = settle(line.values, &variables, read, &mut notices).map_err(|error| error.to_string())?;
    let warnings = notices.into_iter().filter(|notice| notice.level == Level::Warn);
    Ok((settings, warnings.map(|notice| notice.message).collect()))
}

/// The settings of words that must do.
fn good(words: &str) -> StoreSettings {
    settled(words).unwrap_or_else(|error| panic!("{words}: {error}")).0
}

#[test]
fn the_defaults_are_etcds() {
    let (settings, warnings) = settled("").unwrap();
    assert_eq!(settings.data_dir, PathBuf::from("default.etcd"));
    assert_eq!(strings(&settings.advertise_client_urls), ["http://localhost:2379"]);
    assert_eq!(settings.client_listeners[0].address.to_string(), "127.0.0.1:2379");
    assert_eq!((settings.requests.txn_ops_max, settings.requests.request_bytes_max), (128, 1_572_864));
    assert_eq!(settings.compaction.auto, AutoCompaction::Off);
    assert!(settings.fsync && settings.raft.pre_vote && settings.http.gateway);
    assert!(matches!(&warnings[..], [only] if only.contains("default name")), "{warnings:?}");
    // As etcd 3.4 and later log them.
    let config = StoreConfig::new(&settings).unwrap();
    assert_eq!(config.member.id.to_string(), "8e9e05c52164694d");
    assert_eq!(config.member.cluster_id.to_string(), "cdf818194e3a8c32");
}

#[test]
fn what_kubeadm_passes_is_taken() {
    let (settings, warnings) = settled(
        "--advertise-client-urls=https://10.0.0.1:2379 --cert-file=/pki/server.crt --client-cert-auth=true \
         --data-dir=/var/lib/etcd --experimental-initial-corrupt-check=true \
         --experimental-watch-progress-notify-interval=5s --initial-advertise-peer-urls=https://10.0.0.1:2380 \
         --initial-cluster=cp1=https://10.0.0.1:2380 --key-file=/pki/server.key \
         --listen-client-urls=https://127.0.0.1:2379,https://10.0.0.1:2379 \
         --listen-metrics-urls=http://127.0.0.1:2381 --listen-peer-urls=https://10.0.0.1:2380 --name=cp1 \
         --peer-cert-file=/pki/peer.crt --peer-client-cert-auth=true --peer-key-file=/pki/peer.key \
         --peer-trusted-ca-file=/pki/ca.crt --snapshot-count=10000 --trusted-ca-file=/pki/ca.crt",
    )
    .unwrap();
    assert_eq!(settings.requests.watch_progress_notify_interval, Duration::from_secs(5));
    assert!(settings.gates.is_open("InitialCorruptCheck"));
    assert!(settings.client_listeners.iter().all(|listener| listener.tls && !listener.plaintext));
    assert_eq!(settings.client_listeners.len(), 2);
    assert_eq!(settings.metrics_listeners[0].address.to_string(), "127.0.0.1:2381");
    assert_eq!(settings.client_tls.trusted_ca_file.as_deref(), Some(Path::new("/pki/ca.crt")));
    assert!(settings.peer_tls.client_cert_auth);
    let expected = [
        "--experimental-initial-corrupt-check is deprecated, use --feature-gates=InitialCorruptCheck=true instead",
        "--experimental-watch-progress-notify-interval is deprecated, use --watch-progress-notify-interval instead",
    ];
    assert_eq!(warnings, expected);
}

#[test]
fn what_older_manifests_pass_is_taken_with_a_warning() {
    let (_, warnings) = settled(
        "--name a --enable-v2 --proxy=off --v2-deprecation=not-yet --max-snapshots 5 --max-wals 5 \
         --discovery-fallback exit --discovery= --logger zap --enable-pprof -vv",
    )
    .unwrap();
    let names = ["enable-pprof", "enable-v2", "logger", "max-snapshots", "max-wals", "proxy", "v2-deprecation"];
    let expected = names.map(|name| format!("--{name} is accepted and has no effect"));
    assert_eq!(warnings, expected);
}

#[test]
fn a_flag_that_nothing_obeys_yet_is_told() {
    let (settings, warnings) = settled(
        "--name a --max-txn-ops 200 --grpc-keepalive-min-time 1s --compaction-batch-limit 7 \
         --compaction-sleep-interval 3ms --downgrade-check-time 1s \
         --feature-gates=LeaseCheckpoint=true,CompactHashCheck=false",
    )
    .unwrap();
    let config = StoreConfig::new(&settings).unwrap();
    assert_eq!(config.edge.max_txn_ops, 200);
    let maintenance = config.member.maintenance;
    let pace = crate::state::CompactionPace { batch: 7, pause: Duration::from_millis(3) };
    assert_eq!((maintenance.compaction_pace, maintenance.compact_hash_check_time), (pace, Duration::ZERO));
    assert_eq!(maintenance.version_check_time, Duration::from_secs(1));
    let expected = [
        "--grpc-keepalive-min-time is accepted and has no effect",
        "the feature gate LeaseCheckpoint is accepted and has no effect",
    ];
    assert_eq!(warnings, expected);
}

#[test]
fn the_environment_is_the_same_as_flags() {
    let settings =
        good("ETCD_NAME=m1 ETCD_LISTEN_CLIENT_URLS=http://127.0.0.1:1 ETCD_ADVERTISE_CLIENT_URLS=http://a:1");
    assert_eq!((settings.name.as_str(), settings.data_dir.as_path()), ("m1", Path::new("m1.etcd")));
    assert!(settled("ETCD_NAME=m1 --name m1").unwrap_err().contains("is shadowed by corresponding command-line flag"));
    let (_, warnings) = settled("ETCD_NAMES=m1 --name a").unwrap();
    assert_eq!(warnings, ["unrecognized environment variable"]);
}

#[test]
fn a_configuration_file_is_alone() {
    let file = "name: m1\nelection-timeout: 500\nheartbeat-interval: 100\nlisten-client-urls: http://127.0.0.1:1\n";
    for words in ["--config-file x --name m2 --pre-vote=false", "ETCD_CONFIG_FILE=x ETCD_NAME=m2 --name m3"] {
        let (settings, _) = settled_with_file(words, Some(file)).unwrap();
        assert_eq!((settings.name.as_str(), settings.raft.pre_vote), ("m1", true), "{words}");
        assert_eq!(settings.raft.election_ms, 500);
    }
    let (_, warnings) = settled_with_file("--config-file x", Some("name: a\nnmae: b\n")).unwrap();
    assert_eq!(warnings, ["unknown key of the configuration file is ignored"]);
    let missing = settled("--config-file /none").unwrap_err();
    assert!(missing.starts_with("cannot read the configuration file /none: "), "{missing}");
    let wrong = settled_with_file("--config-file x", Some("snapshot-count: a")).unwrap_err();
    assert!(wrong.starts_with("the configuration file x: invalid value for \"snapshot-count\""), "{wrong}");
}

#[test]
fn the_name_alone_is_a_cluster() {
    let member = |words| StoreConfig::new(&good(words)).unwrap().member;
    let alone = member("--name a --initial-advertise-peer-urls http://127.0.0.1:1");
    assert_eq!(alone.peers[&alone.id].name, "a");
    assert_eq!(alone.peers[&alone.id].peer_urls, ["http://127.0.0.1:1"]);
}

#[test]
fn all_members_compute_the_same_identities() {
    let cluster = "--initial-cluster a=http://127.0.0.1:1,b=http://127.0.0.1:2,c=http://127.0.0.1:3";
    let member = |name: &str, port: u16, token: &str| {
        let words = format!(
            "--name {name} --initial-advertise-peer-urls http://127.0.0.1:{port} {cluster} --initial-cluster-token {token}"
        );
        StoreConfig::new(&good(&words)).unwrap().member
    };
    let (one, other) = (member("a", 1, "t"), member("c", 3, "t"));
    assert_eq!((one.cluster_id, &one.peers), (other.cluster_id, &other.peers));
    assert!(one.id != other.id && one.peers.contains_key(&one.id) && one.peers.contains_key(&other.id));
    let elsewhere = member("a", 1, "other");
    assert!(elsewhere.cluster_id != one.cluster_id && elsewhere.id != one.id);
}

#[test]
fn settings_that_cannot_be_used_are_refused_in_etcds_words() {
    let advertised = "--advertise-client-urls http://127.0.0.1:1";
    for (words, reason) in [
        (
            "--listen-client-urls http://127.0.0.1:1",
            "--advertise-client-urls is required when --listen-client-urls is set explicitly",
        ),
        (
            &format!("--listen-client-urls http://example.org:1 {advertised}"),
            "expected IP in URL for binding (http://example.org:1)",
        ),
        ("--listen-peer-urls http://example.org:1", "expected IP in URL for binding (http://example.org:1)"),
        ("--listen-metrics-urls http://example.org:1", "expected IP in URL for binding (http://example.org:1)"),
        (
            "--listen-metrics-urls https://127.0.0.1:1",
            "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url",
        ),
        (
            &format!("--listen-client-urls https://127.0.0.1:1 {advertised}"),
            "TLS key/cert (--cert-file, --key-file) must be provided for client url https://127.0.0.1:1 with HTTPS scheme",
        ),
        ("--listen-peer-urls https://127.0.0.1:1", "TLS key/cert (--peer-cert-file, --peer-key-file) must be provided"),
        ("--listen-peer-urls unix://a:1", "members do not speak over unix sockets"),
        (
            "--initial-advertise-peer-urls http://:2380",
            "--initial-advertise-peer-urls \"http://:2380\" must be \"host:port\" (unexpected empty host (http://:2380))",
        ),
        (
            "--advertise-client-urls http://:1",
            "must be in the format \"host:port\", \"unix:/path/to/socket\" or \"unixs:/path/to/socket\"",
        ),
        ("--heartbeat-interval 0", "--heartbeat-interval must be >0 (set to 0ms)"),
        ("--election-timeout 0", "--election-timeout must be >0 (set to 0ms)"),
        (
            "--heartbeat-interval 300",
            "--election-timeout[1000ms] should be at least as 5 times as --heartbeat-interval[300ms]",
        ),
        ("--election-timeout 50001", "--election-timeout[50001ms] is too long, and should be set less than 50000ms"),
        ("--auto-compaction-mode hourly", "unknown auto-compaction-mode \"hourly\""),
        ("--auto-compaction-mode=", "undefined auto-compaction-mode"),
        ("--auto-compaction-retention soon", "error parsing CompactionRetention: "),
        ("--compact-hash-check-time 0s", "--compact-hash-check-time must be >0 (set to 0s)"),
        ("--feature-gates Nonsense=true", "unrecognized feature gate: Nonsense"),
        (
            "--tls-min-version TLS1.3 --tls-max-version TLS1.2",
            "min version (TLS1.3) is greater than max version (TLS1.2)",
        ),
        ("--tls-min-version TLS1.1", "unexpected TLS version \"TLS1.1\" (must be one of: TLS1.2, TLS1.3)"),
        (
            "--tls-min-version TLS1.3 --cipher-suites TLS_AES_128_GCM_SHA256",
            "cipher suites cannot be configured when only TLS1.3 is enabled",
        ),
        ("--cipher-suites TLS_NONSENSE", "unexpected TLS cipher suite \"TLS_NONSENSE\""),
        ("--cert-file a", "--key-file and --cert-file must both be present"),
        ("--peer-key-file a", "--peer-key-file and --peer-cert-file must both be present"),
        ("--auth-token magic", "auth: invalid auth options"),
        ("--logger capnslog", "--logger=capnslog is removed in v3.5"),
        ("--log-level loud", "unrecognized level: \"loud\""),
        ("--discovery https://discovery.etcd.io/x", "--discovery: v2 discovery was removed from etcd"),
        ("--discovery-fallback proxy", "--discovery-fallback: the v2 proxy was removed from etcd"),
        ("--discovery-srv example.org", "--discovery-srv: bootstrap by discovery is not supported"),
        ("--data-dir a --wal-dir a", "--wal-dir must be a directory of its own"),
    ] {
        let refused = settled(words).map(|_| ()).unwrap_err();
        assert!(refused.contains(reason), "{words}: {refused:?} does not contain {reason:?}");
    }
}

#[test]
fn auto_compaction_is_a_duration_or_a_number() {
    for (words, expected) in [
        ("--auto-compaction-retention 8", AutoCompaction::Periodic(Duration::from_secs(8 * 3600))),
        ("--auto-compaction-retention 5m", AutoCompaction::Periodic(Duration::from_secs(300))),
        ("--auto-compaction-retention 0", AutoCompaction::Off),
        ("--auto-compaction-mode revision --auto-compaction-retention 1000", AutoCompaction::Revision(1000)),
    ] {
        assert_eq!(good(words).compaction.auto, expected, "{words}");
    }
}

#[test]
fn what_etcd_corrects_is_corrected_with_a_warning() {
    let (settings, warnings) =
        settled("--name a --bcrypt-cost 40 --watch-progress-notify-interval 50ms --max-request-bytes 20971520")
            .unwrap();
    assert_eq!(settings.auth.bcrypt_cost, 10);
    assert_eq!(settings.requests.watch_progress_notify_interval, Duration::from_millis(100));
    let expected = [
        "exceeded recommended request limit",
        "adjusting watch progress notify interval to minimum period",
        "use default bcrypt cost instead of the invalid given cost",
    ];
    assert!(expected.iter().all(|text| warnings.contains(&(*text).to_owned())), "{warnings:?}");
}

#[test]
fn members_listen_with_tls_or_without_but_not_both() {
    let peers = |urls: &str| {
        let words = format!("--peer-auto-tls --listen-peer-urls {urls}");
        StoreConfig::new(&good(&words))
            .map(|config| config.member.peer_tls.is_some())
            .map_err(|error| error.to_string())
    };
    assert_eq!(peers("http://127.0.0.1:1"), Ok(false));
    assert_eq!(peers("https://127.0.0.1:1"), Ok(true));
    assert!(peers("http://127.0.0.1:1,https://127.0.0.1:2").unwrap_err().starts_with("--listen-peer-urls: "));
}

#[test]
fn the_dump_has_etcds_names() {
    let settings = good("--name m1 --snapshot-catchup-entries 1000 --cors https://a.example");
    let config = StoreConfig::new(&settings).unwrap();
    let line = serde_json::to_string(&dump::fields(&settings, &config.member, false)).unwrap();
    for part in [
        r#""snapshot-catchup-entries":1000"#,
        r#""name":"m1""#,
        r#""data-dir":"m1.etcd""#,
        r#""quota-backend-bytes":2147483648"#,
        r#""listen-client-urls":["http://localhost:2379"]"#,
        r#""cors":["https://a.example"]"#,
        r#""member-initialized":false"#,
    ] {
        assert!(line.contains(part), "{line} does not contain {part}");
    }
}

#[test]
fn the_help_lists_every_flag_that_is_not_hidden() {
    let help = help::flags();
    for flag in flags::TABLE {
        let listed = help.contains(&format!("  --{} '", flag.name));
        assert_eq!(listed, flag.group != flags::Group::Hidden, "{}", flag.name);
    }
    assert!(help::usage("etcd").contains("etcd --version"));
}

#[test]
fn members_are_compared_at_leisure_unless_somebody_says_how_often_or_never() {
    let every = |words: &str| StoreConfig::new(&good(words)).unwrap().member.maintenance.corrupt_check_time;
    assert_eq!(every(""), None);
    for never in ["--corrupt-check-time 0", "--corrupt-check-time=0s", "--experimental-corrupt-check-time=0s"] {
        assert_eq!(every(never), Some(Duration::ZERO), "{never}");
    }
    assert_eq!(every("--corrupt-check-time 5m"), Some(Duration::from_secs(300)));
}
