//! Carries out plans: one request a step, the steps of a batch at once, stopping at the first batch that fails.

use futures::StreamExt;
use http::{Method, Request};
use kube::Client;
use serde_json::{Value, json};

use super::events::EventSink;
use crate::controllers::action::{
    Action, EventRecord, Failure, Key, Narration, Plan, Propagation, Resource, Step, Target,
};
use crate::controllers::limits;

/// What the API says an object is after a write.
#[derive(Clone, Debug)]
pub enum Written {
    Object(Resource, Value),
    Removed { resource: Resource, key: Key, uid: String },
}

/// What came of a plan.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub written: Vec<Written>,
    pub failure: Option<Failure>,
}

/// Does what plans say.
#[derive(Clone)]
pub struct Executor {
    client: Client,
    events: EventSink,
}

impl Executor {
    #[must_use]
    pub fn new(client: Client, events: EventSink) -> Self {
        Self { client, events }
    }

    /// Carries out a plan.
    pub async fn run(&self, plan: Plan) -> Outcome {
        let mut outcome = Outcome::default();
        for batch in plan.batches {
            let mut steps = Vec::new();
            for step in batch {
                steps.push(self.step(step));
            }
            let results: Vec<_> = futures::stream::iter(steps).buffered(limits::REQUESTS_AT_ONCE_MAX).collect().await;
            for result in results {
                match result {
                    Ok(written) => outcome.written.extend(written),
                    // The one that is no mere staleness is the one to report.
                    Err(failure) if outcome.failure.as_ref().is_none_or(Failure::is_stale_view) => {
                        outcome.failure = Some(failure);
                    }
                    Err(_) => {}
                }
            }
            if outcome.failure.is_some() {
                break;
            }
        }
        outcome
    }

    async fn step(&self, step: Step) -> Result<Option<Written>, Failure> {
        let Step { action, narration } = step;
        let name = target_name(&action);
        let result = self.act(action).await;
        if let Some(narration) = narration {
            self.tell(narration, &name, &result);
        }
        result
    }

    fn tell(&self, narration: Narration, name: &str, result: &Result<Option<Written>, Failure>) {
        let Narration { about, component, done, failed } = narration;
        let (told, warning) = match result {
            Ok(_) => (done.map(|(reason, text)| (reason, format!("{text}{name}"))), false),
            Err(failure) if failure.is_stale_view() => (None, false),
            Err(failure) => (failed.map(|(reason, text)| (reason, format!("{text}{failure}"))), true),
        };
        if let Some((reason, message)) = told {
            self.events.tell(EventRecord { about, component, warning, reason, message });
        }
    }

    async fn act(&self, action: Action) -> Result<Option<Written>, Failure> {
        match action {
            Action::Create { resource, namespace, object } => {
                let answer = self.request(Method::POST, &resource.path(&namespace), Some(&object), JSON).await?;
                Ok(Some(Written::Object(resource, answer)))
            }
            Action::Patch { target, subresource, patch } => {
                let slash = if subresource.is_some() { "/" } else { "" };
                let path = format!("{}{slash}{}", target.path(), subresource.unwrap_or_default());
                let answer = self.request(Method::PATCH, &path, Some(&patch), MERGE_PATCH).await?;
                Ok(Some(written(target, answer)))
            }
            Action::Delete { target, uid, resource_version, grace_period_s, propagation } => {
                let options = delete_options(&uid, resource_version.as_deref(), grace_period_s, propagation);
                self.delete(target, uid, options).await.map(Some)
            }
            Action::Finalize { name, object } => {
                let target = Target::new(Resource::NAMESPACE, "", name);
                let path = format!("{}/finalize", target.path());
                match self.request(Method::PUT, &path, Some(&object), JSON).await {
                    Ok(answer) => Ok(Some(written(target, answer))),
                    Err(Failure::NotFound(_)) => Ok(None),
                    Err(failure) => Err(failure),
                }
            }
            Action::RequireAbsent { target, uid } => self.require_absent(&target, &uid).await.map(|()| None),
            Action::RequireEmpty { resource, namespace } => {
                self.require_empty(&resource, &namespace).await.map(|()| None)
            }
            Action::Event(record) => {
                self.events.tell(record);
                Ok(None)
            }
        }
    }

