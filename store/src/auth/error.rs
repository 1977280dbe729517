//! The failures of authentication and authorization: etcd's codes and exact texts.

use tonic::Code;

/// `Display` is the text on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    #[error("etcdserver: root user does not exist")]
    RootUserMissing,
    #[error("etcdserver: root user does not have root role")]
    RootRoleMissing,
    #[error("etcdserver: user name already exists")]
    UserExists,
    #[error("etcdserver: user name is empty")]
    UserEmpty,
    #[error("etcdserver: user name not found")]
    UserNotFound,
    #[error("etcdserver: role name already exists")]
    RoleExists,
    #[error("etcdserver: role name not found")]
    RoleNotFound,
    #[error("etcdserver: role name is empty")]
    RoleEmpty,
    #[error("etcdserver: authentication failed, invalid user ID or password")]
    Failed,
    #[error("etcdserver: permission not given")]
    PermissionNotGiven,
    #[error("etcdserver: permission denied")]
    PermissionDenied,
    #[error("etcdserver: role is not granted to the user")]
    RoleNotGranted,
    #[error("etcdserver: permission is not granted to the role")]
    PermissionNotGranted,
    #[error("etcdserver: authentication is not enabled")]
    NotEnabled,
    #[error("etcdserver: invalid auth token")]
    InvalidToken,
    #[error("etcdserver: invalid auth management")]
    InvalidManagement,
    #[error("etcdserver: revision of auth store is old")]
    OldRevision,
    /// etcd sends this one as its authentication package words it.
    #[error("auth: authentication failed, password was given for no password user")]
    NoPasswordUser,
    /// The member holds a public key only.
    #[error("auth: token signing attempted with verify-only key")]
    VerifyOnly,
    #[error("bcrypt: password length exceeds 72 bytes")]
    PasswordTooLong,
}

/// Every error at its number, as it travels between members. Only ever appended to.
const ALL: [AuthError; 20] = [
    AuthError::RootUserMissing,
    AuthError::RootRoleMissing,
    AuthError::UserExists,
    AuthError::UserEmpty,
    AuthError::UserNotFound,
    AuthError::RoleExists,
    AuthError::RoleNotFound,
    AuthError::RoleEmpty,
    AuthError::Failed,
    AuthError::PermissionNotGiven,
    AuthError::PermissionDenied,
    AuthError::RoleNotGranted,
    AuthError::PermissionNotGranted,
    AuthError::NotEnabled,
    AuthError::InvalidToken,
    AuthError::InvalidManagement,
    AuthError::OldRevision,
    AuthError::NoPasswordUser,
    AuthError::VerifyOnly,
    AuthError::PasswordTooLong,
];

impl AuthError {
    /// The gRPC code that etcd sends with this text.
    #[must_use]
    pub fn code(self) -> Code {
        match self {
            Self::UserEmpty
            | Self::RoleEmpty
            | Self::Failed
            | Self::PermissionNotGiven
            | Self::InvalidManagement
            | Self::OldRevision => Code::InvalidArgument,
            Self::RootUserMissing
            | Self::RootRoleMissing
            | Self::UserExists
            | Self::UserNotFound
            | Self::RoleExists
            | Self::RoleNotFound
            | Self::RoleNotGranted
            | Self::PermissionNotGranted
            | Self::NotEnabled => Code::FailedPrecondition,
            Self::PermissionDenied => Code::PermissionDenied,
            Self::InvalidToken => Code::Unauthenticated,
            Self::NoPasswordUser | Self::VerifyOnly | Self::PasswordTooLong => Code::Unknown,
        }
    }

    /// The whole status as grpc-go prints it: watch clients compare a `cancel_reason` with it.
    #[must_use]
    pub fn as_cancel_reason(self) -> String {
        let code = match self.code() {
            Code::InvalidArgument => "InvalidArgument",
            Code::FailedPrecondition => "FailedPrecondition",
            Code::PermissionDenied => "PermissionDenied",
            Code::Unauthenticated => "Unauthenticated",
            _ => "Unknown",
        };
        format!("rpc error: code = {code} desc = {self}")
    }

    pub(crate) fn number(self) -> u8 {
        let place = ALL.iter().position(|error| *error == self).expect("every error is in the list");
        u8::try_from(place).expect("fewer than 128 errors")
    }

    pub(crate) fn from_number(number: u8) -> Option<Self> {
        ALL.get(usize::from(number)).copied()
    }

    #[cfg(test)]
    pub(crate) fn all() -> &'static [Self] {
        &ALL
    }
}
