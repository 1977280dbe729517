//! Every RPC with every kind of caller, over real connections to a member with authentication on.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use futures::{Stream, StreamExt, stream};
use kontiki_api::authpb;
use kontiki_api::etcdserverpb as pb;
use kontiki_api::etcdserverpb::auth_client::AuthClient;
use kontiki_api::etcdserverpb::kv_client::KvClient;
use kontiki_api::{v3electionpb as election, v3lockpb as lock};
use prost::Message;
use tokio_util::sync::CancellationToken;
use tonic::client::{Grpc, GrpcService};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::{Body as HttpBody, StdError};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use super::*;
use crate::auth::{AuthCommand, AuthOptions};
use crate::command::Command;
use crate::edge::{self, EdgeConfig};
use crate::ids::{ClusterId, MemberId};
use crate::io::serve::{ServeOptions, Socket, serve};
use crate::io::tls::Doorman;
use crate::member::{Member, MemberConfig, Peer};

/// One RPC of the protobuf files.
#[derive(Clone, Debug)]
struct Rpc {
    path: String,
    client_streams: bool,
}

fn every_rpc() -> Vec<Rpc> {
    let descriptors = prost_types::FileDescriptorSet::decode(kontiki_api::DESCRIPTORS).unwrap();
    let mut rpcs = Vec::new();
    for file in descriptors.file {
        for service in &file.service {
            for method in &service.method {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                rpcs.push(Rpc { path, client_streams: method.client_streaming() });
            }
        }
    }
    rpcs
}

#[test]
fn every_rpc_is_in_the_table() {
    let rpcs = every_rpc();
    assert!(rpcs.len() > 40, "{rpcs:?}");
    for rpc in rpcs {
        assert!(needs(&rpc.path).is_some(), "{} is not in the access table", rpc.path);
    }
    for path in ["", "/", "/etcdserverpb.KV", "/etcdserverpb.KV/", "/etcdserverpb.KV/Range/", "/x.KV/Range"] {
        assert_eq!(needs(path), None, "{path}");
    }
}

/// Messages as bytes, so that any RPC can be called by its name.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// The first message of the answer; `None` when it ends without one.
async fn call<T>(channel: T, rpc: &Rpc, token: Option<&str>, message: Bytes) -> Result<Option<Bytes>, Status>
where
    T: GrpcService<Body>,
    T::ResponseBody: HttpBody<Data = Bytes> + Send + 'static,
    <T::ResponseBody as HttpBody>::Error: Into<StdError> + Send,
{
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.map_err(|error| Status::unavailable(error.into().to_string()))?;
    let once = stream::once(async move { message });
    // The server of a stream would end it with the client's half.
    let messages: Pin<Box<dyn Stream<Item = Bytes> + Send>> =
        if rpc.client_streams { Box::pin(once.chain(stream::pending())) } else { Box::pin(once) };
    let mut request = Request::new(messages);
    if let Some(token) = token {
        request.metadata_mut().insert("token", token.parse().unwrap());
    }
    let answer = grpc.streaming(request, rpc.path.parse().unwrap(), Raw).await?;
    answer.into_inner().message().await
}

/// A served member with authentication on: root, alice who may read and write `k` to `l`, and bob who may nothing.
struct Secured {
    member: Member,
    channel: Channel,
    tokens: BTreeMap<&'static str, String>,
    stop: CancellationToken,
    _dir: tempfile::TempDir,
}

const LEASE: i64 = 7;
const TTL: Duration = Duration::from_secs(300);

