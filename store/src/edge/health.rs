//! Whether this member works: `/health` as of old, `/livez` and `/readyz` as lists of named checks.
//!
//! Alive is strictly local: a member without a quorum must not be restarted for it. Ready asks the cluster too.

use std::collections::HashSet;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use kontiki_api::etcdserverpb as pb;
use serde_json::json;

use super::Edge;
use super::http::{method_not_allowed, plain};
use crate::error::StoreError;

/// Something that can be asked about a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

impl Check {
    fn name(self) -> &'static str {
        match self {
            Self::DataCorruption => "data_corruption",
            Self::SerializableRead => "serializable_read",
            Self::LinearizableRead => "linearizable_read",
            Self::NonLearner => "non_learner",
        }
    }
}

/// A probe and the checks behind it.
#[derive(Clone, Copy, Debug)]
struct Probe {
    name: &'static str,
    checks: &'static [Check],
}

const LIVEZ: Probe = Probe { name: "livez", checks: &[Check::SerializableRead] };
const READYZ: Probe = Probe {
    name: "readyz",
    checks: &[Check::DataCorruption, Check::SerializableRead, Check::LinearizableRead, Check::NonLearner],
};

pub(super) fn routes(edge: Edge) -> Router {
    let mut router = Router::new().route("/health", get(health).fallback(method_not_allowed));
    for probe in [LIVEZ, READYZ] {
        router = router.route(&format!("/{}", probe.name), asked(probe));
        for check in probe.checks {
            let alone = Probe { name: probe.name, checks: std::slice::from_ref(check) };
            router = router.route(&format!("/{}/{}", probe.name, check.name()), asked(alone));
        }
    }
    router.with_state(edge)
}

fn asked(probe: Probe) -> MethodRouter<Edge> {
    let ask = move |State(edge): State<Edge>, RawQuery(query): RawQuery| async move {
        let query = Query::parse(query.as_deref());
        let checks = probe.checks.iter().filter(|check| !query.exclude.contains(check.name()));
        let mut outcomes = Vec::new();
        for check in checks {
            let outcome = edge.check(*check).await;
            edge.note_check(probe, *check, outcome.is_ok());
            outcomes.push((*check, outcome));
        }
        report(&outcomes, query.verbose)
    };
    get(ask).fallback(method_not_allowed)
}

/// The list of outcomes where it matters or is asked for.
fn report(outcomes: &[(Check, Result<(), String>)], verbose: bool) -> Response {
    let line = |(check, outcome): &(Check, Result<(), String>)| match outcome {
        Ok(()) => format!("[+]{} ok\n", check.name()),
        Err(reason) => format!("[-]{} failed: {reason}\n", check.name()),
    };
    let lines: String = outcomes.iter().map(line).collect();
    if outcomes.iter().any(|(_, outcome)| outcome.is_err()) {
        return plain(StatusCode::SERVICE_UNAVAILABLE, lines + "\n");
    }
    plain(StatusCode::OK, if verbose { lines + "ok\n" } else { "ok\n".to_owned() })
}

/// What probes may be asked with.
#[derive(Debug, Default, PartialEq, Eq)]
struct Query {
    serializable: bool,
    verbose: bool,
    /// Names of alarms or checks that do not count.
    exclude: HashSet<String>,
}

impl Query {
    fn parse(query: Option<&str>) -> Self {
        let mut parsed = Self::default();
        for pair in query.unwrap_or_default().split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "serializable" => parsed.serializable = value == "true",
                "verbose" => parsed.verbose = true,
                "exclude" if !value.is_empty() => {
                    parsed.exclude.insert(value.to_owned());
                }
                _ => {}
            }
        }
        parsed
    }
}

/// Healthy means: no alarm, a leader, and a read succeeds, linearizable unless asked otherwise.
async fn health(State(edge): State<Edge>, RawQuery(query): RawQuery) -> Response {
    let query = Query::parse(query.as_deref());
    let has_leader = edge.member.status().leader.is_some();
    let mut reason = unhealthy(&edge.member.alarms(), &query, has_leader);
    if reason.is_none() {
        let read = if query.serializable { edge.read_here() } else { edge.read_anywhere().await };
        reason = read.err().map(|error| format!("RANGE ERROR:{error}"));
    }
    let server = &edge.member.metrics().server;
    match reason {
        None => {
            server.health_successes.inc();
            let body = json!({"health": "true", "reason": ""}).to_string();
            ([(CONTENT_TYPE, "text/plain; charset=utf-8")], body).into_response()
        }
        Some(reason) => {
            server.health_failures.inc();
            tracing::warn!(reason, "serving /health false");
            let body = json!({"health": "false", "reason": reason}).to_string() + "\n";
            plain(StatusCode::SERVICE_UNAVAILABLE, body)
        }
    }
}

