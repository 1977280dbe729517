//! Who may do what, as tables: users and roles in, decisions out.

use bytes::Bytes;
use kontiki_api::authpb;
use kontiki_api::authpb::permission::Type as Access;
use kontiki_api::etcdserverpb as pb;
use proptest::prelude::*;

use super::command::AssignToken;
use super::grants::{Span, Union};
use super::state::TokenChange;
use super::*;
use crate::command::Command;
use crate::ids::{LeaseId, LogIndex};
use crate::lease::table::LeaseTable;
use crate::state::testing::{delete, delete_op, put, put_op, range, range_op, txn, txn_op};

fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn user_add(name: &str) -> AuthCommand {
    let (name, hashed_password) = (name.to_owned(), "$2a$".to_owned());
    AuthCommand::UserAdd(pb::AuthUserAddRequest { name, hashed_password, ..Default::default() })
}

fn grant_role(user: &str, role: &str) -> AuthCommand {
    AuthCommand::UserGrantRole(pb::AuthUserGrantRoleRequest { user: user.to_owned(), role: role.to_owned() })
}

fn revoke_role(user: &str, role: &str) -> AuthCommand {
    AuthCommand::UserRevokeRole(pb::AuthUserRevokeRoleRequest { name: user.to_owned(), role: role.to_owned() })
}

fn role_add(name: &str) -> AuthCommand {
    AuthCommand::RoleAdd(pb::AuthRoleAddRequest { name: name.to_owned() })
}

fn role_delete(role: &str) -> AuthCommand {
    AuthCommand::RoleDelete(pb::AuthRoleDeleteRequest { role: role.to_owned() })
}

fn user_delete(name: &str) -> AuthCommand {
    AuthCommand::UserDelete(pb::AuthUserDeleteRequest { name: name.to_owned() })
}

fn permit(role: &str, access: Access, key: &str, range_end: &str) -> AuthCommand {
    let perm = authpb::Permission { perm_type: access.into(), key: text(key), range_end: text(range_end) };
    AuthCommand::RoleGrantPermission(pb::AuthRoleGrantPermissionRequest { name: role.to_owned(), perm: Some(perm) })
}

fn revoke(role: &str, key: &str, range_end: &str) -> AuthCommand {
    let (key, range_end) = (text(key), text(range_end));
    AuthCommand::RoleRevokePermission(pb::AuthRoleRevokePermissionRequest { role: role.to_owned(), key, range_end })
}

trait Run {
    fn run(&mut self, command: AuthCommand) -> Result<AuthAnswer, AuthError>;
    fn all(&mut self, commands: Vec<AuthCommand>);
    fn by(&self, user: &str) -> Caller;
}

impl Run for AuthState {
    fn run(&mut self, command: AuthCommand) -> Result<AuthAnswer, AuthError> {
        let before = self.clone();
        let outcome = self.apply(LogIndex(9), &command).map(|(answer, _)| answer);
        if outcome.is_err() {
            assert_eq!(*self, before, "a failed command changes nothing");
        }
        outcome
    }

    fn all(&mut self, commands: Vec<AuthCommand>) {
        for command in commands {
            self.run(command.clone()).unwrap_or_else(|error| panic!("{command:?}: {error}"));
        }
    }

    fn by(&self, user: &str) -> Caller {
        Caller::User { name: user.into(), revision: self.revision() }
    }
}

/// Root, and alice with the role `r`.
fn enabled(permissions: Vec<AuthCommand>) -> AuthState {
    let mut state = AuthState::default();
    state.all(vec![user_add("root"), role_add("root"), grant_role("root", "root")]);
    state.all(vec![user_add("alice"), role_add("r"), grant_role("alice", "r")]);
    state.all(permissions);
    state.all(vec![AuthCommand::Enable]);
    state
}

