//! The auth state in the database: one record for each user and role, and one for what is not of either.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kontiki_api::authpb;
use kontiki_api::authpb::permission::Type as Access;
use prost::Message;
use rocksdb::WriteBatch;

use super::OpenError;
use crate::auth::AuthState;
use crate::auth::state::{Effects, Role, User};
use crate::io::engine::{Engine, Family, Step};

const META: &[u8] = b"m";
const USER: u8 = b'u';
const ROLE: u8 = b'r';

/// Stores what a command touched, as it now is.
pub(super) fn put(engine: &Engine, batch: &mut WriteBatch, state: &AuthState, effects: &Effects) {
    let mut store = |key: &[u8], value: Option<Vec<u8>>| match value {
        Some(value) => engine.put(batch, Family::Auth, key, &value),
        None => engine.delete(batch, Family::Auth, key),
    };
    for name in &effects.users {
        store(&key(USER, name), state.user(name).map(|user| encode_user(name, user)));
    }
    for name in &effects.roles {
        store(&key(ROLE, name), state.role(name).map(|role| encode_role(name, role)));
    }
    let mut meta = BytesMut::with_capacity(9);
    meta.put_u8(state.is_enabled().into());
    meta.put_u64(state.revision());
    store(META, Some(meta.to_vec()));
}

fn key(kind: u8, name: &str) -> Vec<u8> {
    let mut key = vec![kind];
    key.extend_from_slice(name.as_bytes());
    key
}

fn encode_user(name: &str, user: &User) -> Vec<u8> {
    let User { hash, roles, no_password } = user;
    let user = authpb::User {
        name: Bytes::copy_from_slice(name.as_bytes()),
        password: Bytes::copy_from_slice(hash.as_bytes()),
        roles: roles.iter().cloned().collect(),
        options: Some(authpb::UserAddOptions { no_password: *no_password }),
    };
    user.encode_to_vec()
}

fn encode_role(name: &str, role: &Role) -> Vec<u8> {
    let Role { permissions } = role;
    let permission = |((key, range_end), access): (&(Bytes, Bytes), &Access)| authpb::Permission {
        perm_type: (*access).into(),
        key: key.clone(),
        range_end: range_end.clone(),
    };
    let role = authpb::Role {
        name: Bytes::copy_from_slice(name.as_bytes()),
        key_permission: permissions.iter().map(permission).collect(),
    };
    role.encode_to_vec()
}

/// Reads the whole state back.
pub(super) fn load(engine: &Engine) -> Result<AuthState, OpenError> {
    let mut state = AuthState::default();
    let (mut enabled, mut revision) = (state.is_enabled(), state.revision());
    engine.scan(Family::Auth, b"", &mut |key, mut value| {
        match key {
            META if value.len() == 9 => {
                enabled = value.get_u8() != 0;
                revision = value.get_u64();
            }
            [USER, name @ ..] => state.restore_user(text(name)?, decode_user(value)?),
            [ROLE, name @ ..] => state.restore_role(text(name)?, decode_role(value)?),
            _ => return Err(OpenError::Damaged("an unknown record of the auth state".to_owned())),
        }
        Ok(Step::Next)
    })?;
    state.restored(enabled, revision);
    Ok(state)
}

/// The state as etcd's own messages; none where nothing was ever set.
pub(crate) fn messages(engine: &Engine) -> Result<Option<Messages>, OpenError> {
    let damaged = |error: prost::DecodeError| OpenError::Damaged(format!("the auth state: {error}"));
    let mut found = None;
    let mut messages = Messages::default();
    engine.scan(Family::Auth, b"", &mut |key, mut value| {
        match key {
            META if value.len() == 9 => {
                messages.enabled = value.get_u8() != 0;
                messages.revision = value.get_u64();
                found = Some(());
            }
            [USER, ..] => messages.users.push(authpb::User::decode(value).map_err(damaged)?),
            [ROLE, ..] => messages.roles.push(authpb::Role::decode(value).map_err(damaged)?),
            _ => return Err(OpenError::Damaged("an unknown record of the auth state".to_owned())),
        }
        Ok(Step::Next)
    })?;
    Ok(found.map(|()| messages))
}

/// Stores a whole state.
///
/// # Errors
/// When a name is not text: what is stored could not be read back.
pub(crate) fn put_messages(engine: &Engine, batch: &mut WriteBatch, messages: &Messages) -> Result<(), OpenError> {
    for user in &messages.users {
        engine.put(batch, Family::Auth, &key(USER, &text(&user.name)?), &user.encode_to_vec());
    }
    for role in &messages.roles {
        engine.put(batch, Family::Auth, &key(ROLE, &text(&role.name)?), &role.encode_to_vec());
    }
    let mut meta = BytesMut::with_capacity(9);
    meta.put_u8(messages.enabled.into());
    meta.put_u64(messages.revision);
    engine.put(batch, Family::Auth, META, &meta);
    Ok(())
}

/// A whole auth state as it leaves or enters through a snapshot.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Messages {
    pub(crate) enabled: bool,
    pub(crate) revision: u64,
    pub(crate) roles: Vec<authpb::Role>,
    pub(crate) users: Vec<authpb::User>,
}

fn text(bytes: &[u8]) -> Result<String, OpenError> {
    String::from_utf8(bytes.to_vec()).map_err(|error| OpenError::Damaged(format!("a user or role: {error}")))
}

fn decode_user(value: &[u8]) -> Result<User, OpenError> {
    let user = authpb::User::decode(value).map_err(|error| OpenError::Damaged(format!("a user: {error}")))?;
    Ok(User {
        hash: text(&user.password)?,
        roles: user.roles.into_iter().collect(),
        no_password: user.options.is_some_and(|options| options.no_password),
    })
}

fn decode_role(value: &[u8]) -> Result<Role, OpenError> {
    let role = authpb::Role::decode(value).map_err(|error| OpenError::Damaged(format!("a role: {error}")))?;
    let permissions = role.key_permission.into_iter().map(|permission| {
        let access = permission.perm_type();
        ((permission.key, permission.range_end), access)
    });
    Ok(Role { permissions: permissions.collect() })
}
