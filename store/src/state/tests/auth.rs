//! The auth state as apply changes it, obeys it, stores it, and shows it to readers.

use kontiki_api::authpb;
use kontiki_api::authpb::permission::Type as Access;
use kontiki_api::etcdserverpb as pb;

use super::super::Context;
use super::super::testing::{Harness, put};
use crate::auth::command::AssignToken;
use crate::auth::{AuthCommand, AuthError, Caller};
use crate::command::{Command, Reply};
use crate::error::StoreError;
use crate::ids::LogIndex;

fn setup() -> Vec<AuthCommand> {
    let user = |name: &str| {
        let (name, hashed_password) = (name.to_owned(), "$2a$".to_owned());
        AuthCommand::UserAdd(pb::AuthUserAddRequest { name, hashed_password, ..Default::default() })
    };
    let role = |name: &str| AuthCommand::RoleAdd(pb::AuthRoleAddRequest { name: name.to_owned() });
    let grant = |user: &str, role: &str| {
        AuthCommand::UserGrantRole(pb::AuthUserGrantRoleRequest { user: user.to_owned(), role: role.to_owned() })
    };
    let permission = authpb::Permission { perm_type: Access::Readwrite.into(), key: "k".into(), range_end: "l".into() };
    let permission = pb::AuthRoleGrantPermissionRequest { name: "r".to_owned(), perm: Some(permission) };
    vec![
        user("root"),
        role("root"),
        grant("root", "root"),
        user("alice"),
        role("r"),
        grant("alice", "r"),
        AuthCommand::RoleGrantPermission(permission),
        AuthCommand::Enable,
    ]
}

fn revoke() -> AuthCommand {
    AuthCommand::UserRevokeRole(pb::AuthUserRevokeRoleRequest { name: "alice".to_owned(), role: "r".to_owned() })
}

impl Harness {
    fn secured() -> Self {
        let mut harness = Self::new();
        setup().into_iter().for_each(|command| {
            harness.run(&Command::Auth(command)).unwrap();
        });
        harness
    }

    fn caller(&self, name: &str) -> Caller {
        Caller::User { name: name.into(), revision: self.reader().auth().revision() }
    }

    fn apply_for(&mut self, caller: &Caller, command: &Command) -> Reply {
        let index = LogIndex(self.state.applied().index.0 + 1);
        self.state.apply_as(&Context { index, caller: caller.clone() }, command)
    }
}

fn denied(error: AuthError) -> Reply {
    Err(StoreError::Auth(error))
}

#[test]
fn what_was_allowed_when_it_was_proposed_is_decided_again_where_it_is_applied() {
    // Two members with the same log: one commits after each entry, the other all at once.
    let (mut one, mut other) = (Harness::secured(), Harness::secured());
    let alice = one.caller("alice");
    let entries = [
        (alice.clone(), Command::Put(put("k", "before"))),
        (one.caller("root"), Command::Auth(revoke())),
        (alice.clone(), Command::Put(put("k", "after"))),
        (
            Caller::User { name: "alice".into(), revision: one.reader().auth().revision() + 1 },
            Command::Put(put("k", "late")),
        ),
        (Caller::Anonymous, Command::Put(put("k", "nobody"))),
        (Caller::Internal, Command::Put(put("m", "own"))),
    ];
    let expected =
        [None, None, Some(AuthError::OldRevision), Some(AuthError::PermissionDenied), Some(AuthError::UserEmpty), None];
    for ((caller, command), expected) in entries.iter().zip(expected) {
        let reply = one.apply_for(caller, command);
        one.commit();
        assert_eq!(reply, other.apply_for(caller, command));
        match expected {
            None => assert!(reply.is_ok(), "{command:?}: {reply:?}"),
            Some(error) => assert_eq!(reply, denied(error), "{command:?}"),
        }
    }
    other.commit();
    assert_eq!(one.get("k").unwrap().value, "before");
    let digest = |harness: &Harness| harness.reader().hash_kv(crate::ids::Revision(0)).unwrap();
    assert_eq!(digest(&one), digest(&other));
    assert_eq!(*one.reader().auth(), *other.reader().auth());
}