#[test]
fn a_request_is_covered_by_the_union_of_what_is_granted() {
    use Access::{Read, Readwrite, Write};
    let state = enabled(vec![
        permit("r", Read, "a", "c"),
        permit("r", Readwrite, "c", "e"),
        permit("r", Write, "e", ""),
        permit("r", Read, "k", ""),
        permit("r", Read, "k\0", ""),
        permit("r", Read, "p/", "p0"),
        permit("r", Read, "x", "\0"),
    ]);
    let alice = state.by("alice");
    let cases = [
        ("a", "", true),
        ("a", "e", true),
        ("b", "d", true),
        ("b", "e\0", false),
        ("", "b", false),
        ("A", "b", false),
        ("e", "", false),
        ("k", "", true),
        ("k", "k\0\0", true),
        ("k", "k\0\0\0", false),
        ("k", "l", false),
        ("k\0\0", "", false),
        ("p/", "p0", true),
        ("p/x", "p/y", true),
        ("p", "p0", false),
        ("p/", "p1", false),
        ("x", "\0", true),
        ("y", "\0", true),
        ("y", "z", true),
        ("w", "\0", false),
        ("\0", "\0", false),
        // Empty ranges: their first key counts.
        ("b", "a", true),
        ("f", "a", false),
    ];
    for (key, end, expected) in cases {
        let may = state.may_read(&alice, key.as_bytes(), end.as_bytes());
        let expected = if expected { Ok(()) } else { Err(AuthError::PermissionDenied) };
        assert_eq!(may, expected, "read {key:?} {end:?}");
    }
    let writes = [("c", "e", true), ("c", "e\0", true), ("c", "f", false), ("a", "", false), ("e", "", true)];
    for (key, end, expected) in writes {
        let command = Command::DeleteRange(delete(key, end));
        let may = state.permit(&alice, &command, &LeaseTable::default()).is_ok();
        assert_eq!(may, expected, "delete {key:?} {end:?}");
    }
    assert_eq!(state.may_read(&state.by("root"), b"\0", b"\0"), Ok(()));
}

#[test]
fn everything_may_be_granted_and_taken_back() {
    let mut state = enabled(vec![permit("r", Access::Read, "\0", "\0")]);
    let may = |state: &AuthState| state.may_read(&state.by("alice"), b"\0", b"\0");
    assert_eq!(may(&state), Ok(()));
    state.run(revoke("r", "\0", "\0")).unwrap();
    assert_eq!(may(&state), Err(AuthError::PermissionDenied));
    assert_eq!(state.run(revoke("r", "\0", "\0")), Err(AuthError::PermissionNotGranted));
    // Several roles count together; deleting one takes its part away.
    state.all(vec![role_add("s"), permit("r", Access::Read, "\0", "m"), permit("s", Access::Read, "m", "\0")]);
    assert_eq!(may(&state), Err(AuthError::PermissionDenied));
    state.run(grant_role("alice", "s")).unwrap();
    assert_eq!(may(&state), Ok(()));
    state.run(role_delete("s")).unwrap();
    assert_eq!(may(&state), Err(AuthError::PermissionDenied));
    assert_eq!(state.roles_of("alice").unwrap(), ["r"]);
}

proptest! {
    /// Against the definition: a range is covered when each of its keys is.
    #[test]
    fn a_union_covers_exactly_its_keys(
        spans in prop::collection::vec((0u8..12, 0u8..12), 0..6),
        (key, end) in (0u8..12, 0u8..12),
    ) {
        let bytes = |number: u8| -> Vec<u8> { if number == 0 { vec![0] } else { vec![number * 16] } };
        let range_end = |number: u8| if number == 11 { vec![0] } else { bytes(number.max(1)) };
        let spans: Vec<_> = spans.into_iter().map(|(key, end)| (bytes(key), range_end(end))).collect();
        let valid = spans.iter().filter(|(key, end)| super::grants::is_valid(key, end));
        let union = Union::of(valid.clone().map(|(key, end)| Span::of(key, end)).collect());
        let (key, end) = (bytes(key), range_end(end));
        let inside = |probe: &[u8], key: &[u8], end: &[u8]| probe >= key && (end == [0] || probe < end);
        // Keys between, on and beside all bounds.
        let mut probes: Vec<Vec<u8>> = (0u8..=255).map(|byte| vec![byte]).collect();
        probes.push(vec![255, 255]);
        let wanted: Vec<_> = probes.iter().filter(|probe| inside(probe, &key, &end) || **probe == key).collect();
        let granted = |probe: &[u8]| valid.clone().any(|(key, end)| inside(probe, key, end));
        let expected = wanted.iter().all(|probe| granted(probe));
        prop_assert_eq!(union.covers(&key, &end), expected);
    }
}

