//! The verbs on objects and collections.

use axum::body::Body;
use http::{Response, StatusCode};
use serde_json::Value;

use super::body::{self, FieldValidation};
use super::negotiate::{self, media_type};
use super::route::ResourcePath;
use super::{Answer, Call, HttpServer, respond, reviews};
use crate::engine::list::{ListOptions, Query, WatchOptions};
use crate::engine::table::Include;
use crate::engine::{DeleteOptions, Target, api_version};
use crate::io::api::{Place, Removed};
use crate::patch;
use crate::registry::{self, Kind};
use crate::schema::{Gvk, strict};
use crate::status::ApiError;

impl HttpServer {
    pub(super) async fn resource(&self, call: Call, path: &ResourcePath, verb: &'static str, body: Body) -> Answer {
        let Some(kind) = registry::find(&path.group, &path.version, &path.resource) else {
            if verb == "create" && path.name.is_none() {
                let raw = body::read(body).await?;
                let document = body::plain(&call.headers, &raw)?;
                if let Some(answer) = reviews::answer(path, &call.user, &document) {
                    return Ok(respond::json(StatusCode::CREATED, &answer?));
                }
            }
            return Err(ApiError::new(404, "NotFound", "the server could not find the requested resource"));
        };
        if !kind.namespaced && path.namespace.is_some() {
            return Err(ApiError::new(404, "NotFound", "the server could not find the requested resource"));
        }
        let namespace = path.namespace.as_deref();
        let Some(name) = path.name.as_deref() else {
            return self.collection(call, kind, namespace, verb, body).await;
        };
        if kind.namespaced && namespace.is_none() {
            return Err(ApiError::new(404, "NotFound", "the server could not find the requested resource"));
        }
        let place = Place { kind, namespace, name };
        match path.subresource.as_deref() {
            None => self.item(call, place, verb, body).await,
            Some(subresource) => self.subresource(call, place, subresource, verb, body).await,
        }
    }

    async fn collection(
        &self,
        call: Call,
        kind: &'static Kind,
        namespace: Option<&str>,
        verb: &'static str,
        body: Body,
    ) -> Answer {
        match verb {
            "list" => {
                let options = ListOptions::parse(kind, &call.query)?;
                let form = form(&call)?;
                let list = self.inner.api.list(kind, namespace, &options).await?;
                Ok(respond::list(kind, &list, form))
            }
            "watch" => self.watch(&call, kind, namespace, None).await,
            "create" if kind.namespaced && namespace.is_none() => {
                Err(ApiError::bad_request("an empty namespace may not be set during creation"))
            }
            "create" => self.create(call, kind, namespace, body).await,
            "deletecollection" => self.delete_collection(call, kind, namespace, body).await,
            _ => Err(ApiError::method_not_allowed(&verb.to_uppercase(), kind.resource)),
        }
    }

    async fn create(&self, call: Call, kind: &'static Kind, namespace: Option<&str>, body: Body) -> Answer {
        let dry_run = dry_run(&call)?;
        let form = form(&call)?;
        let validation = FieldValidation::parse(&call.query)?;
        let raw = body::read(body).await?;
        let (object, warnings) = body::object(&call.headers, &gvk(kind), &raw, validation)?;
        let made = self.inner.api.create(kind, namespace, object, &call.user, dry_run).await?;
        let mut response = respond::object(StatusCode::CREATED, kind, &made, form);
        respond::warn(&mut response, &warnings);
        Ok(response)
    }

    async fn delete_collection(&self, call: Call, kind: &'static Kind, namespace: Option<&str>, body: Body) -> Answer {
        let options = delete_options(&call, body).await?;
        let list_options = ListOptions::parse(kind, &call.query)?;
        let mut list = self.inner.api.list(kind, namespace, &list_options).await?;
        for entry in &list.items {
            let namespace = kind.namespaced.then_some(entry.namespace.as_str());
            let place = Place { kind, namespace, name: &entry.name };
            match self.inner.api.delete(place, &options, &call.user).await {
                Err(error) if error.code != 404 => return Err(error),
                _ => {}
            }
        }
        list.resume = None;
        Ok(respond::list(kind, &list, form(&call)?))
    }

    async fn item(&self, call: Call, place: Place<'_>, verb: &'static str, body: Body) -> Answer {
        match verb {
            "get" => {
                let form = form(&call)?;
                let cached = call.query.param("resourceVersion") == Some("0");
                let object = self.inner.api.get(place, cached).await?;
                Ok(respond::object(StatusCode::OK, place.kind, &object, form))
            }
            "watch" => self.watch(&call, place.kind, place.namespace, Some(place.name)).await,
            "update" => self.replace(&call, place, Target::Main, body).await,
            "patch" => self.patch(&call, place, Target::Main, body).await,
            "delete" => self.delete(&call, place, body).await,
            _ => Err(ApiError::method_not_allowed(&verb.to_uppercase(), place.kind.resource)),
        }
    }

    /// PUT of an object or of its status.
    pub(super) async fn replace(&self, call: &Call, place: Place<'_>, target: Target, body: Body) -> Answer {
        let dry_run = dry_run(call)?;
        let form = form(call)?;
        let kind = place.kind;
        let validation = FieldValidation::parse(&call.query)?;
        let raw = body::read(body).await?;
        let (object, warnings) = body::object(&call.headers, &gvk(kind), &raw, validation)?;
        let changed = self.inner.api.modify(place, target, &call.user, dry_run, |_, _| Ok(object.clone())).await;
        let (code, object) = match changed {
            Err(error) if error.code == 404 && target == Target::Main && kind.strategy.allows_create_on_update() => {
                let made = self.inner.api.create(kind, place.namespace, object, &call.user, dry_run).await?;
                (StatusCode::CREATED, made)
            }
            other => (StatusCode::OK, other?),
        };
        let mut response = respond::object(code, kind, &object, form);
        respond::warn(&mut response, &warnings);
        Ok(response)
    }

