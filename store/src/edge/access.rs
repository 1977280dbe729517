//! Who may call what: one table of every RPC, and the guard in front of every service that goes by it.
//!
//! The guard decides what the RPC's name alone decides. The rest is decided where the request is read, with the caller
//! that [`Edge::caller`] finds: in apply for changes, after the read barrier for reads. An RPC that is not in the table is
//! refused while authentication is on. While it is off, one atomic load is all that this costs.
//!
//! A new service is added to `grpc` in `edge` as `guard(&edge, …)`, and its RPCs to [`needs`]: a test fails for each one
//! that is missing.

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::future::{Either, FutureExt};
use kontiki_api::etcdserverpb::alarm_request::AlarmAction;
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tonic::server::NamedService;
use tonic::{Extensions, Request, Status};
use tower::{Service, ServiceExt};

use super::{Edge, EdgeConfig};
use crate::auth::{AuthError, AuthState, Caller};
use crate::error::StoreError;
use crate::io::tls::OverTls;
use crate::member::Member;

/// What an RPC needs before its request is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing: credentials, even wrong ones, are not looked at.
    Nothing,
    /// A user, whoever it is.
    User,
    /// A user with the root role.
    Root,
    /// What its request asks for, decided by the service itself.
    Request,
}

/// The table. `path` is that of the HTTP request: `/package.Service/Method`.
#[must_use]
pub fn needs(path: &str) -> Option<Needs> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    Some(match (service, method) {
        ("etcdserverpb.KV", "Range" | "RangeStream" | "Put" | "DeleteRange" | "Txn") => Needs::Request,
        ("etcdserverpb.KV", "Compact") => Needs::Root,
        // Refused watchers are told so one by one, on a stream that goes on.
        ("etcdserverpb.Watch", "Watch") => Needs::Request,
        ("etcdserverpb.Lease", "LeaseGrant" | "LeaseRevoke") => Needs::User,
        ("etcdserverpb.Lease", "LeaseKeepAlive" | "LeaseTimeToLive" | "LeaseLeases") => Needs::Request,
        // etcd lets every user see the members: clients find their endpoints by it.
        ("etcdserverpb.Cluster", "MemberList") => Needs::User,
        ("etcdserverpb.Cluster", "MemberAdd" | "MemberRemove" | "MemberUpdate" | "MemberPromote") => Needs::Root,
        ("etcdserverpb.Maintenance", "Status") => Needs::User,
        // Asking for alarms is for every user, changing them is not.
        ("etcdserverpb.Maintenance", "Alarm") => Needs::Request,
        ("etcdserverpb.Maintenance", "Defragment" | "Hash" | "HashKV" | "Snapshot") => Needs::Root,
        ("etcdserverpb.Maintenance", "MoveLeader" | "Downgrade") => Needs::Root,
        ("etcdserverpb.Auth", "Authenticate") => Needs::Nothing,
        ("etcdserverpb.Auth", "AuthStatus" | "UserGet" | "RoleGet") => Needs::Request,
        // Decided in apply, or after the barrier: the member that was asked may not know of a new administrator yet.
        ("etcdserverpb.Auth", "AuthEnable" | "AuthDisable" | "UserAdd" | "UserList" | "UserDelete") => Needs::Request,
        ("etcdserverpb.Auth", "UserChangePassword" | "UserGrantRole" | "UserRevokeRole") => Needs::Request,
        ("etcdserverpb.Auth", "RoleAdd" | "RoleList" | "RoleDelete") => Needs::Request,
        ("etcdserverpb.Auth", "RoleGrantPermission" | "RoleRevokePermission") => Needs::Request,
        // Made of transactions, ranges, watches and leases of the same caller.
        ("v3lockpb.Lock", "Lock" | "Unlock") => Needs::Request,
        ("v3electionpb.Election", "Campaign" | "Proclaim" | "Leader" | "Observe" | "Resign") => Needs::Request,
        ("grpc.health.v1.Health", "Check" | "List" | "Watch") => Needs::Nothing,
        _ => return None,
    })
}

/// An extension of requests made inside this process. It is private, so no request from the network can carry it.
#[derive(Clone, Copy, Debug)]
struct Embedded;

/// What a part of this very program talks to in the same process: the gRPC services, as a caller without limits.
pub fn embedded(
    member: Member,
    config: EdgeConfig,
) -> impl Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible, Future: Send> + Clone + Send + Sync
{
    super::grpc(member, config).map_request(|mut request: http::Request<Body>| {
        request.extensions_mut().insert(Embedded);
        request
    })
}

/// What came with a request besides its message: looked at only when it has to be.
#[derive(Clone, Debug)]
pub(crate) struct Sender {
    metadata: MetadataMap,
    extensions: Extensions,
}

/// Takes a request apart.
pub(crate) fn split<T>(request: Request<T>) -> (Sender, T) {
    let (metadata, extensions, message) = request.into_parts();
    (Sender { metadata, extensions }, message)
}