#[test]
fn every_part_of_a_command_needs_its_permission() {
    use Access::{Read, Readwrite, Write};
    let state =
        enabled(vec![permit("r", Read, "r", ""), permit("r", Write, "w", ""), permit("r", Readwrite, "rw", "")]);
    let mut leases = LeaseTable::default();
    for (id, key) in [(1, "w"), (2, "other")] {
        leases.grant(LeaseId(id), 60);
        leases.attach(LeaseId(id), key.as_bytes());
    }
    leases.grant(LeaseId(3), 60);
    let prev_put = |key| pb::PutRequest { prev_kv: true, ..put(key, "v") };
    let leased = |lease| pb::PutRequest { lease, ..put("w", "v") };
    let prev_delete = |key| pb::DeleteRangeRequest { prev_kv: true, ..delete(key, "") };
    let compare = |key: &str| pb::TxnRequest {
        compare: vec![pb::Compare { key: text(key), ..Default::default() }],
        ..Default::default()
    };
    let failure = |op| pb::TxnRequest { failure: vec![op], ..Default::default() };
    let lease_revoke = |id| Command::LeaseRevoke(pb::LeaseRevokeRequest { id });
    let cases = [
        (Command::Put(put("w", "v")), true),
        (Command::Put(put("r", "v")), false),
        (Command::Put(prev_put("w")), false),
        (Command::Put(prev_put("rw")), true),
        (Command::Put(leased(1)), true),
        (Command::Put(leased(2)), false),
        (Command::Put(leased(3)), true),
        (Command::DeleteRange(delete("w", "")), true),
        (Command::DeleteRange(delete("w", "x")), false),
        (Command::DeleteRange(prev_delete("w")), false),
        (Command::DeleteRange(prev_delete("rw")), true),
        (Command::Txn(txn(vec![])), true),
        (Command::Txn(txn(vec![put_op("w", "v"), range_op(range("r", ""))])), true),
        (Command::Txn(txn(vec![put_op("w", "v"), put_op("r", "v")])), false),
        (Command::Txn(txn(vec![delete_op("r", "")])), false),
        (Command::Txn(compare("r")), true),
        (Command::Txn(compare("w")), false),
        (Command::Txn(failure(put_op("w", "v"))), true),
        (Command::Txn(failure(put_op("r", "v"))), false),
        (Command::Txn(txn(vec![txn_op(compare("rw"))])), true),
        (Command::Txn(txn(vec![txn_op(compare("w"))])), false),
        (Command::Txn(failure(txn_op(failure(put_op("r", "v"))))), false),
        (Command::LeaseGrant(pb::LeaseGrantRequest::default()), true),
        (lease_revoke(1), true),
        (lease_revoke(2), false),
        (lease_revoke(3), true),
        (lease_revoke(4), true),
        (Command::Compact(pb::CompactionRequest::default()), false),
        (Command::Auth(role_add("x")), false),
        (Command::Auth(AuthCommand::Disable), false),
        (Command::PublishMember(pb::Member::default()), false),
    ];
    for (command, expected) in cases {
        let may = |caller: &Caller| state.permit(caller, &command, &leases);
        let answer = if expected { Ok(()) } else { Err(AuthError::PermissionDenied) };
        assert_eq!(may(&state.by("alice")), answer, "{command:?}");
        assert_eq!(may(&Caller::Anonymous), anonymous(&command), "{command:?}");
        assert_eq!(may(&Caller::Internal), Ok(()), "{command:?}");
        let members_own = matches!(command, Command::PublishMember(_));
        assert_eq!(may(&state.by("root")).is_ok(), !members_own, "{command:?}");
    }
    let off = AuthState::default();
    assert_eq!(off.permit(&Caller::Anonymous, &Command::Auth(role_add("x")), &leases), Ok(()));
}

fn anonymous(command: &Command) -> Result<(), AuthError> {
    Err(match command {
        Command::PublishMember(_) => AuthError::PermissionDenied,
        _ => AuthError::UserEmpty,
    })
}