    /// PATCH of an object or of its status.
    pub(super) async fn patch(&self, call: &Call, place: Place<'_>, target: Target, body: Body) -> Answer {
        let dry_run = dry_run(call)?;
        let form = form(call)?;
        let gvk = gvk(place.kind);
        let validation = FieldValidation::parse(&call.query)?;
        let raw = body::read(body).await?;
        let patch = Patch::parse(media_type(&call.headers), &raw)?;
        let duplicates = strict::duplicates(&raw);
        let warnings = std::sync::Mutex::new(Vec::new());
        let edit = |old: &Value, _: &registry::Context| {
            let mut new = patch.apply(old, &gvk)?;
            let mut complaints = duplicates.clone();
            complaints.extend(strict::prune(&gvk, &mut new)?);
            let judged = validation.judge(&gvk, complaints)?;
            *warnings.lock().expect("no holder of this lock panics") = judged;
            Ok(new)
        };
        let object = self.inner.api.modify(place, target, &call.user, dry_run, edit).await?;
        let mut response = respond::object(StatusCode::OK, place.kind, &object, form);
        respond::warn(&mut response, &warnings.into_inner().expect("no holder of this lock panics"));
        Ok(response)
    }

    async fn delete(&self, call: &Call, place: Place<'_>, body: Body) -> Answer {
        let options = delete_options(call, body).await?;
        let form = form(call)?;
        let removed = self.inner.api.delete(place, &options, &call.user).await?;
        let mut response = match removed {
            Removed::Gone(last) => respond::json(StatusCode::OK, &respond::deleted(place.kind, &last)),
            Removed::Stays(object) => respond::object(StatusCode::OK, place.kind, &object, form),
        };
        warn_of_default(&mut response, place.kind, &options);
        Ok(response)
    }
}

fn warn_of_default(response: &mut Response<Body>, kind: &Kind, options: &DeleteOptions) {
    if options.propagation.is_none()
        && let Some(warning) = kind.strategy.delete_warning()
    {
        respond::warn(response, &[warning.to_owned()]);
    }
}

/// A patch and its language.
pub(super) enum Patch<'a> {
    Json(&'a [u8]),
    Merge(Value),
    Strategic(Value),
}

impl<'a> Patch<'a> {
    /// # Errors
    /// 415 for another language, 400 for a body that is not JSON.
    pub(super) fn parse(media_type: &str, raw: &'a [u8]) -> Result<Self, ApiError> {
        let document = || {
            let json = body::json_of_yaml(raw);
            serde_json::from_slice(raw).or_else(|_| {
                serde_json::from_slice(&json?).map_err(|e| ApiError::bad_request(format!("error decoding patch: {e}")))
            })
        };
        match media_type {
            "application/json-patch+json" => Ok(Self::Json(raw)),
            "application/merge-patch+json" => Ok(Self::Merge(document()?)),
            "application/strategic-merge-patch+json" => Ok(Self::Strategic(document()?)),
            _ => Err(ApiError::unsupported_media_type(
                "the body of the request was in an unknown format - accepted media types include: \
                 application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json",
            )),
        }
    }

    pub(super) fn apply(&self, old: &Value, gvk: &Gvk) -> Result<Value, ApiError> {
        match self {
            Self::Json(ops) => patch::json(old, ops),
            Self::Merge(document) => patch::merge(old, document),
            Self::Strategic(document) => patch::strategic(old, document, gvk),
        }
    }
}

/// Options of a delete: its body, and what the query adds.
async fn delete_options(call: &Call, body: Body) -> Result<DeleteOptions, ApiError> {
    let raw = body::read(body).await?;
    let mut options = DeleteOptions::from_body(&body::plain(&call.headers, &raw)?)?;
    if let Some(seconds) = call.query.param("gracePeriodSeconds") {
        let wrong = |_| ApiError::bad_request(format!("gracePeriodSeconds: {seconds:?} is not a number"));
        options.grace_period_s = Some(seconds.parse().map_err(wrong)?);
    }
    if let Some(policy) = call.query.param("propagationPolicy") {
        options.propagation = Some(policy.to_owned());
    }
    options.dry_run |= dry_run(call)?;
    options.check()?;
    Ok(options)
}

/// `dryRun=All`.
pub(super) fn dry_run(call: &Call) -> Result<bool, ApiError> {
    match call.query.param("dryRun").unwrap_or_default() {
        "" => Ok(false),
        "All" => Ok(true),
        other => {
            let why = format!("dryRun: Unsupported value: {other:?}: supported values: \"All\"");
            Err(ApiError::new(422, "Invalid", why))
        }
    }
}

/// The form the answer is wanted in.
pub(super) fn form(call: &Call) -> Result<negotiate::Form, ApiError> {
    negotiate::form(&call.headers, Include::parse(call.query.param("includeObject").unwrap_or_default()))
}

pub(super) fn gvk(kind: &Kind) -> Gvk {
    Gvk::from_api_version(&api_version(kind), kind.kind)
}

/// The options of a watch; `name` pins it to one object, as the old `/watch/` paths do.
pub(super) fn watch_options(call: &Call, kind: &Kind, name: Option<&str>) -> Result<WatchOptions, ApiError> {
    let Some(name) = name else { return WatchOptions::parse(kind, &call.query) };
    let mut query = call.query.clone();
    query.push(("fieldSelector".into(), format!("metadata.name={name}")));
    WatchOptions::parse(kind, &query)
}