impl Secured {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (peer, id) = (free(), MemberId(1));
        let peers = [(id, Peer { name: "m1".to_owned(), peer_urls: vec![format!("http://{peer}")] })].into();
        let config = MemberConfig {
            peer_listen: vec![peer],
            fsync: false,
            auth: AuthOptions { bcrypt_cost: 4, ..AuthOptions::default() },
            ..MemberConfig::new(id, ClusterId(0xc), dir.path().to_owned(), peers)
        };
        let member = Member::start(config).await.unwrap();
        let address = free();
        let url = format!("http://{address}");
        let socket = Socket::tcp(address, false).unwrap();
        let stop = CancellationToken::new();
        let surface = edge::surface(member.clone(), EdgeConfig::default());
        tokio::spawn(serve(socket, Doorman::plaintext(), surface, ServeOptions::default(), stop.clone()));
        let channel = Endpoint::from_shared(url).unwrap().connect_lazy();
        let mut secured = Self { member, channel, tokens: BTreeMap::new(), stop, _dir: dir };
        secured.set_up().await;
        secured
    }

    async fn set_up(&mut self) {
        let mut auth = AuthClient::new(self.channel.clone());
        for name in ["root", "alice", "bob"] {
            let (name, password) = (name.to_owned(), format!("{name}'s"));
            auth.user_add(pb::AuthUserAddRequest { name, password, ..Default::default() }).await.unwrap();
        }
        for (user, role) in [("root", "root"), ("alice", "r")] {
            auth.role_add(pb::AuthRoleAddRequest { name: role.to_owned() }).await.unwrap();
            let grant = pb::AuthUserGrantRoleRequest { user: user.to_owned(), role: role.to_owned() };
            auth.user_grant_role(grant).await.unwrap();
        }
        let permission = authpb::Permission { perm_type: 2, key: "k".into(), range_end: "l".into() };
        let permission = pb::AuthRoleGrantPermissionRequest { name: "r".to_owned(), perm: Some(permission) };
        auth.role_grant_permission(permission).await.unwrap();
        let lease = pb::LeaseGrantRequest { ttl: 600, id: LEASE };
        self.member.propose(Command::LeaseGrant(lease)).await.unwrap();
        self.put(pb::PutRequest { key: "k".into(), lease: LEASE, ..Default::default() }).await;
        auth.auth_enable(pb::AuthEnableRequest {}).await.unwrap();
        let expired = self.log_in("alice").await;
        self.member.reader().expire_tokens_in(2 * TTL, TTL);
        self.tokens.insert("expired", expired);
        self.tokens.insert("wrong", "lettersletters.1".to_owned());
        for name in ["root", "alice", "bob"] {
            let token = self.log_in(name).await;
            self.tokens.insert(name, token);
        }
    }

    async fn put(&self, request: pb::PutRequest) {
        KvClient::new(self.channel.clone()).put(request).await.unwrap();
    }

    async fn log_in(&self, name: &str) -> String {
        let request = pb::AuthenticateRequest { name: name.to_owned(), password: format!("{name}'s") };
        AuthClient::new(self.channel.clone()).authenticate(request).await.unwrap().into_inner().token
    }

    /// How an RPC ends for a caller; a watcher's refusal counts as its error.
    async fn outcome(&self, rpc: &Rpc, who: &str, message: Bytes) -> Result<(), Status> {
        let answer = call(self.channel.clone(), rpc, self.tokens.get(who).map(String::as_str), message).await?;
        if rpc.path.ends_with(".Watch/Watch") {
            let answer = pb::WatchResponse::decode(answer.unwrap()).unwrap();
            assert!(answer.created, "{answer:?}");
            if answer.canceled {
                assert_eq!(answer.watch_id, -1, "{answer:?}");
                let known = AuthError::all().iter().find(|error| error.as_cancel_reason() == answer.cancel_reason);
                return Err((*known.unwrap_or_else(|| panic!("{answer:?}"))).into());
            }
        }
        Ok(())
    }

    async fn stop(self) {
        self.stop.cancel();
        self.member.shutdown().await;
    }
}

/// What the six kinds of callers get: nobody, a wrong token, an expired one, bob, alice, root. `None`: not refused.
type Row = [Option<AuthError>; 6];
const CALLERS: [&str; 6] = ["nobody", "wrong", "expired", "bob", "alice", "root"];

const EMPTY: Option<AuthError> = Some(AuthError::UserEmpty);
const INVALID: Option<AuthError> = Some(AuthError::InvalidToken);
const DENIED: Option<AuthError> = Some(AuthError::PermissionDenied);

const EVERYBODY: Row = [None; 6];
const USERS: Row = [EMPTY, INVALID, INVALID, None, None, None];
const ALICE: Row = [EMPTY, INVALID, INVALID, DENIED, None, None];
const ONLY_ROOT: Row = [EMPTY, INVALID, INVALID, DENIED, DENIED, None];