#[test]
fn a_caller_of_an_earlier_revision_is_told_so() {
    let mut state = enabled(vec![permit("r", Access::Readwrite, "k", "")]);
    let (alice, root) = (state.by("alice"), state.by("root"));
    state.run(role_add("unrelated")).unwrap();
    for caller in [&alice, &root] {
        assert_eq!(state.may_read(caller, b"k", b""), Err(AuthError::OldRevision));
        let command = Command::Put(put("k", "v"));
        assert_eq!(state.permit(caller, &command, &LeaseTable::default()), Err(AuthError::OldRevision));
    }
    // Administration goes by the present state alone, as in etcd.
    assert_eq!(state.require_root(&root), Ok(()));
    assert_eq!(state.may_read(&state.by("nobody"), b"k", b""), Err(AuthError::PermissionDenied));
    assert_eq!(state.require_root(&state.by("nobody")), Err(AuthError::UserNotFound));
}

#[test]
fn enabling_needs_root_and_root_cannot_be_lost_while_it_is_on() {
    let mut state = AuthState::default();
    assert_eq!(state.revision(), 1);
    assert_eq!(state.run(AuthCommand::Enable), Err(AuthError::RootUserMissing));
    state.run(user_add("root")).unwrap();
    assert_eq!(state.run(AuthCommand::Enable), Err(AuthError::RootRoleMissing));
    state.all(vec![grant_role("root", "root"), role_add("root")]);
    let revision = state.revision();
    state.all(vec![AuthCommand::Enable, AuthCommand::Enable]);
    assert_eq!(state.revision(), revision);
    for command in [user_delete("root"), revoke_role("root", "root"), role_delete("root")] {
        assert_eq!(state.run(command), Err(AuthError::InvalidManagement));
    }
    state.all(vec![AuthCommand::Disable, AuthCommand::Disable]);
    assert_eq!(state.revision(), revision + 1);
    state.all(vec![revoke_role("root", "root"), role_delete("root"), user_delete("root")]);
    assert_eq!(state.run(AuthCommand::Enable), Err(AuthError::RootUserMissing));
}

#[test]
fn mistakes_have_etcds_errors() {
    let mut state = AuthState::default();
    state.all(vec![user_add("u"), role_add("r")]);
    let change_password = |name: &str| {
        AuthCommand::UserChangePassword(pb::AuthUserChangePasswordRequest {
            name: name.to_owned(),
            ..Default::default()
        })
    };
    let no_permission =
        AuthCommand::RoleGrantPermission(pb::AuthRoleGrantPermissionRequest { name: "r".to_owned(), perm: None });
    let cases = [
        (user_add(""), AuthError::UserEmpty),
        (user_add("u"), AuthError::UserExists),
        (user_delete("x"), AuthError::UserNotFound),
        (change_password("x"), AuthError::UserNotFound),
        (grant_role("x", "r"), AuthError::UserNotFound),
        (grant_role("u", "x"), AuthError::RoleNotFound),
        (revoke_role("x", "r"), AuthError::UserNotFound),
        (revoke_role("u", "r"), AuthError::RoleNotGranted),
        (role_add(""), AuthError::RoleEmpty),
        (role_add("r"), AuthError::RoleExists),
        (role_delete("x"), AuthError::RoleNotFound),
        (no_permission, AuthError::PermissionNotGiven),
        (permit("r", Access::Read, "", ""), AuthError::InvalidManagement),
        (permit("r", Access::Read, "b", "a"), AuthError::InvalidManagement),
        (permit("r", Access::Read, "b", "b"), AuthError::InvalidManagement),
        (permit("x", Access::Read, "b", ""), AuthError::RoleNotFound),
        (revoke("x", "b", ""), AuthError::RoleNotFound),
        (revoke("r", "b", ""), AuthError::PermissionNotGranted),
    ];
    for (command, expected) in cases {
        assert_eq!(state.run(command.clone()), Err(expected), "{command:?}");
    }
}

#[test]
fn a_grant_on_the_same_range_replaces_and_the_root_role_shows_everything() {
    let mut state = AuthState::default();
    state.all(vec![role_add("r"), role_add("root")]);
    state.all(vec![
        permit("r", Access::Read, "k", "l"),
        permit("r", Access::Write, "a", ""),
        permit("r", Access::Write, "k", "l"),
        permit("r", Access::Read, "k", ""),
        permit("root", Access::Read, "k", ""),
    ]);
    let shown: Vec<_> = state
        .permissions_of("r")
        .unwrap()
        .into_iter()
        .map(|permission| (permission.perm_type(), permission.key, permission.range_end))
        .collect();
    let expected = [(Access::Write, "a", ""), (Access::Read, "k", ""), (Access::Write, "k", "l")];
    assert_eq!(shown, expected.map(|(access, key, end)| (access, text(key), text(end))));
    let root = state.permissions_of("root").unwrap();
    let everything =
        authpb::Permission { perm_type: Access::Readwrite.into(), key: Bytes::new(), range_end: text("\0") };
    assert_eq!(root, [everything]);
    assert_eq!(state.permissions_of("x"), Err(AuthError::RoleNotFound));
}

