//! Authentication in a cluster: tokens that work everywhere, and permissions that are decided alike everywhere.

use kontiki_api::authpb;
use kontiki_api::etcdserverpb as pb;

use super::tests::{Cluster, get, put, run, within};
use super::{Member, MemberConfig, StartError};
use crate::auth::{AuthCommand, AuthError, AuthOptions, Caller, TokenProvider};
use crate::command::Command;
use crate::error::StoreError;
use crate::ids::{MemberId, Revision};

const PASSWORD: &str = "secret";

async fn enable(member: &Member) {
    let hashed_password = member.hash_password(PASSWORD.to_owned()).await.unwrap();
    let user = |name: &str| {
        let (name, hashed_password) = (name.to_owned(), hashed_password.clone());
        AuthCommand::UserAdd(pb::AuthUserAddRequest { name, hashed_password, ..Default::default() })
    };
    let role = |name: &str| AuthCommand::RoleAdd(pb::AuthRoleAddRequest { name: name.to_owned() });
    let grant = |user: &str, role: &str| {
        AuthCommand::UserGrantRole(pb::AuthUserGrantRoleRequest { user: user.to_owned(), role: role.to_owned() })
    };
    let permission = authpb::Permission { perm_type: 2, key: "a".into(), range_end: "b".into() };
    let permission = pb::AuthRoleGrantPermissionRequest { name: "r".to_owned(), perm: Some(permission) };
    let commands = [
        user("root"),
        role("root"),
        grant("root", "root"),
        user("alice"),
        role("r"),
        grant("alice", "r"),
        AuthCommand::RoleGrantPermission(permission),
        AuthCommand::Enable,
    ];
    for command in commands {
        within(member.propose(Command::Auth(command))).await.unwrap();
    }
}

fn cheap() -> AuthOptions {
    AuthOptions { bcrypt_cost: 4, ..AuthOptions::default() }
}

/// Three members with authentication on.
async fn guarded() -> Cluster {
    let mut cluster = Cluster::layout(3);
    cluster.auth = cheap();
    for id in 1..=3 {
        cluster.start_member(MemberId(id)).await;
    }
    enable(cluster.any()).await;
    cluster
}

#[test]
fn a_token_of_one_member_works_at_once_on_every_other() {
    run(async {
        let cluster = guarded().await;
        let members: Vec<&Member> = cluster.members.values().collect();
        for (place, asked) in members.iter().enumerate() {
            // Many times over: the others hear of the entry a moment later.
            for round in 0..20 {
                let token = within(asked.authenticate("alice", PASSWORD)).await.unwrap();
                let (letters, index) = token.split_once('.').unwrap();
                assert!(letters.len() == 16 && index.parse::<u64>().is_ok(), "{token}");
                for other in &members {
                    let caller = within(other.identify(&token)).await.unwrap();
                    let Caller::User { name, revision } = &caller else { panic!("{caller:?}") };
                    assert_eq!((&**name, *revision), ("alice", other.reader().auth().revision()));
                    let key = format!("a{place}-{round}");
                    within(other.propose_as(&caller, put(&key, "v"))).await.unwrap();
                }
            }
        }
        assert_eq!(within(members[0].identify("lettersletters.1")).await, Err(AuthError::InvalidToken.into()));
        let far = format!("letters.{}", u64::MAX);
        assert_eq!(within(members[0].identify(&far)).await, Err(AuthError::InvalidToken.into()));
        for member in &members {
            member.shutdown().await;
        }
    });
}