    async fn require_absent(&self, target: &Target, uid: &str) -> Result<(), Failure> {
        match self.request(Method::GET, &target.path(), None, JSON).await {
            Ok(found) if uid.is_empty() || found["metadata"]["uid"] == uid => Err(Failure::StillThere(target.path())),
            Ok(_) | Err(Failure::NotFound(_)) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    /// Deletes whatever the namespace has of this kind; fails unless there was nothing.
    async fn require_empty(&self, resource: &Resource, namespace: &str) -> Result<(), Failure> {
        let path = resource.path(namespace);
        let page = format!("{path}?limit={}", limits::LIST_PAGE);
        let list = match self.request(Method::GET, &page, None, JSON).await {
            // No such kind any more, or one that cannot be listed: nothing of it can be left.
            Err(Failure::NotFound(_) | Failure::Refused { code: 405, .. }) => return Ok(()),
            other => other?,
        };
        let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut deletions = Vec::new();
        for metadata in items.iter().map(|item| &item["metadata"]).filter(|m| m["deletionTimestamp"].is_null()) {
            let target = Target::new(resource.clone(), namespace, metadata["name"].as_str().unwrap_or_default());
            let uid = metadata["uid"].as_str().unwrap_or_default().to_owned();
            let options = delete_options(&uid, None, None, Some(Propagation::Background));
            deletions.push(self.delete(target, uid, options));
        }
        let results: Vec<_> = futures::stream::iter(deletions).buffered(limits::REQUESTS_AT_ONCE_MAX).collect().await;
        results.into_iter().collect::<Result<Vec<_>, _>>()?;
        if items.is_empty() { Ok(()) } else { Err(Failure::StillThere(format!("{} {}", items.len(), resource.plural))) }
    }

    async fn delete(&self, target: Target, uid: String, options: Value) -> Result<Written, Failure> {
        match self.request(Method::DELETE, &target.path(), Some(&options), JSON).await {
            Ok(answer) if is_status(&answer) => Ok(removed(target, uid)),
            Ok(answer) => Ok(written(target, answer)),
            Err(Failure::NotFound(_)) => Ok(removed(target, uid)),
            Err(failure) => Err(failure),
        }
    }

    /// One request, JSON in and out.
    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        media_type: &str,
    ) -> Result<Value, Failure> {
        request(&self.client, method, path, body, media_type).await
    }
}

/// One request, JSON in and out.
pub async fn request(
    client: &Client,
    method: Method,
    path: &str,
    body: Option<&Value>,
    media_type: &str,
) -> Result<Value, Failure> {
    let bytes = body.map(|b| serde_json::to_vec(b).expect("a JSON value is JSON")).unwrap_or_default();
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::ACCEPT, JSON)
        .header(http::header::CONTENT_TYPE, media_type)
        .body(bytes)
        .map_err(|error| Failure::Refused { code: 400, reason: "BadRequest".into(), message: error.to_string() })?;
    client.request::<Value>(request).await.map_err(failure)
}

pub const JSON: &str = "application/json";
pub const MERGE_PATCH: &str = "application/merge-patch+json";

fn failure(error: kube::Error) -> Failure {
    match error {
        kube::Error::Api(status) => {
            let message = status.message.clone();
            match (status.code, status.reason.as_str()) {
                (404, _) => Failure::NotFound(message),
                (409, "AlreadyExists") => Failure::AlreadyExists(message),
                (409, _) => Failure::Conflict(message),
                // The view does not have it yet that the namespace is going.
                (403, _) if is_namespace_going(&status) => Failure::Conflict(message),
                // Too many requests, no quorum, time out: the next try may do.
                (429 | 503 | 504, _) => Failure::NoAnswer(message),
                (code, reason) => Failure::Refused { code, reason: reason.to_owned(), message },
            }
        }
        other => Failure::NoAnswer(other.to_string()),
    }
}

fn is_namespace_going(status: &kube::core::Status) -> bool {
    let causes = status.details.iter().flat_map(|d| &d.causes);
    causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}

fn target_name(action: &Action) -> String {
    match action {
        Action::Create { object, .. } => object["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
        Action::Patch { target, .. } | Action::Delete { target, .. } | Action::RequireAbsent { target, .. } => {
            target.key.name.clone()
        }
        Action::Finalize { name, .. } => name.clone(),
        Action::RequireEmpty { .. } | Action::Event(_) => String::new(),
    }
}

fn delete_options(
    uid: &str,
    resource_version: Option<&str>,
    grace_period_s: Option<u32>,
    propagation: Option<Propagation>,
) -> Value {
    let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}});
    if let Some(version) = resource_version {
        options["preconditions"]["resourceVersion"] = version.into();
    }
    if let Some(seconds) = grace_period_s {
        options["gracePeriodSeconds"] = seconds.into();
    }
    if let Some(propagation) = propagation {
        options["propagationPolicy"] = match propagation {
            Propagation::Background => "Background".into(),
            Propagation::Foreground => "Foreground".into(),
            Propagation::Orphan => "Orphan".into(),
        };
    }
    options
}

fn is_status(answer: &Value) -> bool {
    answer["kind"] == "Status"
}

fn removed(target: Target, uid: String) -> Written {
    Written::Removed { resource: target.resource, key: target.key, uid }
}

/// An object that is answered may be the last of it: with a deletion time, no grace and no finalizer it is gone.
fn written(target: Target, answer: Value) -> Written {
    let metadata = &answer["metadata"];
    let is_terminating = !metadata["deletionTimestamp"].is_null();
    let is_held = metadata["finalizers"].as_array().is_some_and(|f| !f.is_empty())
        || answer["spec"]["finalizers"].as_array().is_some_and(|f| !f.is_empty())
        || metadata["deletionGracePeriodSeconds"].as_i64().is_some_and(|s| s > 0);
    if is_terminating && !is_held {
        let uid = metadata["uid"].as_str().unwrap_or_default().to_owned();
        return removed(target, uid);
    }
    Written::Object(target.resource, answer)
}
