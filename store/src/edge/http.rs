//! etcd's plain HTTP endpoints: `/version`, `/health`, `/livez`, `/readyz`.

use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Deserialize;
use serde_json::json;

use super::{ETCD_VERSION, Edge, STORAGE_VERSION};
use crate::error::StoreError;

pub(super) fn routes(edge: Edge) -> Router {
    Router::new().route("/version", get(version)).with_state(edge.clone()).merge(probes(edge))
}

/// What a metrics port serves too.
pub(super) fn probes(edge: Edge) -> Router {
    Router::new().route("/health", get(health)).route("/livez", get(live)).route("/readyz", get(ready)).with_state(edge)
}

async fn version() -> Response {
    let body = json!({"etcdserver": ETCD_VERSION, "etcdcluster": STORAGE_VERSION, "storage": STORAGE_VERSION});
    json_response(StatusCode::OK, &body)
}

#[derive(Deserialize)]
struct HealthQuery {
    #[serde(default)]
    serializable: bool,
}

/// Healthy means: a read succeeds, linearizable unless asked otherwise.
async fn health(State(edge): State<Edge>, Query(query): Query<HealthQuery>) -> Response {
    let failure = if query.serializable { None } else { edge.member.read_barrier().await.err() };
    match failure {
        None => json_response(StatusCode::OK, &json!({"health": "true", "reason": ""})),
        Some(error) => {
            let reason = match error {
                StoreError::NoLeader => "RAFT NO LEADER".to_owned(),
                other => format!("RANGE ERROR:{other}"),
            };
            json_response(StatusCode::SERVICE_UNAVAILABLE, &json!({"health": "false", "reason": reason}))
        }
    }
}

/// Alive is strictly local: a member without a quorum must not be restarted for it.
async fn live() -> &'static str {
    "ok\n"
}

async fn ready(State(edge): State<Edge>) -> Response {
    match edge.member.read_barrier().await {
        Ok(()) => "ok\n".into_response(),
        Err(error) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("[-]linearizable_read failed: {error}\n")).into_response()
        }
    }
}

fn json_response(status: StatusCode, body: &serde_json::Value) -> Response {
    (status, [(CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}