#[test]
fn a_refused_command_takes_no_revision() {
    let mut harness = Harness::secured();
    let revision = harness.revision();
    let reply = harness.apply_for(&harness.caller("alice"), &Command::Put(put("z", "v")));
    harness.commit();
    assert_eq!((reply, harness.revision()), (denied(AuthError::PermissionDenied), revision));
}

#[test]
fn readers_see_changes_with_the_commit() {
    let mut harness = Harness::secured();
    let before = harness.reader().auth();
    harness.state.apply(&Command::Auth(AuthCommand::Disable)).unwrap();
    assert!(harness.reader().auth_enabled());
    // Later entries of the same batch do.
    assert!(harness.apply_for(&Caller::Anonymous, &Command::Put(put("k", "v"))).is_ok());
    harness.commit();
    assert!(!harness.reader().auth_enabled());
    assert_eq!(harness.reader().auth().revision(), before.revision() + 1);
}

#[test]
fn users_roles_and_the_revision_survive_restart_crash_and_checkpoint() {
    let mut harness = Harness::secured();
    harness.run(&Command::Auth(revoke())).unwrap();
    let state = harness.reader().auth();
    let mut harness = harness.reopen();
    assert_eq!(*harness.reader().auth(), *state);
    assert!(harness.reader().auth_enabled());
    let reply = harness.apply_for(&harness.caller("alice"), &Command::Put(put("k", "v")));
    assert_eq!(reply, denied(AuthError::PermissionDenied));
    harness.commit();
    harness.state.flush().unwrap();
    assert_eq!(*harness.crashed().reader().auth(), *state);

    let checkpoint = harness.path("checkpoint");
    harness.state.checkpoint(&checkpoint).unwrap();
    let mut other = Harness::new();
    let moved = other.path("received");
    std::fs::rename(&checkpoint, &moved).unwrap();
    other.state.install(&moved).unwrap();
    assert_eq!(*other.reader().auth(), *state);
    assert!(other.reader().auth_enabled());
    let reply = other.apply_for(&other.caller("alice"), &Command::Put(put("k", "v")));
    assert_eq!(reply, denied(AuthError::PermissionDenied));
}

#[test]
fn deleted_users_and_roles_stay_deleted() {
    let mut harness = Harness::secured();
    let deleted = [
        AuthCommand::UserDelete(pb::AuthUserDeleteRequest { name: "alice".to_owned() }),
        AuthCommand::RoleDelete(pb::AuthRoleDeleteRequest { role: "r".to_owned() }),
    ];
    for command in deleted {
        harness.run(&Command::Auth(command)).unwrap();
    }
    let auth = harness.reopen().reader().auth();
    assert_eq!((auth.user_names(), auth.role_names()), (vec!["root".to_owned()], vec!["root".to_owned()]));
}

#[test]
fn tokens_come_with_the_commit_and_go_with_the_password() {
    const TTL: std::time::Duration = std::time::Duration::from_secs(300);
    let mut harness = Harness::secured();
    let revision = harness.reader().auth().revision();
    let assign = AssignToken { name: "alice".to_owned(), prefix: "letters".to_owned(), revision };
    let assign = Command::Auth(AuthCommand::AssignToken(assign));
    harness.state.apply(&assign).unwrap();
    let token = format!("letters.{}", harness.state.applied().index.0 + 1);
    assert_eq!(harness.reader().token_user(&token, TTL), None);
    harness.commit();
    assert_eq!(harness.reader().token_user(&token, TTL).as_deref(), Some("alice"));
    let name = "alice".to_owned();
    let change = pb::AuthUserChangePasswordRequest { name, hashed_password: "other".to_owned(), ..Default::default() };
    harness.run(&Command::Auth(AuthCommand::UserChangePassword(change))).unwrap();
    assert_eq!(harness.reader().token_user(&token, TTL), None);
    assert_eq!(harness.run(&assign), denied(AuthError::OldRevision));
}