/// Messages for an RPC whose request decides, and what comes of each.
fn requests(path: &str) -> Vec<(Bytes, Row)> {
    fn bytes(message: &impl Message) -> Bytes {
        message.encode_to_vec().into()
    }
    let range = |key: &'static str, end: &'static str| {
        bytes(&pb::RangeRequest { key: key.into(), range_end: end.into(), ..Default::default() })
    };
    let put = |key: &'static str| {
        // A foreign key on the lease would keep alice from using it.
        let lease = if key == "k" { LEASE } else { 0 };
        pb::PutRequest { key: key.into(), lease, ..Default::default() }
    };
    let put_op = |key| pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put(key))) };
    let range_op = |key: &'static str| {
        let range = pb::RangeRequest { key: key.into(), ..Default::default() };
        pb::RequestOp { request: Some(pb::request_op::Request::RequestRange(range)) }
    };
    let txn = |success, failure| bytes(&pb::TxnRequest { success, failure, ..Default::default() });
    let delete = |key: &'static str| bytes(&pb::DeleteRangeRequest { key: key.into(), ..Default::default() });
    let watch = |key: &'static str, range_end: &'static str| {
        let create = pb::WatchCreateRequest { key: key.into(), range_end: range_end.into(), ..Default::default() };
        let request_union = Some(pb::watch_request::RequestUnion::CreateRequest(create));
        bytes(&pb::WatchRequest { request_union })
    };
    let (method, empty) = (path.rsplit('/').next().unwrap(), Bytes::new());
    match method {
        "Range" | "RangeStream" => {
            vec![(range("k", ""), ALICE), (range("k", "l"), ALICE), (range("k", "l\0"), ONLY_ROOT)]
        }
        "Put" => vec![(bytes(&put("k")), ALICE), (bytes(&put("l")), ONLY_ROOT)],
        "DeleteRange" => vec![(delete("kx"), ALICE), (delete("l"), ONLY_ROOT)],
        "Txn" => vec![
            (txn(vec![], vec![put_op("k")]), ALICE),
            (txn(vec![], vec![put_op("l")]), ONLY_ROOT),
            (txn(vec![range_op("k")], vec![]), ALICE),
            (txn(vec![range_op("k")], vec![range_op("l")]), ONLY_ROOT),
        ],
        "Watch" => vec![(watch("k", ""), ALICE), (watch("k", "l"), ALICE), (watch("k", "\0"), ONLY_ROOT)],
        "LeaseKeepAlive" => vec![(bytes(&pb::LeaseKeepAliveRequest { id: LEASE }), ALICE)],
        "LeaseTimeToLive" => vec![
            (bytes(&pb::LeaseTimeToLiveRequest { id: LEASE, keys: true }), ALICE),
            (bytes(&pb::LeaseTimeToLiveRequest { id: LEASE, keys: false }), USERS),
        ],
        "LeaseLeases" => vec![(empty, ALICE)],
        "Alarm" => vec![
            (bytes(&pb::AlarmRequest { action: 0, ..Default::default() }), USERS),
            (bytes(&pb::AlarmRequest { action: 1, ..Default::default() }), ONLY_ROOT),
            (bytes(&pb::AlarmRequest { action: 2, ..Default::default() }), ONLY_ROOT),
        ],
        "AuthStatus" => vec![(empty, [None, INVALID, INVALID, None, None, None])],
        "UserGet" => vec![
            (bytes(&pb::AuthUserGetRequest { name: "alice".to_owned() }), ALICE),
            (bytes(&pb::AuthUserGetRequest { name: "root".to_owned() }), ONLY_ROOT),
        ],
        "RoleGet" => vec![
            (bytes(&pb::AuthRoleGetRequest { role: "r".to_owned() }), ALICE),
            (bytes(&pb::AuthRoleGetRequest { role: "root".to_owned() }), ONLY_ROOT),
        ],
        "UserAdd" => {
            let (name, password) = ("new".to_owned(), "new's".to_owned());
            vec![(bytes(&pb::AuthUserAddRequest { name, password, ..Default::default() }), ONLY_ROOT)]
        }
        "AuthEnable"
        | "AuthDisable"
        | "UserList"
        | "UserDelete"
        | "UserChangePassword"
        | "UserGrantRole"
        | "UserRevokeRole"
        | "RoleAdd"
        | "RoleList"
        | "RoleDelete"
        | "RoleGrantPermission"
        | "RoleRevokePermission" => {
            vec![(empty, ONLY_ROOT)]
        }
        "Lock" | "Unlock" | "Campaign" | "Proclaim" | "Leader" | "Observe" | "Resign" => waiting(method),
        other => panic!("no requests are known for {other}"),
    }
}

