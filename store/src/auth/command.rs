//! The commands that change users, roles and tokens. Their kinds are 20 to 39.
//!
//! A password never reaches the log: the proposing member hashes it, and `hashed_password` holds the bcrypt text. Random
//! parts and everything else that a member could decide differently are chosen before the proposal, too.

use bytes::{BufMut, Bytes, BytesMut};
use kontiki_api::etcdserverpb as pb;
use prost::Message;

use crate::command::DecodeError;

/// A replicated change of the auth state.
#[derive(Clone, Debug, PartialEq)]
pub enum AuthCommand {
    Enable,
    Disable,
    UserAdd(pb::AuthUserAddRequest),
    UserDelete(pb::AuthUserDeleteRequest),
    UserChangePassword(pb::AuthUserChangePasswordRequest),
    UserGrantRole(pb::AuthUserGrantRoleRequest),
    UserRevokeRole(pb::AuthUserRevokeRoleRequest),
    RoleAdd(pb::AuthRoleAddRequest),
    RoleDelete(pb::AuthRoleDeleteRequest),
    RoleGrantPermission(pb::AuthRoleGrantPermissionRequest),
    RoleRevokePermission(pb::AuthRoleRevokePermissionRequest),
    AssignToken(AssignToken),
}

/// Makes a simple token known to every member, for a user whose password was checked as of `revision`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AssignToken {
    #[prost(string, tag = "1")]
    pub name: String,
    /// The letters before the dot; the log index follows.
    #[prost(string, tag = "2")]
    pub prefix: String,
    #[prost(uint64, tag = "3")]
    pub revision: u64,
}

/// What an applied [`AuthCommand`] answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthAnswer {
    Done,
    Token(String),
}

pub(crate) const FIRST_KIND: u8 = 20;
pub(crate) const LAST_KIND: u8 = 39;

const ENABLE: u8 = 20;
const DISABLE: u8 = 21;
const USER_ADD: u8 = 22;
const USER_DELETE: u8 = 23;
const USER_CHANGE_PASSWORD: u8 = 24;
const USER_GRANT_ROLE: u8 = 25;
const USER_REVOKE_ROLE: u8 = 26;
const ROLE_ADD: u8 = 27;
const ROLE_DELETE: u8 = 28;
const ROLE_GRANT_PERMISSION: u8 = 29;
const ROLE_REVOKE_PERMISSION: u8 = 30;
const ASSIGN_TOKEN: u8 = 31;

impl AuthCommand {
    pub(crate) fn encode(&self) -> Bytes {
        match self {
            Self::Enable => encode(ENABLE, &pb::AuthEnableRequest {}),
            Self::Disable => encode(DISABLE, &pb::AuthDisableRequest {}),
            Self::UserAdd(body) => encode(USER_ADD, body),
            Self::UserDelete(body) => encode(USER_DELETE, body),
            Self::UserChangePassword(body) => encode(USER_CHANGE_PASSWORD, body),
            Self::UserGrantRole(body) => encode(USER_GRANT_ROLE, body),
            Self::UserRevokeRole(body) => encode(USER_REVOKE_ROLE, body),
            Self::RoleAdd(body) => encode(ROLE_ADD, body),
            Self::RoleDelete(body) => encode(ROLE_DELETE, body),
            Self::RoleGrantPermission(body) => encode(ROLE_GRANT_PERMISSION, body),
            Self::RoleRevokePermission(body) => encode(ROLE_REVOKE_PERMISSION, body),
            Self::AssignToken(body) => encode(ASSIGN_TOKEN, body),
        }
    }

    /// # Errors
    /// When the kind is unknown or the body is not the message of that kind.
    pub(crate) fn decode(kind: u8, body: Bytes) -> Result<Self, DecodeError> {
        Ok(match kind {
            ENABLE => Self::Enable,
            DISABLE => Self::Disable,
            USER_ADD => Self::UserAdd(Message::decode(body)?),
            USER_DELETE => Self::UserDelete(Message::decode(body)?),
            USER_CHANGE_PASSWORD => Self::UserChangePassword(Message::decode(body)?),
            USER_GRANT_ROLE => Self::UserGrantRole(Message::decode(body)?),
            USER_REVOKE_ROLE => Self::UserRevokeRole(Message::decode(body)?),
            ROLE_ADD => Self::RoleAdd(Message::decode(body)?),
            ROLE_DELETE => Self::RoleDelete(Message::decode(body)?),
            ROLE_GRANT_PERMISSION => Self::RoleGrantPermission(Message::decode(body)?),
            ROLE_REVOKE_PERMISSION => Self::RoleRevokePermission(Message::decode(body)?),
            ASSIGN_TOKEN => Self::AssignToken(Message::decode(body)?),
            other => return Err(DecodeError::UnknownKind(other)),
        })
    }
}

fn encode(kind: u8, body: &impl Message) -> Bytes {
    let mut buffer = BytesMut::with_capacity(1 + body.encoded_len());
    buffer.put_u8(kind);
    body.encode(&mut buffer).expect("a BytesMut grows as needed");
    buffer.freeze()
}
