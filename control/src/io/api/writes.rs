//! Creating, changing and removing one object.

use serde_json::Value;

use super::{Api, Place};
use crate::engine::{self, DeleteOptions, Deletion, NamespaceState, Target, Update, check_namespace, meta, set_meta};
use crate::io::clock;
use crate::io::etcd::Written;
use crate::io::watch_cache::encode;
use crate::limits;
use crate::registry::{Context, Kind, User};
use crate::status::ApiError;

/// What became of a deleted object.
#[derive(Debug)]
pub enum Removed {
    /// Its last state.
    Gone(Value),
    /// Finalizers or a grace period keep it for now.
    Stays(Value),
}

impl Api {
    /// Stores a new object; with `generateName` under the first free name of a few.
    pub async fn create(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        body: Value,
        user: &User,
        dry_run: bool,
    ) -> Result<Value, ApiError> {
        let generated = meta(&body, "name").is_empty() && !meta(&body, "generateName").is_empty();
        let tries = if generated { limits::GENERATED_NAME_TRIES_MAX } else { 1 };
        let mut refused = None;
        for _ in 0..tries {
            match self.create_once(kind, namespace, body.clone(), user, dry_run).await {
                Err(error) if error.reason == "AlreadyExists" => refused = Some(error),
                other => return other,
            }
        }
        Err(refused.expect("at least one try was refused"))
    }

    async fn create_once(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        body: Value,
        user: &User,
        dry_run: bool,
    ) -> Result<Value, ApiError> {
        let ctx = clock::context(user);
        let mut object = engine::create(kind, namespace, body, &ctx)?;
        let name = meta(&object, "name").to_owned();
        let place = Place { kind, namespace: namespace.filter(|_| kind.namespaced), name: &name };
        let _turn = self.allocate(kind, &mut object, &ctx).await?;
        for fresh in [false, true, true, true] {
            let mut guards = Vec::new();
            if let Some(namespace) = place.namespace {
                let (state, guard) = self.namespace_state(namespace, fresh).await?;
                // Memory may be behind: only the store can refuse.
                if state != NamespaceState::Active && !fresh {
                    continue;
                }
                check_namespace(kind, namespace, &name, state)?;
                guards.extend(guard);
            }
            if dry_run {
                return self.create_dry(place, object).await;
            }
            let bytes = checked_size(&object)?;
            let ttl_s = kind.strategy.storage_ttl_s().unwrap_or(0);
            match self.inner.storage.create(place.key(), bytes, &guards, ttl_s).await? {
                Written::Done(revision) => return Ok(at_revision(object, revision)),
                Written::Conflict(_) => return Err(ApiError::already_exists(kind.group, kind.resource, &name)),
                // The namespace changed under us: look again, in the store.
                Written::GuardFailed => {}
            }
        }
        Err(ApiError::conflict(kind.group, kind.resource, &name, "its namespace keeps changing"))
    }

    async fn create_dry(&self, place: Place<'_>, object: Value) -> Result<Value, ApiError> {
        match self.read(place).await {
            Ok(_) => Err(ApiError::already_exists(place.kind.group, place.kind.resource, place.name)),
            Err(error) if error.code == 404 => Ok(object),
            Err(error) => Err(error),
        }
    }

    /// Gives an object what the cluster has only once; the returned turn ends after the write.
    async fn allocate(
        &self,
        kind: &'static Kind,
        object: &mut Value,
        ctx: &Context,
    ) -> Result<Option<tokio::sync::MutexGuard<'_, ()>>, ApiError> {
        if !kind.strategy.allocates() {
            return Ok(None);
        }
        let turn = self.inner.allocation.lock().await;
        let cache = self.cache(kind);
        cache.wait_for_latest().await?;
        let existing: Vec<Value> = cache.all().iter().map(|entry| entry.object()).collect();
        let existing: Vec<&Value> = existing.iter().collect();
        kind.strategy.allocate(object, &existing, &self.inner.ranges, ctx)?;
        Ok(Some(turn))
    }

    /// Changes an object: `edit` makes the new one from the present one, and is asked again when somebody else was faster.
    /// A `resourceVersion` in what it returns is a precondition.
    pub async fn modify(
        &self,
        place: Place<'_>,
        target: Target,
        user: &User,
        dry_run: bool,
        edit: impl Fn(&Value, &Context) -> Result<Value, ApiError>,
    ) -> Result<Value, ApiError> {
        let kind = place.kind;
        for _ in 0..limits::CONFLICT_RETRIES_MAX {
            let ctx = clock::context(user);
            let (old, revision) = self.read(place).await?;
            let new = edit(&old, &ctx)?;
            match engine::update(kind, place.namespace, &old, new, target, &ctx)? {
                Update::Unchanged => return Ok(old),
                Update::Remove(last) => {
                    if dry_run {
                        return Ok(last);
                    }
                    if let Written::Done(revision) = self.inner.storage.delete(place.key(), revision).await? {
                        return Ok(at_revision(last, revision));
                    }
                }
                Update::Write(mut new) => {
                    let _turn = self.allocate(kind, &mut new, &ctx).await?;
                    if dry_run {
                        return Ok(new);
                    }
                    let bytes = checked_size(&new)?;
                    let ttl_s = kind.strategy.storage_ttl_s().unwrap_or(0);
                    let written = self.inner.storage.update(place.key(), bytes, revision, ttl_s).await?;
                    if let Written::Done(revision) = written {
                        return Ok(at_revision(new, revision));
                    }
                }
            }
        }
        Err(ApiError::stale(kind.group, kind.resource, place.name))
    }

    /// Deletes an object, or marks it.
    pub async fn delete(&self, place: Place<'_>, options: &DeleteOptions, user: &User) -> Result<Removed, ApiError> {
        for _ in 0..limits::CONFLICT_RETRIES_MAX {
            let ctx = clock::context(user);
            let (old, revision) = self.read(place).await?;
            match engine::delete(place.kind, &old, options, &ctx)? {
                Deletion::Unchanged => return Ok(Removed::Stays(old)),
                Deletion::Remove(last) => {
                    if options.dry_run {
                        return Ok(Removed::Gone(last));
                    }
                    if let Written::Done(revision) = self.inner.storage.delete(place.key(), revision).await? {
                        return Ok(Removed::Gone(at_revision(last, revision)));
                    }
                }
                Deletion::Mark(new) => {
                    if options.dry_run {
                        return Ok(Removed::Stays(new));
                    }
                    let written = self.inner.storage.update(place.key(), encode(&new), revision, 0).await?;
                    if let Written::Done(revision) = written {
                        return Ok(Removed::Stays(at_revision(new, revision)));
                    }
                }
            }
        }
        Err(ApiError::stale(place.kind.group, place.kind.resource, place.name))
    }
}

fn at_revision(mut object: Value, revision: i64) -> Value {
    set_meta(&mut object, "resourceVersion", Some(revision.to_string().into()));
    if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
        metadata.sort_keys();
    }
    object
}

fn checked_size(object: &Value) -> Result<bytes::Bytes, ApiError> {
    let bytes = encode(object);
    if bytes.len() > limits::OBJECT_SIZE_MAX {
        let why = format!("Request entity too large: limit is {}", limits::OBJECT_SIZE_MAX);
        return Err(ApiError::new(413, "RequestEntityTooLarge", why));
    }
    Ok(bytes)
}
