//! RPCs, counted per method and code.
//!
//! The methods are those of the `.proto` files, known beforehand: a call finds its counters by binary search over the
//! paths, and from then on they are plain atomics in an array. Labels are only made when somebody asks for the text.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use kontiki_api::DESCRIPTORS;
use parking_lot::RwLock;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Registry};
use prost_reflect::{DescriptorPool, MethodDescriptor};
use tonic::Code;

use super::{WELL_FORMED, counter, counters, doubling, gauge, histogram, labelled};
use crate::limits::CLIENT_VERSIONS_MAX;

const CODES: [(Code, &str); 17] = [
    (Code::Ok, "OK"),
    (Code::Cancelled, "Canceled"),
    (Code::Unknown, "Unknown"),
    (Code::InvalidArgument, "InvalidArgument"),
    (Code::DeadlineExceeded, "DeadlineExceeded"),
    (Code::NotFound, "NotFound"),
    (Code::AlreadyExists, "AlreadyExists"),
    (Code::PermissionDenied, "PermissionDenied"),
    (Code::ResourceExhausted, "ResourceExhausted"),
    (Code::FailedPrecondition, "FailedPrecondition"),
    (Code::Aborted, "Aborted"),
    (Code::OutOfRange, "OutOfRange"),
    (Code::Unimplemented, "Unimplemented"),
    (Code::Internal, "Internal"),
    (Code::Unavailable, "Unavailable"),
    (Code::DataLoss, "DataLoss"),
    (Code::Unauthenticated, "Unauthenticated"),
];

/// Services that are not in the `.proto` files of this repository.
const OTHERS: [(&str, &str, &str); 2] =
    [("grpc.health.v1.Health", "Check", UNARY), ("grpc.health.v1.Health", "Watch", SERVER_STREAM)];

const UNARY: &str = "unary";
const SERVER_STREAM: &str = "server_stream";

/// The counters of one method.
#[derive(Debug, Default)]
pub struct Method {
    path: String,
    kind: &'static str,
    started: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    handled: [AtomicU64; CODES.len()],
    /// Only with `--metrics=extensive`.
    handling: OnceLock<Histogram>,
    /// A histogram of its own that etcd has for this method: of the failed calls, and of the others.
    timed: Option<[Histogram; 2]>,
}

impl Method {
    #[must_use]
    pub fn is_unary(&self) -> bool {
        self.kind == UNARY
    }

    /// `/package.Service/Method`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn start(&self) {
        self.started.fetch_add(1, Relaxed);
    }

    pub fn receive(&self, messages: u64) {
        self.received.fetch_add(messages, Relaxed);
    }

    pub fn send(&self, messages: u64) {
        self.sent.fetch_add(messages, Relaxed);
    }

    pub fn finish(&self, code: Code, took: Duration, extensive: bool) {
        self.handled[code as usize].fetch_add(1, Relaxed);
        if let Some(timed) = &self.timed {
            timed[usize::from(code == Code::Ok)].observe(took.as_secs_f64());
        }
        if extensive {
            self.handling.get_or_init(|| self.handling_histogram()).observe(took.as_secs_f64());
        }
    }

    fn handled(&self, code: Code) -> u64 {
        self.handled[code as usize].load(Relaxed)
    }

    fn names(&self) -> (&str, &str) {
        self.path[1..].split_once('/').expect("a path of two names")
    }

    fn handling_histogram(&self) -> Histogram {
        let (service, method) = self.names();
        let labels = [("grpc_type", self.kind), ("grpc_service", service), ("grpc_method", method)];
        let labels = labels.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let options = HistogramOpts::new(HANDLING, HANDLING_HELP).const_labels(labels);
        Histogram::with_opts(options).expect(WELL_FORMED)
    }

    fn metric(&self, code: Option<&str>, value: u64) -> Metric {
        let (service, method) = self.names();
        let mut labels =
            vec![label("grpc_method", method), label("grpc_service", service), label("grpc_type", self.kind)];
        labels.extend(code.map(|code| label("grpc_code", code)));
        labels.sort();
        let mut metric = Metric::from_label(labels);
        let mut counter = Counter::default();
        counter.set_value(value as f64);
        metric.set_counter(counter);
        metric
    }
}

/// What clients say they were built with: `[unary, stream]`.
type ClientVersion = (Vec<u8>, [IntCounter; 2]);

pub struct RpcMetrics {
    /// In the order of their paths.
    methods: Arc<Vec<Method>>,
    pub sent_bytes: IntCounter,
    pub received_bytes: IntCounter,
    pub defragmenting: IntGauge,
    requests: IntCounterVec,
    versions: RwLock<Vec<ClientVersion>>,
}