#[test]
fn a_permission_taken_back_after_the_proposal_is_denied_on_every_member() {
    run(async {
        let cluster = guarded().await;
        let members: Vec<&Member> = cluster.members.values().collect();
        // Identified before, proposed after: what lies between may as well be the way to the leader.
        let token = within(members[1].authenticate("alice", PASSWORD)).await.unwrap();
        let mut callers = Vec::new();
        for member in &members {
            callers.push(within(member.identify(&token)).await.unwrap());
        }
        let revoke = pb::AuthUserRevokeRoleRequest { name: "alice".to_owned(), role: "r".to_owned() };
        let root = within(members[2].authenticate("root", PASSWORD)).await.unwrap();
        let root = within(members[2].identify(&root)).await.unwrap();
        within(members[2].propose_as(&root, Command::Auth(AuthCommand::UserRevokeRole(revoke)))).await.unwrap();
        for (member, caller) in members.iter().zip(&callers) {
            let reply = within(member.propose_as(caller, put("a", "late"))).await;
            assert_eq!(reply, Err(StoreError::Auth(AuthError::OldRevision)));
            let caller = within(member.identify(&token)).await.unwrap();
            let reply = within(member.propose_as(&caller, put("a", "later"))).await;
            assert_eq!(reply, Err(StoreError::Auth(AuthError::PermissionDenied)));
            let reply = within(member.propose(put("a", "nobody's"))).await;
            assert_eq!(reply, Err(StoreError::Auth(AuthError::UserEmpty)));
        }
        let mut digests = Vec::new();
        for member in &members {
            within(member.read_barrier()).await.unwrap();
            assert_eq!(get(member, "a"), None);
            digests.push(member.reader().hash_kv(Revision(0)).unwrap());
        }
        assert!(digests.windows(2).all(|pair| pair[0] == pair[1]), "{digests:?}");
        for member in &members {
            member.shutdown().await;
        }
    });
}

#[test]
fn signed_tokens_work_without_the_log_and_grow_old_with_the_auth_revision() {
    run(async {
        let mut cluster = Cluster::layout(1);
        let key = cluster.config(MemberId(1)).data_dir.with_extension("secret");
        std::fs::write(&key, "a secret").unwrap();
        let token = format!("jwt,sign-method=HS256,priv-key={},ttl=5m", key.display());
        cluster.auth = AuthOptions { token: TokenProvider::parse(&token).unwrap(), ..cheap() };
        cluster.start_member(MemberId(1)).await;
        let member = cluster.members[&MemberId(1)].clone();
        enable(&member).await;
        let applied = member.status().applied;
        let token = within(member.authenticate("alice", PASSWORD)).await.unwrap();
        assert_eq!((token.split('.').count(), member.status().applied), (3, applied));
        let caller = within(member.identify(&token)).await.unwrap();
        within(member.propose_as(&caller, put("a", "v"))).await.unwrap();
        let role = AuthCommand::RoleAdd(pb::AuthRoleAddRequest { name: "other".to_owned() });
        let root = within(member.authenticate("root", PASSWORD)).await.unwrap();
        let root = within(member.identify(&root)).await.unwrap();
        within(member.propose_as(&root, Command::Auth(role))).await.unwrap();
        let caller = within(member.identify(&token)).await.unwrap();
        let reply = within(member.propose_as(&caller, put("a", "w"))).await;
        assert_eq!(reply, Err(StoreError::Auth(AuthError::OldRevision)));
        assert_eq!(within(member.identify("letters.1")).await, Err(AuthError::InvalidToken.into()));
        member.shutdown().await;
    });
}

#[test]
fn a_member_without_its_key_does_not_start() {
    run(async {
        let cluster = Cluster::layout(1);
        let token = TokenProvider::parse("jwt,sign-method=RS256,priv-key=/nowhere/key").unwrap();
        let auth = AuthOptions { token, ..AuthOptions::default() };
        let config = MemberConfig { auth, ..cluster.config(MemberId(1)) };
        let Err(StartError::Config(reason)) = Member::start(config).await else { panic!("it started") };
        assert!(reason.starts_with("--auth-token: /nowhere/key: "), "{reason}");
    });
}

#[test]
fn leases_expire_while_authentication_is_on() {
    run(async {
        let mut cluster = Cluster::layout(1);
        cluster.auth = cheap();
        cluster.start_member(MemberId(1)).await;
        let member = cluster.members[&MemberId(1)].clone();
        let grant = Command::LeaseGrant(pb::LeaseGrantRequest { id: 9, ttl: 1 });
        within(member.propose(grant)).await.unwrap();
        let leased = Command::Put(pb::PutRequest { key: "z".into(), lease: 9, ..Default::default() });
        within(member.propose(leased)).await.unwrap();
        enable(&member).await;
        let mut changes = member.reader().lease_version();
        within(async {
            while member.reader().lease_keys(crate::ids::LeaseId(9)).is_some() {
                changes.changed().await.unwrap();
            }
        })
        .await;
        assert_eq!(get(&member, "z"), None);
        member.shutdown().await;
    });
}