/// Locks and elections under a name that alice may use, and under one that she may not. A lease of root's own there, so
/// that its key keeps nobody from using the other.
fn waiting(method: &str) -> Vec<(Bytes, Row)> {
    let both = |message: &dyn Fn(&'static str, i64) -> Bytes| {
        vec![(message("kc", LEASE), ALICE), (message("l", 0), ONLY_ROOT)]
    };
    let leader =
        |name: &'static str| election::LeaderKey { key: format!("{name}/x").into(), rev: 1, ..Default::default() };
    match method {
        "Lock" => both(&|name, lease| lock::LockRequest { name: name.into(), lease }.encode_to_vec().into()),
        "Unlock" => both(&|name, _| lock::UnlockRequest { key: format!("{name}/x").into() }.encode_to_vec().into()),
        "Campaign" => both(&|name, lease| {
            election::CampaignRequest { name: name.into(), lease, value: Bytes::new() }.encode_to_vec().into()
        }),
        "Proclaim" => both(&|name, _| {
            election::ProclaimRequest { leader: Some(leader(name)), ..Default::default() }.encode_to_vec().into()
        }),
        "Resign" => both(&|name, _| election::ResignRequest { leader: Some(leader(name)) }.encode_to_vec().into()),
        _ => both(&|name, _| election::LeaderRequest { name: name.into() }.encode_to_vec().into()),
    }
}

fn rows(path: &str) -> Vec<(Bytes, Row)> {
    match needs(path).unwrap() {
        Needs::Nothing => vec![(Bytes::new(), EVERYBODY)],
        Needs::User if path.ends_with("/LeaseRevoke") => {
            // Whose keys it would delete is decided in apply; without any, every user may.
            let revoke = |id| Bytes::from(pb::LeaseRevokeRequest { id }.encode_to_vec());
            vec![(revoke(404), USERS), (revoke(LEASE), ALICE)]
        }
        Needs::User => vec![(Bytes::new(), USERS)],
        Needs::Root => vec![(Bytes::new(), ONLY_ROOT)],
        Needs::Request => requests(path),
    }
}

#[tokio::test]
async fn every_rpc_refuses_whom_it_should_and_nobody_else() {
    let secured = Secured::start().await;
    let mut rpcs = every_rpc();
    // Revoking the lease and switching authentication off end what the others look at.
    rpcs.sort_by_key(|rpc| (rpc.path.ends_with("/AuthDisable"), rpc.path.ends_with("/LeaseRevoke")));
    let mut wrong = Vec::new();
    let mut cells = 0;
    for rpc in &rpcs {
        for (message, row) in rows(&rpc.path) {
            for (who, expected) in CALLERS.iter().zip(row) {
                let outcome = secured.outcome(rpc, who, message.clone()).await;
                cells += 1;
                if !as_expected(&outcome, expected) {
                    wrong.push(format!("{} by {who}: {outcome:?}, but {expected:?} was expected", rpc.path));
                }
            }
        }
    }
    assert!(cells > 300, "{cells} cells");
    assert!(wrong.is_empty(), "{} of {cells} cells:\n{}", wrong.len(), wrong.join("\n"));
    secured.stop().await;
}

fn as_expected(outcome: &Result<(), Status>, expected: Option<AuthError>) -> bool {
    match (outcome, expected) {
        (Ok(()), expected) => expected.is_none(),
        (Err(status), Some(error)) => status.code() == error.code() && status.message() == error.to_string(),
        (Err(status), None) => {
            let refusals = [EMPTY, INVALID, DENIED, Some(AuthError::OldRevision)];
            !refusals.iter().flatten().any(|refusal| status.message() == refusal.to_string())
        }
    }
}