impl RpcMetrics {
    pub(super) fn new(registry: &Registry) -> Arc<Self> {
        let pool = DescriptorPool::decode(DESCRIPTORS).expect("the descriptors of this build are well-formed");
        let named = |service: &str, method: &str, kind| Method {
            path: format!("/{service}/{method}"),
            kind,
            timed: timed(registry, service, method),
            ..Method::default()
        };
        let mut methods: Vec<Method> = pool
            .services()
            .flat_map(|service| service.methods().collect::<Vec<_>>())
            .map(|method| named(method.parent_service().full_name(), method.name(), kind(&method)))
            .chain(OTHERS.map(|(service, method, kind)| named(service, method, kind)))
            .collect();
        methods.sort_by(|a, b| a.path.cmp(&b.path));
        let methods = Arc::new(methods);
        registry.register(Box::new(Families::new(methods.clone()))).expect(WELL_FORMED);
        Arc::new(Self {
            methods,
            sent_bytes: counter(
                registry,
                "etcd_network_client_grpc_sent_bytes_total",
                "The total number of bytes sent to grpc clients.",
            ),
            received_bytes: counter(
                registry,
                "etcd_network_client_grpc_received_bytes_total",
                "The total number of bytes received from grpc clients.",
            ),
            defragmenting: gauge(
                registry,
                "etcd_disk_defrag_inflight",
                "Whether or not defrag is active on the member. 1 means active, 0 means not.",
            ),
            requests: counters(
                registry,
                "etcd_server_client_requests_total",
                "The total number of client requests per client version.",
                &["type", "client_api_version"],
            ),
            versions: RwLock::default(),
        })
    }

    /// The place of a method, to be used with [`RpcMetrics::method`].
    #[must_use]
    pub fn find(&self, path: &str) -> Option<usize> {
        self.methods.binary_search_by(|method| method.path.as_str().cmp(path)).ok()
    }

    #[must_use]
    pub fn method(&self, place: usize) -> &Method {
        &self.methods[place]
    }

    /// Calls of a method that ended with `code`; 0 for an unknown one.
    #[must_use]
    pub fn handled(&self, path: &str, code: Code) -> u64 {
        self.find(path).map_or(0, |place| self.methods[place].handled(code))
    }

    /// Counts a request of a client that says it is of `version`.
    ///
    /// # Errors
    /// When the version is not UTF-8.
    pub fn count_client(&self, unary: bool, version: &[u8]) -> Result<(), std::str::Utf8Error> {
        let kind = usize::from(!unary);
        if let Some((_, counters)) = self.versions.read().iter().find(|(known, _)| known == version) {
            counters[kind].inc();
            return Ok(());
        }
        let text = std::str::from_utf8(version)?;
        let mut versions = self.versions.write();
        // Whoever makes versions up must not fill the memory.
        let text = if versions.len() < CLIENT_VERSIONS_MAX { text } else { "other" };
        let counters = [UNARY, "stream"].map(|kind| self.requests.with_label_values(&[kind, text]));
        counters[kind].inc();
        if text != "other" {
            versions.push((version.to_owned(), counters));
        }
        Ok(())
    }
}

fn kind(method: &MethodDescriptor) -> &'static str {
    match (method.is_client_streaming(), method.is_server_streaming()) {
        (false, false) => UNARY,
        (true, false) => "client_stream",
        (false, true) => SERVER_STREAM,
        (true, true) => "bidi_stream",
    }
}

/// The histograms of single methods that etcd has.
fn timed(registry: &Registry, service: &str, method: &str) -> Option<[Histogram; 2]> {
    let one = |name: &str, help: &str, buckets| {
        let histogram = histogram(registry, name, help, buckets);
        Some([histogram.clone(), histogram])
    };
    match (service, method) {
        ("etcdserverpb.KV", "Range") => Some(["false", "true"].map(|success| {
            let help = "The latency distributions of txn.Range";
            let buckets = doubling(0.0001, 20);
            labelled(registry, "etcd_server_range_duration_seconds", help, buckets, &[("success", success)])
        })),
        ("etcdserverpb.Maintenance", "Hash") => one(
            "etcd_mvcc_hash_duration_seconds",
            "The latency distribution of storage hash operation.",
            doubling(0.01, 15),
        ),
        ("etcdserverpb.Maintenance", "HashKV") => one(
            "etcd_mvcc_hash_rev_duration_seconds",
            "The latency distribution of storage hash by revision operation.",
            doubling(0.01, 15),
        ),
        ("etcdserverpb.Maintenance", "Defragment") => one(
            "etcd_disk_backend_defrag_duration_seconds",
            "The latency distribution of backend defragmentation.",
            doubling(0.1, 13),
        ),
        ("etcdserverpb.Maintenance", "Snapshot") => one(
            "etcd_disk_backend_snapshot_duration_seconds",
            "The latency distribution of backend snapshots.",
            doubling(0.01, 17),
        ),
        _ => None,
    }
}

