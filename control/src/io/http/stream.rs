//! Watches: newline-separated JSON events on a response that stays open.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures::Stream;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::time::{Instant, Interval};
use tokio_util::sync::CancellationToken;

use super::negotiate::Form;
use super::objects::{form, watch_options};
use super::{Answer, Call, HttpServer, respond};
use crate::engine::list::WatchOptions;
use crate::engine::{api_version, table};
use crate::io::clock;
use crate::io::watch_cache::{Entry, Step, Watcher};
use crate::limits;
use crate::registry::Kind;
use crate::status::ApiError;

/// The state of one open watch.
struct WatchResponse {
    kind: &'static Kind,
    form: Form,
    watcher: Watcher,
    initial: std::vec::IntoIter<Arc<Entry>>,
    /// Sent after the initial objects, with the mark.
    initial_end: bool,
    bookmarks: Option<Interval>,
    last_bookmark: i64,
    ends: Instant,
    shutdown: CancellationToken,
    /// Columns are told with the first Table only.
    columns_sent: bool,
    done: bool,
}

impl HttpServer {
    pub(super) async fn watch(
        &self,
        call: &Call,
        kind: &'static Kind,
        namespace: Option<&str>,
        name: Option<&str>,
    ) -> Answer {
        let options = watch_options(call, kind, name)?;
        let form = form(call)?;
        let start = match self.inner.api.watch(kind, namespace, &options).await {
            Ok(start) => start,
            // Clients expect this one inside the stream.
            Err(error) if error.code == 410 => return Ok(streamed(Body::from(error_event(&error)))),
            Err(error) => return Err(error),
        };
        let mut initial = start.initial;
        initial.sort_by_key(|entry| entry.revision);
        let bookmarks = options.bookmarks.then(|| {
            let mut interval = tokio::time::interval(limits::BOOKMARK_INTERVAL);
            interval.reset();
            interval
        });
        let response = WatchResponse {
            kind,
            form,
            watcher: start.watcher,
            initial: initial.into_iter(),
            initial_end: options.mark_initial_end,
            bookmarks,
            last_bookmark: 0,
            ends: Instant::now() + timeout(&options),
            shutdown: self.inner.shutdown.clone(),
            columns_sent: false,
            done: false,
        };
        Ok(streamed(Body::from_stream(chunks(response))))
    }
}

fn timeout(options: &WatchOptions) -> Duration {
    let spread = || rand::random_range(limits::WATCH_TIMEOUT_MIN_S..limits::WATCH_TIMEOUT_MIN_S * 2);
    Duration::from_secs(options.timeout_s.filter(|s| *s > 0).unwrap_or_else(spread))
}

fn streamed(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn chunks(response: WatchResponse) -> impl Stream<Item = Result<Bytes, std::convert::Infallible>> {
    futures::stream::unfold(response, |mut response| async move {
        let chunk = response.next_chunk().await?;
        Some((Ok(chunk), response))
    })
}

impl WatchResponse {
    /// The next events, encoded; none when the watch is over.
    async fn next_chunk(&mut self) -> Option<Bytes> {
        if self.done {
            return None;
        }
        let mut out = BytesMut::new();
        for entry in self.initial.by_ref() {
            let object = encode_object(self.kind, self.form, &entry, entry.revision, &mut self.columns_sent);
            write_event(&mut out, "ADDED", &object);
            if out.len() >= limits::WATCH_CHUNK_SIZE {
                return Some(out.freeze());
            }
        }
        if std::mem::take(&mut self.initial_end) {
            self.bookmark(&mut out, true);
        }
        if !out.is_empty() {
            return Some(out.freeze());
        }
        loop {
            let shutdown = self.shutdown.clone();
            tokio::select! {
                () = shutdown.cancelled() => return None,
                () = tokio::time::sleep_until(self.ends) => {
                    self.done = true;
                    if self.bookmarks.is_some() && self.bookmark(&mut out, false) {
                        return Some(out.freeze());
                    }
                    return None;
                }
                () = tick(&mut self.bookmarks) => {
                    if self.bookmark(&mut out, false) {
                        return Some(out.freeze());
                    }
                }
                steps = self.watcher.next() => match steps {
                    Ok(steps) => {
                        steps.iter().for_each(|step| self.write_step(&mut out, step));
                        return Some(out.freeze());
                    }
                    Err(error) => {
                        self.done = true;
                        return Some(error_event(&error));
                    }
                }
            }
        }
    }

    fn write_step(&mut self, out: &mut BytesMut, step: &Step) {
        let (kind, entry, revision) = match step {
            Step::Added(entry) => ("ADDED", entry, entry.revision),
            Step::Modified(entry) => ("MODIFIED", entry, entry.revision),
            Step::Deleted(entry, revision) => ("DELETED", entry, *revision),
        };
        let object = encode_object(self.kind, self.form, entry, revision, &mut self.columns_sent);
        write_event(out, kind, &object);
    }

    /// Tells how far the watch is, if that is news.
    fn bookmark(&mut self, out: &mut BytesMut, initial_end: bool) -> bool {
        let revision = self.watcher.revision();
        if revision <= self.last_bookmark && !initial_end {
            return false;
        }
        self.last_bookmark = revision;
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.form {
            Form::Table(version, _) => {
                json!({"kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": metadata,
                       "columnDefinitions": [], "rows": []})
            }
            Form::Partial(version) => json!({
                "kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": metadata,
            }),
            Form::Json | Form::Yaml => {
                json!({"kind": self.kind.kind, "apiVersion": api_version(self.kind), "metadata": metadata})
            }
        };
        write_event(out, "BOOKMARK", &respond::encoded(&object));
        true
    }
}

async fn tick(interval: &mut Option<Interval>) {
    match interval {
        Some(interval) => {
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}

fn encode_object(kind: &Kind, form: Form, entry: &Entry, revision: i64, columns_sent: &mut bool) -> Bytes {
    let json = entry.json_at(revision);
    let object = || -> Value { serde_json::from_slice(&json).expect("the cache holds what it encoded") };
    match form {
        Form::Json | Form::Yaml => json,
        Form::Partial(version) => respond::encoded(&table::partial(&object(), version)),
        Form::Table(version, include) => {
            let metadata = json!({"resourceVersion": revision.to_string()});
            let mut made = table::table(kind, version, metadata, &[object()], include, &clock::now());
            if std::mem::replace(columns_sent, true) {
                made["columnDefinitions"] = Value::Array(Vec::new());
            }
            respond::encoded(&made)
        }
    }
}

fn write_event(out: &mut BytesMut, kind: &str, object: &[u8]) {
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    out.extend_from_slice(object);
    out.extend_from_slice(b"}\n");
}

fn error_event(error: &ApiError) -> Bytes {
    let mut out = BytesMut::new();
    write_event(&mut out, "ERROR", &respond::encoded(&error.to_status()));
    out.freeze()
}