#[tokio::test]
async fn an_rpc_outside_of_the_table_is_refused_while_authentication_is_on() {
    let secured = Secured::start().await;
    let unknown = Rpc { path: "/etcdserverpb.KV/Steal".to_owned(), client_streams: false };
    let status = secured.outcome(&unknown, "root", Bytes::new()).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::PermissionDenied, "etcdserver: permission denied"));
    secured.member.propose_as(&Caller::Internal, Command::Auth(AuthCommand::Disable)).await.unwrap();
    let status = secured.outcome(&unknown, "root", Bytes::new()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    secured.stop().await;
}

fn rpc(path: &str) -> Rpc {
    Rpc { path: path.to_owned(), client_streams: false }
}

#[tokio::test]
async fn the_process_itself_needs_no_token_and_the_network_cannot_pretend_to_be_it() {
    let secured = Secured::start().await;
    let put = Bytes::from(pb::PutRequest { key: "own".into(), ..Default::default() }.encode_to_vec());
    let (config, rpc) = (EdgeConfig::default(), rpc("/etcdserverpb.KV/Put"));
    let embedded = edge::embedded(secured.member.clone(), config.clone());
    assert!(call(embedded, &rpc, None, put.clone()).await.is_ok());
    let plain = edge::grpc(secured.member.clone(), config);
    let status = call(plain, &rpc, None, put).await.unwrap_err();
    assert_eq!(status.message(), "etcdserver: user name is empty");
    secured.stop().await;
}

#[tokio::test]
async fn a_verified_certificate_names_the_user_unless_the_gateway_calls() {
    let secured = Secured::start().await;
    let routes = edge::grpc(secured.member.clone(), EdgeConfig::default());
    let with = |name: &'static str| {
        routes.clone().map_request(move |mut request: http::Request<Body>| {
            request.extensions_mut().insert(OverTls { common_name: Some(name.to_owned()) });
            request
        })
    };
    let get = |key: &'static str| pb::RangeRequest { key: key.into(), ..Default::default() };
    assert!(KvClient::new(with("alice")).range(get("k")).await.is_ok());
    let denied = KvClient::new(with("bob")).range(get("k")).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    let mut from_gateway = Request::new(get("k"));
    from_gateway.metadata_mut().insert("grpcgateway-accept", "application/json".parse().unwrap());
    let nobody = KvClient::new(with("alice")).range(from_gateway).await.unwrap_err();
    assert_eq!(nobody.message(), "etcdserver: user name is empty");
    // A token counts more, and comes in two places.
    let mut with_token = Request::new(get("k"));
    let bearer = format!("Bearer {}", secured.tokens["bob"]);
    with_token.metadata_mut().insert("authorization", bearer.parse().unwrap());
    let denied = KvClient::new(with("alice")).range(with_token).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    secured.stop().await;
}

#[tokio::test]
async fn a_wrong_password_or_an_unknown_user_gets_no_token() {
    let secured = Secured::start().await;
    let mut auth = AuthClient::new(secured.channel.clone());
    for (name, password) in [("alice", "bob's"), ("alice", ""), ("nobody", "x"), ("", "")] {
        let request = pb::AuthenticateRequest { name: name.to_owned(), password: password.to_owned() };
        let status = auth.authenticate(request).await.unwrap_err();
        let expected = "etcdserver: authentication failed, invalid user ID or password";
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, expected), "{name}");
    }
    let status = auth.auth_status(pb::AuthStatusRequest {}).await.unwrap().into_inner();
    assert!(status.enabled && status.auth_revision > 1, "{status:?}");
    assert!(status.header.is_some_and(|header| header.member_id == 1 && header.revision == 2), "the header is filled");
    // A changed password takes its user's tokens back.
    let name = "alice".to_owned();
    let change = pb::AuthUserChangePasswordRequest { name, password: "new".to_owned(), ..Default::default() };
    let mut change = Request::new(change);
    change.metadata_mut().insert("token", secured.tokens["root"].parse().unwrap());
    auth.user_change_password(change).await.unwrap();
    let get = Bytes::from(pb::RangeRequest { key: "k".into(), ..Default::default() }.encode_to_vec());
    let status = secured.outcome(&rpc("/etcdserverpb.KV/Range"), "alice", get).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unauthenticated, "etcdserver: invalid auth token"));
    let new = pb::AuthenticateRequest { name: "alice".to_owned(), password: "new".to_owned() };
    assert!(auth.authenticate(new).await.is_ok());
    secured.stop().await;
}