const HANDLING: &str = "grpc_server_handling_seconds";
const HANDLING_HELP: &str =
    "Histogram of response latency (seconds) of gRPC that had been application-level handled by the server.";

/// Turns the arrays into families when somebody asks.
struct Families {
    methods: Arc<Vec<Method>>,
    descriptions: Vec<Desc>,
}

impl Families {
    fn new(methods: Arc<Vec<Method>>) -> Self {
        let labels = ["grpc_type", "grpc_service", "grpc_method"];
        let describe = |name: &str, labels: &[&str]| {
            let labels = labels.iter().map(|label| (*label).to_owned()).collect();
            Desc::new(name.to_owned(), "RPCs.".to_owned(), labels, std::collections::HashMap::new()).expect(WELL_FORMED)
        };
        let names = ["grpc_server_started_total", "grpc_server_handled_total", "grpc_server_msg_received_total"];
        let names = names.into_iter().chain(["grpc_server_msg_sent_total", HANDLING]);
        let descriptions = names.map(|name| describe(name, &labels)).collect();
        Self { methods, descriptions }
    }

    fn counters(&self, name: &str, help: &str, metrics: impl Fn(&Method) -> Vec<Metric>) -> MetricFamily {
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(MetricType::COUNTER);
        family.set_metric(self.methods.iter().flat_map(metrics).collect());
        family
    }
}

impl Collector for Families {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let one = |counter: fn(&Method) -> &AtomicU64| {
            move |method: &Method| vec![method.metric(None, counter(method).load(Relaxed))]
        };
        let by_code = |method: &Method| {
            CODES.iter().map(|(code, name)| method.metric(Some(name), method.handled(*code))).collect()
        };
        let mut families = vec![
            self.counters(
                "grpc_server_started_total",
                "Total number of RPCs started on the server.",
                one(|method| &method.started),
            ),
            self.counters(
                "grpc_server_handled_total",
                "Total number of RPCs completed on the server, regardless of success or failure.",
                by_code,
            ),
            self.counters(
                "grpc_server_msg_received_total",
                "Total number of RPC stream messages received on the server.",
                one(|method| &method.received),
            ),
            self.counters(
                "grpc_server_msg_sent_total",
                "Total number of gRPC stream messages sent by the server.",
                one(|method| &method.sent),
            ),
        ];
        let handling = self.methods.iter().filter_map(|method| method.handling.get());
        let metrics: Vec<Metric> = handling
            .flat_map(|histogram| histogram.collect().into_iter().flat_map(|mut family| family.take_metric()))
            .collect();
        if !metrics.is_empty() {
            let mut family = MetricFamily::default();
            family.set_name(HANDLING.to_owned());
            family.set_help(HANDLING_HELP.to_owned());
            family.set_field_type(MetricType::HISTOGRAM);
            family.set_metric(metrics);
            families.push(family);
        }
        families
    }
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut label = LabelPair::default();
    label.set_name(name.to_owned());
    label.set_value(value.to_owned());
    label
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_in_the_order_of_their_numbers() {
        for (place, (code, _)) in CODES.iter().enumerate() {
            assert_eq!(*code as usize, place);
        }
    }

    #[test]
    fn every_method_is_found_by_its_path() {
        let metrics = RpcMetrics::new(&Registry::new());
        assert!(metrics.methods.len() > 50);
        for (place, method) in metrics.methods.iter().enumerate() {
            assert_eq!(metrics.find(&method.path), Some(place));
        }
        assert_eq!(metrics.find("/etcdserverpb.KV/Nothing"), None);
    }

    #[test]
    fn made_up_client_versions_share_a_counter() {
        let registry = Registry::new();
        let metrics = RpcMetrics::new(&registry);
        for number in 0..2 * CLIENT_VERSIONS_MAX {
            metrics.count_client(true, number.to_string().as_bytes()).unwrap();
        }
        assert_eq!(metrics.versions.read().len(), CLIENT_VERSIONS_MAX);
        assert_eq!(metrics.requests.with_label_values(&["unary", "other"]).get(), CLIENT_VERSIONS_MAX as u64);
        assert!(metrics.count_client(true, b"\xff").is_err());
    }
}
