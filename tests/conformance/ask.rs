//! A request as data, and its answer as text without what differs by nature.

use std::time::Duration;

use kontiki_api::etcdserverpb as pb;
use kontiki_api::etcdserverpb::auth_client::AuthClient;
use kontiki_api::etcdserverpb::kv_client::KvClient;
use kontiki_api::etcdserverpb::lease_client::LeaseClient;
use kontiki_api::etcdserverpb::maintenance_client::MaintenanceClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

/// A request of either server.
#[derive(Clone, Debug)]
pub enum Ask {
    Range(pb::RangeRequest),
    Put(pb::PutRequest),
    DeleteRange(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Compact(pb::CompactionRequest),
    LeaseGrant(pb::LeaseGrantRequest),
    LeaseRevoke(pb::LeaseRevokeRequest),
    LeaseTimeToLive(pb::LeaseTimeToLiveRequest),
    LeaseLeases,
    LeaseKeepAlive(pb::LeaseKeepAliveRequest),
    /// Only whether it succeeds, and the revision: the digest is each server's own.
    HashKv(pb::HashKvRequest),
    Alarms,
    MoveLeader(pb::MoveLeaderRequest),
    RoleGet(pb::AuthRoleGetRequest),
    RoleAdd(pb::AuthRoleAddRequest),
    RoleList,
    RoleDelete(pb::AuthRoleDeleteRequest),
    RoleGrant(pb::AuthRoleGrantPermissionRequest),
    RoleRevoke(pb::AuthRoleRevokePermissionRequest),
    UserAdd(pb::AuthUserAddRequest),
    UserGet(pb::AuthUserGetRequest),
    UserList,
    UserDelete(pb::AuthUserDeleteRequest),
    UserGrant(pb::AuthUserGrantRoleRequest),
    UserRevoke(pb::AuthUserRevokeRoleRequest),
    UserChangePassword(pb::AuthUserChangePasswordRequest),
    AuthEnable,
    Authenticate(pb::AuthenticateRequest),
}

/// One of the two.
pub struct Server {
    pub name: &'static str,
    channel: Channel,
}

/// An answer as text; the answers of `$answer` have a header in which only the revision is compared.
macro_rules! text {
    ($answer:expr) => {
        match $answer.map(Response::into_inner) {
            Ok(mut answer) => {
                strip(&mut answer.header);
                format!("{answer:?}")
            }
            Err(status) => refusal(&status),
        }
    };
}

impl Server {
    pub fn new(name: &'static str, url: &str) -> Self {
        let endpoint = Endpoint::from_shared(url.to_owned()).unwrap();
        Self { name, channel: endpoint.timeout(super::PATIENCE).tcp_nodelay(true).connect_lazy() }
    }

    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub async fn await_ready(&self) {
        let deadline = tokio::time::Instant::now() + super::PATIENCE;
        let ask = pb::RangeRequest { key: "ready".into(), ..Default::default() };
        while let Err(status) = KvClient::new(self.channel()).range(ask.clone()).await {
            assert!(tokio::time::Instant::now() < deadline, "{} is not ready: {status}", self.name);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn answer(&self, ask: &Ask) -> String {
        match ask.clone() {
            Ask::Range(request) => text!(KvClient::new(self.channel()).range(request).await),
            Ask::Put(request) => text!(KvClient::new(self.channel()).put(request).await),
            Ask::DeleteRange(request) => text!(KvClient::new(self.channel()).delete_range(request).await),
            Ask::Txn(request) => self.txn(request).await,
            Ask::Compact(request) => text!(KvClient::new(self.channel()).compact(request).await),
            Ask::LeaseGrant(request) => text!(LeaseClient::new(self.channel()).lease_grant(request).await),
            Ask::LeaseRevoke(request) => text!(LeaseClient::new(self.channel()).lease_revoke(request).await),
            Ask::LeaseTimeToLive(request) => self.time_to_live(request).await,
            Ask::LeaseLeases => self.leases().await,
            Ask::LeaseKeepAlive(request) => self.keep_alive(request).await,
            Ask::HashKv(request) => self.hash_kv(request).await,
            Ask::Alarms => self.alarms().await,
            Ask::MoveLeader(request) => text!(MaintenanceClient::new(self.channel()).move_leader(request).await),
            other => self.auth(other).await,
        }
    }

    async fn auth(&self, ask: Ask) -> String {
        let mut auth = AuthClient::new(self.channel());
        match ask {
            Ask::RoleGet(request) => text!(auth.role_get(request).await),
            Ask::RoleAdd(request) => text!(auth.role_add(request).await),
            Ask::RoleList => text!(auth.role_list(pb::AuthRoleListRequest {}).await),
            Ask::RoleDelete(request) => text!(auth.role_delete(request).await),
            Ask::RoleGrant(request) => text!(auth.role_grant_permission(request).await),
            Ask::RoleRevoke(request) => text!(auth.role_revoke_permission(request).await),
            Ask::UserAdd(request) => text!(auth.user_add(request).await),
            Ask::UserGet(request) => text!(auth.user_get(request).await),
            Ask::UserList => text!(auth.user_list(pb::AuthUserListRequest {}).await),
            Ask::UserDelete(request) => text!(auth.user_delete(request).await),
            Ask::UserGrant(request) => text!(auth.user_grant_role(request).await),
            Ask::UserRevoke(request) => text!(auth.user_revoke_role(request).await),
            Ask::UserChangePassword(request) => text!(auth.user_change_password(request).await),
            Ask::AuthEnable => text!(auth.auth_enable(pb::AuthEnableRequest {}).await),
            Ask::Authenticate(request) => text!(auth.authenticate(request).await),
            other => unreachable!("not a request of the Auth service: {other:?}"),
        }
    }

    /// The headers of nested answers are compared as they are: etcd fills only the revision there.
    async fn txn(&self, request: pb::TxnRequest) -> String {
        text!(KvClient::new(self.channel()).txn(request).await)
    }

    /// etcd orders leases by what is left of them, which depends on the clock.
    async fn leases(&self) -> String {
        let answer = LeaseClient::new(self.channel()).lease_leases(pb::LeaseLeasesRequest {}).await;
        let answer = answer.map(|response| {
            let mut body = response.into_inner();
            body.leases.sort_by_key(|lease| lease.id);
            Response::new(body)
        });
        text!(answer)
    }

    /// etcd lists the keys in no order, and what is left of a lease depends on the clock.
    async fn time_to_live(&self, request: pb::LeaseTimeToLiveRequest) -> String {
        let answer = LeaseClient::new(self.channel()).lease_time_to_live(request).await;
        let answer = answer.map(|response| {
            let mut body = response.into_inner();
            body.keys.sort();
            body.ttl = body.ttl.signum();
            Response::new(body)
        });
        text!(answer)
    }

    async fn keep_alive(&self, request: pb::LeaseKeepAliveRequest) -> String {
        let requests = tokio_stream::once(request);
        match LeaseClient::new(self.channel()).lease_keep_alive(requests).await {
            Ok(stream) => text!(stream.into_inner().message().await.map(|answer| Response::new(answer.unwrap()))),
            Err(status) => refusal(&status),
        }
    }

    /// 3.4 answers without a header where there is no alarm, 3.6 with one.
    async fn alarms(&self) -> String {
        match MaintenanceClient::new(self.channel()).alarm(pb::AlarmRequest::default()).await {
            Ok(answer) => format!("{:?}", answer.into_inner().alarms),
            Err(status) => refusal(&status),
        }
    }

    async fn hash_kv(&self, request: pb::HashKvRequest) -> String {
        match MaintenanceClient::new(self.channel()).hash_kv(request).await {
            Ok(answer) => {
                let mut answer = answer.into_inner();
                strip(&mut answer.header);
                // 3.4 has no field for the hashed revision.
                format!("{:?} compacted {}", answer.header, answer.compact_revision)
            }
            Err(status) => refusal(&status),
        }
    }
}

/// Leaves only the revision.
pub fn strip(header: &mut Option<pb::ResponseHeader>) {
    if let Some(header) = header {
        *header = pb::ResponseHeader { revision: header.revision, ..Default::default() };
    }
}

fn refusal(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}