/// What is wrong even before a read is tried.
fn unhealthy(alarms: &[pb::AlarmMember], query: &Query, has_leader: bool) -> Option<String> {
    let alarm = alarms.iter().find(|alarm| !query.exclude.contains(alarm.alarm().as_str_name()));
    if let Some(alarm) = alarm {
        let name = match alarm.alarm() {
            pb::AlarmType::Nospace => "NOSPACE",
            pb::AlarmType::Corrupt => "CORRUPT",
            pb::AlarmType::None => "UNKNOWN",
        };
        return Some(format!("ALARM {name}"));
    }
    (!query.serializable && !has_leader).then(|| "RAFT NO LEADER".to_owned())
}

impl Edge {
    async fn check(&self, check: Check) -> Result<(), String> {
        let text = |error: StoreError| error.to_string();
        match check {
            Check::DataCorruption => match self.member.alarms().iter().any(|a| a.alarm() == pb::AlarmType::Corrupt) {
                true => Err("alarm activated: CORRUPT".to_owned()),
                false => Ok(()),
            },
            Check::SerializableRead => self.read_here().map_err(text),
            Check::LinearizableRead => self.read_anywhere().await.map_err(text),
            Check::NonLearner if self.member.status().is_learner => Err("not supported for learner".to_owned()),
            Check::NonLearner => Ok(()),
        }
    }

    fn note_check(&self, probe: Probe, check: Check, passed: bool) {
        let server = &self.member.metrics().server;
        server.check.with_label_values(&[probe.name, check.name()]).set(passed.into());
        let status = if passed { "success" } else { "error" };
        server.checks.with_label_values(&[probe.name, check.name(), status]).inc();
    }

    fn read_here(&self) -> Result<(), StoreError> {
        let request = pb::RangeRequest { key: "a".into(), limit: 1, keys_only: true, ..Default::default() };
        self.member.reader().range(&request).map(drop)
    }

    async fn read_anywhere(&self) -> Result<(), StoreError> {
        self.member.read_barrier().await?;
        self.read_here()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    fn check(query: &str, alarms: &[pb::AlarmType], has_leader: bool, expected: Option<&str>) {
        let alarms: Vec<pb::AlarmMember> =
            alarms.iter().map(|alarm| pb::AlarmMember { member_id: 1, alarm: (*alarm).into() }).collect();
        let reason = unhealthy(&alarms, &Query::parse(Some(query)), has_leader);
        assert_eq!(reason.as_deref(), expected, "?{query}");
    }

    #[test]
    fn alarms_come_before_the_leader_and_can_be_excluded() {
        use pb::AlarmType::{Corrupt, None as Unknown, Nospace};
        check("", &[], true, None);
        check("", &[Nospace], true, Some("ALARM NOSPACE"));
        check("", &[Corrupt], false, Some("ALARM CORRUPT"));
        check("", &[Unknown], true, Some("ALARM UNKNOWN"));
        check("exclude=NOSPACE", &[Nospace], true, None);
        check("exclude=NOSPACE", &[Nospace, Corrupt], true, Some("ALARM CORRUPT"));
        check("exclude=NOSPACE&exclude=CORRUPT", &[Nospace, Corrupt], true, None);
        check("", &[], false, Some("RAFT NO LEADER"));
        check("exclude=NOSPACE&serializable=true", &[], false, None);
        check("serializable=false", &[], false, Some("RAFT NO LEADER"));
    }

    #[tokio::test]
    async fn reports_list_checks_when_one_fails_or_when_asked() {
        let check = async |outcomes: &[(Check, Result<(), String>)], verbose, status: u16, expected: &str| {
            let response = report(outcomes, verbose);
            assert_eq!(response.status(), status);
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body, expected);
        };
        let good = (Check::SerializableRead, Ok(()));
        let bad = (Check::LinearizableRead, Err("etcdserver: request timed out".to_owned()));
        check(std::slice::from_ref(&good), false, 200, "ok\n").await;
        check(std::slice::from_ref(&good), true, 200, "[+]serializable_read ok\nok\n").await;
        let failed = "[+]serializable_read ok\n[-]linearizable_read failed: etcdserver: request timed out\n\n";
        check(&[good, bad], false, 503, failed).await;
        check(&[], false, 200, "ok\n").await;
    }
}