impl Sender {
    /// A further request of the same sender.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        Request::from_parts(self.metadata.clone(), self.extensions.clone(), message)
    }

    fn token(&self) -> Option<&str> {
        let value = self.metadata.get("token").or_else(|| self.metadata.get("authorization"))?;
        // What is no text is no token.
        let value = value.to_str().unwrap_or_default();
        Some(value.strip_prefix("Bearer ").unwrap_or(value))
    }

    fn common_name(&self) -> Option<&str> {
        // The gateway calls with the server's own certificate.
        if self.metadata.contains_key("grpcgateway-accept") {
            return None;
        }
        // Put there by whoever took the request off a connection, never taken from what a client sends.
        self.extensions.get::<OverTls>()?.common_name.as_deref().filter(|name| !name.is_empty())
    }
}

impl Edge {
    /// Who sent a request.
    ///
    /// # Errors
    /// `InvalidToken`.
    pub(crate) async fn caller(&self, sender: &Sender) -> Result<Caller, StoreError> {
        if sender.extensions.get::<Embedded>().is_some() {
            return Ok(Caller::Internal);
        }
        let reader = self.member.reader();
        if !reader.auth_enabled() {
            return Ok(Caller::Anonymous);
        }
        if let Some(token) = sender.token() {
            return self.member.identify(token).await;
        }
        let revision = reader.auth().revision();
        let named = sender.common_name().map(|name| Caller::User { name: name.into(), revision });
        Ok(named.unwrap_or(Caller::Anonymous))
    }

    /// Reads for whoever `sender` is, if `check` allows it, with the permissions as of the moment that is read: a change
    /// of them meanwhile fails the read. To be called after the barrier, if there is one.
    pub(crate) async fn read_as<T>(
        &self,
        sender: &Sender,
        check: impl FnOnce(&AuthState, &Caller) -> Result<(), AuthError>,
        read: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let caller = self.caller(sender).await?;
        let reader = self.member.reader();
        if caller == Caller::Internal {
            return read();
        }
        if !reader.auth_enabled() {
            let answer = read()?;
            // Authentication is published before the data that was written under it.
            return if reader.auth_enabled() { Err(AuthError::UserEmpty.into()) } else { Ok(answer) };
        }
        check(&reader.auth(), &caller)?;
        let answer = read()?;
        if reader.auth().is_stale(&caller) { Err(AuthError::OldRevision.into()) } else { Ok(answer) }
    }

    /// Fails unless the caller has the root role, as this member knows it.
    pub(crate) fn require_root(&self, caller: &Caller) -> Result<(), AuthError> {
        if self.member.reader().auth_enabled() { self.member.reader().auth().require_root(caller) } else { Ok(()) }
    }

    /// Whether the caller may ask about alarms (every user), or change them (root).
    pub(crate) async fn may_alarm(&self, sender: &Sender, action: AlarmAction) -> Result<(), StoreError> {
        let needs = if action == AlarmAction::Get { Needs::User } else { Needs::Root };
        self.admit(needs, sender).await
    }

    async fn admit(&self, needs: Needs, sender: &Sender) -> Result<(), StoreError> {
        let caller = self.caller(sender).await?;
        let auth = self.member.reader().auth();
        match needs {
            Needs::User => auth.require_user(&caller)?,
            Needs::Root => auth.require_root(&caller)?,
            Needs::Nothing | Needs::Request => {}
        }
        Ok(())
    }
}

/// A service behind the table.
#[derive(Clone)]
pub struct Guard<S> {
    edge: Edge,
    service: S,
}

pub(super) fn guard<S>(edge: &Edge, service: S) -> Guard<S> {
    Guard { edge: edge.clone(), service }
}

impl<S: NamedService> NamedService for Guard<S> {
    const NAME: &'static str = S::NAME;
}

type Answer = Result<http::Response<Body>, Infallible>;
type Guarded<F> = Either<F, Either<Ready<Answer>, Pin<Box<dyn Future<Output = Answer> + Send>>>>;

impl<S, B> Service<http::Request<B>> for Guard<S>
where
    S: Service<http::Request<B>, Response = http::Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Guarded<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        if self.edge.lacks_leader(request.headers()) {
            return Either::Right(Either::Left(ready(Ok(refusal(StoreError::NoLeader)))));
        }
        if !self.edge.member.reader().auth_enabled() || request.extensions().get::<Embedded>().is_some() {
            return Either::Left(self.service.call(request));
        }
        let needs = match needs(request.uri().path()) {
            None => return Either::Right(Either::Left(ready(Ok(refusal(AuthError::PermissionDenied.into()))))),
            Some(Needs::Nothing | Needs::Request) => return Either::Left(self.service.call(request)),
            Some(needs) => needs,
        };
        // The instance that was asked whether it is ready is the one to be called.
        let mut service = self.service.clone();
        std::mem::swap(&mut service, &mut self.service);
        let edge = self.edge.clone();
        let admitted = async move {
            let sender = Sender {
                metadata: MetadataMap::from_headers(request.headers().clone()),
                extensions: request.extensions().clone(),
            };
            match edge.admit(needs, &sender).await {
                Ok(()) => service.call(request).await,
                Err(error) => Ok(refusal(error)),
            }
        };
        Either::Right(Either::Right(admitted.boxed()))
    }
}

fn refusal(error: StoreError) -> http::Response<Body> {
    Status::from(error).into_http()
}

impl From<AuthError> for Status {
    fn from(error: AuthError) -> Self {
        Status::new(error.code(), error.to_string())
    }
}

#[cfg(test)]
mod tests;