#[test]
fn users_see_themselves_and_their_own_roles() {
    let state = enabled(vec![]);
    let alice = state.by("alice");
    assert_eq!(state.may_see_user(&alice, "alice"), Ok(()));
    assert_eq!(state.may_see_user(&alice, "root"), Err(AuthError::PermissionDenied));
    assert_eq!(state.may_see_role(&alice, "r"), Ok(()));
    assert_eq!(state.may_see_role(&alice, "root"), Err(AuthError::PermissionDenied));
    assert_eq!(state.may_see_user(&Caller::Anonymous, "alice"), Err(AuthError::UserEmpty));
    assert_eq!(state.may_see_role(&state.by("root"), "r"), Ok(()));
}

#[test]
fn a_token_is_assigned_only_as_of_the_revision_its_password_was_checked_at() {
    let mut state = enabled(vec![]);
    let assign = |name: &str, revision| {
        let (name, prefix) = (name.to_owned(), "letters".to_owned());
        AuthCommand::AssignToken(AssignToken { name, prefix, revision })
    };
    let revision = state.revision();
    let (answer, effects) = state.apply(LogIndex(17), &assign("alice", revision)).unwrap();
    let token = "letters.17".to_owned();
    assert_eq!(answer, AuthAnswer::Token(token.clone()));
    assert_eq!(effects.token, Some(TokenChange::Assigned { token, user: "alice".to_owned() }));
    assert_eq!(state.revision(), revision);
    assert_eq!(state.run(assign("alice", revision - 1)), Err(AuthError::OldRevision));
    assert_eq!(state.run(assign("x", revision)), Err(AuthError::Failed));
    let options = Some(authpb::UserAddOptions { no_password: true });
    let silent = pb::AuthUserAddRequest { name: "silent".to_owned(), options, ..Default::default() };
    state.run(AuthCommand::UserAdd(silent)).unwrap();
    assert_eq!(state.run(assign("silent", revision + 1)), Err(AuthError::NoPasswordUser));
    state.run(AuthCommand::Disable).unwrap();
    assert_eq!(state.run(assign("alice", revision + 2)), Err(AuthError::NotEnabled));
}

#[test]
fn every_command_comes_back_from_its_bytes() {
    let commands = [
        AuthCommand::Enable,
        AuthCommand::Disable,
        user_add("u"),
        user_delete("u"),
        AuthCommand::UserChangePassword(pb::AuthUserChangePasswordRequest {
            name: "u".to_owned(),
            ..Default::default()
        }),
        grant_role("u", "r"),
        revoke_role("u", "r"),
        role_add("r"),
        role_delete("r"),
        permit("r", Access::Write, "a", "b"),
        revoke("r", "a", "b"),
        AuthCommand::AssignToken(AssignToken { name: "u".to_owned(), prefix: "p".to_owned(), revision: 3 }),
    ];
    for command in commands {
        let command = Command::Auth(command);
        assert_eq!(Command::decode(command.encode()).unwrap(), command);
    }
}

#[test]
fn errors_read_as_etcds_clients_compare_them() {
    assert_eq!(
        AuthError::PermissionDenied.as_cancel_reason(),
        "rpc error: code = PermissionDenied desc = etcdserver: permission denied"
    );
    assert_eq!(
        AuthError::InvalidToken.as_cancel_reason(),
        "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token"
    );
    assert_eq!(
        AuthError::UserEmpty.as_cancel_reason(),
        "rpc error: code = InvalidArgument desc = etcdserver: user name is empty"
    );
    for (place, error) in AuthError::all().iter().enumerate() {
        assert_eq!(usize::from(error.number()), place);
        assert_eq!(AuthError::from_number(error.number()), Some(*error));
    }
}
