//! What Prometheus' client libraries say about every program: the process, and who scrapes it.

use prometheus::{Counter, Gauge, IntCounter, IntCounterVec, IntGauge, Registry};

use super::{WELL_FORMED, counter, counters, float_gauge, gauge, register};

/// What the kernel says about the process.
pub struct ProcessMetrics {
    pub cpu_seconds: Counter,
    pub open_fds: IntGauge,
    pub max_fds: IntGauge,
    pub fds_used: IntGauge,
    pub fds_limit: IntGauge,
    pub resident_bytes: IntGauge,
    pub virtual_bytes: IntGauge,
    /// Without a limit it is more than the other gauges hold.
    pub virtual_max_bytes: Gauge,
    pub start_time_s: Gauge,
    pub received_bytes: IntCounter,
    pub sent_bytes: IntCounter,
}

impl ProcessMetrics {
    pub(super) fn new(r: &Registry) -> Self {
        Self {
            cpu_seconds: register(
                r,
                Counter::new("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.")
                    .expect(WELL_FORMED),
            ),
            open_fds: gauge(r, "process_open_fds", "Number of open file descriptors."),
            max_fds: gauge(r, "process_max_fds", "Maximum number of open file descriptors."),
            fds_used: gauge(r, "os_fd_used", "The number of used file descriptors."),
            fds_limit: gauge(r, "os_fd_limit", "The file descriptor limit."),
            resident_bytes: gauge(r, "process_resident_memory_bytes", "Resident memory size in bytes."),
            virtual_bytes: gauge(r, "process_virtual_memory_bytes", "Virtual memory size in bytes."),
            virtual_max_bytes: float_gauge(
                r,
                "process_virtual_memory_max_bytes",
                "Maximum amount of virtual memory available in bytes.",
            ),
            start_time_s: float_gauge(
                r,
                "process_start_time_seconds",
                "Start time of the process since unix epoch in seconds.",
            ),
            received_bytes: counter(
                r,
                "process_network_receive_bytes_total",
                "Number of bytes received by the process over the network: by all of its network namespace.",
            ),
            sent_bytes: counter(
                r,
                "process_network_transmit_bytes_total",
                "Number of bytes sent by the process over the network: by all of its network namespace.",
            ),
        }
    }
}

/// Requests for the metrics themselves.
pub struct ScrapeMetrics {
    in_flight: IntGauge,
    served: IntCounterVec,
}

/// The codes that Go's handler has, so that the sum of the family is there before the first scrape has ended.
const CODES: [&str; 3] = ["200", "500", "503"];

impl ScrapeMetrics {
    pub(super) fn new(r: &Registry) -> Self {
        let served = counters(
            r,
            "promhttp_metric_handler_requests_total",
            "Total number of scrapes by HTTP status code.",
            &["code"],
        );
        for code in CODES {
            served.with_label_values(&[code]);
        }
        let in_flight =
            gauge(r, "promhttp_metric_handler_requests_in_flight", "Current number of scrapes being served.");
        Self { in_flight, served }
    }

    /// Counts a scrape while `serve` serves it; what it returns sees itself in flight and not yet served.
    pub(crate) fn count<T>(&self, serve: impl FnOnce() -> T) -> T {
        self.in_flight.inc();
        let served = serve();
        self.in_flight.dec();
        self.served.with_label_values(&["200"]).inc();
        served
    }
}
