//! Subresources: parts of an object with endpoints of their own.

use axum::body::Body;
use http::StatusCode;
use serde_json::Value;

use super::objects::{Patch, dry_run, form, gvk};
use super::{Answer, Call, HttpServer, body, respond};
use crate::auth::token_request;
use crate::engine::{DeleteOptions, Target, check_type_of, meta, set_meta};
use crate::io::api::Place;
use crate::io::clock;
use crate::registry::{self, namespace, pod};
use crate::schema::Gvk;
use crate::status::ApiError;

impl HttpServer {
    pub(super) async fn subresource(
        &self,
        call: Call,
        place: Place<'_>,
        subresource: &str,
        verb: &'static str,
        body: Body,
    ) -> Answer {
        let kind = place.kind;
        let served = kind.subresources.iter().find(|s| s.name == subresource);
        let Some(served) = served else {
            return Err(ApiError::new(404, "NotFound", "the server could not find the requested resource"));
        };
        if !served.verbs.contains(&verb) {
            let resource = format!("{}/{subresource}", kind.resource);
            return Err(ApiError::method_not_allowed(&verb.to_uppercase(), &resource));
        }
        match (subresource, verb) {
            ("status", "get") => {
                let object = self.inner.api.get(place, false).await?;
                Ok(respond::object(StatusCode::OK, kind, &object, form(&call)?))
            }
            ("status", "update") => self.replace(&call, place, Target::Status, body).await,
            ("status", "patch") => self.patch(&call, place, Target::Status, body).await,
            ("finalize", _) => self.finalize(&call, place, body).await,
            ("binding", _) => self.bind(&call, place, body).await,
            ("eviction", _) => self.evict(&call, place, body).await,
            ("scale", "get") => {
                let object = self.inner.api.get(place, false).await?;
                Ok(respond::json(StatusCode::OK, &scale_of(place, &object)?))
            }
            ("scale", _) => self.scale(&call, place, verb, body).await,
            ("token", _) => self.token(&call, place, body).await,
            ("log", _) => self.log(&call, place).await,
            _ => Err(ApiError::method_not_allowed(&verb.to_uppercase(), kind.resource)),
        }
    }

    async fn finalize(&self, call: &Call, place: Place<'_>, body: Body) -> Answer {
        let document = body::plain(&call.headers, &body::read(body).await?)?;
        let edit = |old: &Value, _: &registry::Context| Ok(namespace::finalize(&document, old));
        let object = self.inner.api.modify(place, Target::Exact, &call.user, dry_run(call)?, edit).await?;
        Ok(respond::object(StatusCode::OK, place.kind, &object, form(call)?))
    }

    async fn bind(&self, call: &Call, place: Place<'_>, body: Body) -> Answer {
        let mut binding = body::plain(&call.headers, &body::read(body).await?)?;
        check_type_of("", "v1", "Binding", &mut binding)?;
        let edit = |old: &Value, ctx: &registry::Context| pod::binding::bind(old, &binding, ctx);
        self.inner.api.modify(place, Target::Exact, &call.user, dry_run(call)?, edit).await?;
        Ok(respond::json(StatusCode::CREATED, &respond::success(201)))
    }

    async fn evict(&self, call: &Call, place: Place<'_>, body: Body) -> Answer {
        let eviction = body::plain(&call.headers, &body::read(body).await?)?;
        let mut options = DeleteOptions::from_body(&eviction["deleteOptions"])?;
        options.dry_run |= dry_run(call)?;
        self.inner.api.delete(place, &options, &call.user).await?;
        Ok(respond::json(StatusCode::CREATED, &respond::success(201)))
    }

    async fn scale(&self, call: &Call, place: Place<'_>, verb: &str, body: Body) -> Answer {
        let raw = body::read(body).await?;
        let replacement = match verb {
            "update" => Some(body::plain(&call.headers, &raw)?),
            _ => None,
        };
        let scale_gvk = Gvk::new("autoscaling", "v1", "Scale");
        let patch = match verb {
            "patch" => Some(Patch::parse(super::negotiate::media_type(&call.headers), &raw)?),
            _ => None,
        };
        let edit = |old: &Value, _: &registry::Context| {
            let present = scale_of(place, old)?;
            let mut wanted = match (&replacement, &patch) {
                (Some(scale), _) => scale.clone(),
                (None, Some(patch)) => patch.apply(&present, &scale_gvk)?,
                (None, None) => present,
            };
            check_type_of("autoscaling", "v1", "Scale", &mut wanted)?;
            let mut new = old.clone();
            place.kind.strategy.apply_scale(&mut new, &wanted)?;
            let version = meta(&wanted, "resourceVersion").to_owned();
            if !version.is_empty() {
                set_meta(&mut new, "resourceVersion", Some(version.into()));
            }
            Ok(new)
        };
        let object = self.inner.api.modify(place, Target::Main, &call.user, dry_run(call)?, edit).await?;
        Ok(respond::json(StatusCode::OK, &scale_of(place, &object)?))
    }

    async fn token(&self, call: &Call, place: Place<'_>, body: Body) -> Answer {
        let request = body::plain(&call.headers, &body::read(body).await?)?;
        let account = self.inner.api.get(place, false).await?;
        let namespace = place.namespace.unwrap_or_default();
        let subject = token_request::Subject { namespace, name: place.name, uid: meta(&account, "uid") };
        let bound = self.bound_uid(namespace, &request["spec"]["boundObjectRef"]).await?;
        let key = &self.inner.access.signing_key;
        let answer =
            token_request::respond(key, &request, subject, bound.as_deref(), clock::unix_s(), &clock::new_uid())?;
        Ok(respond::json(StatusCode::CREATED, &answer))
    }

    /// The uid of the object that a token shall end with.
    async fn bound_uid(&self, namespace: &str, reference: &Value) -> Result<Option<String>, ApiError> {
        let (resource, namespace) = match reference["kind"].as_str() {
            Some("Pod") => ("pods", Some(namespace)),
            Some("Secret") => ("secrets", Some(namespace)),
            Some("Node") => ("nodes", None),
            _ => return Ok(None),
        };
        let kind = registry::find("", "v1", resource)
            .ok_or_else(|| ApiError::bad_request(format!("{resource} are not served")))?;
        let name = reference["name"].as_str().unwrap_or_default();
        let object = self.inner.api.get(Place { kind, namespace, name }, false).await?;
        Ok(Some(meta(&object, "uid").to_owned()))
    }
}

fn scale_of(place: Place<'_>, object: &Value) -> Result<Value, ApiError> {
    let gvk = gvk(place.kind);
    place.kind.strategy.scale(object).ok_or_else(|| ApiError::internal(format!("{} has no scale", gvk.kind)))
}
