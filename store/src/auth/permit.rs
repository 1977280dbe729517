//! Who may do what: every decision about a request, as a function of the auth state.
//!
//! In apply, [`AuthState::permit`] decides about a command with the state as of its entry, so that all members decide
//! alike. The edge asks the finer questions about reads. All of them answer yes while authentication is off.

use kontiki_api::etcdserverpb as pb;
use pb::request_op::Request;

use super::command::AuthCommand;
use super::error::AuthError;
use super::grants::Grants;
use super::state::AuthState;
use super::{Caller, ROOT};
use crate::command::Command;
use crate::ids::LeaseId;
use crate::lease::table::LeaseTable;

type Permitted = Result<(), AuthError>;

impl AuthState {
    /// Whether `caller` may have `command` applied. A new command has to be given its place here.
    ///
    /// # Errors
    /// `UserEmpty`, `PermissionDenied`, `OldRevision`, `UserNotFound` (of an administrator who was deleted).
    pub fn permit(&self, caller: &Caller, command: &Command, leases: &LeaseTable) -> Permitted {
        if !self.enabled || *caller == Caller::Internal {
            return Ok(());
        }
        match command {
            Command::Put(request) => self.may_put(caller, request, leases),
            Command::DeleteRange(request) => self.may_delete_range(caller, request),
            Command::Txn(request) => self.may_txn(caller, request, leases),
            Command::LeaseGrant(_) => self.require_user(caller),
            Command::LeaseRevoke(request) => self.may_use_lease(caller, LeaseId(request.id), leases),
            Command::Compact(_) => self.require_root(caller),
            Command::MemberAdd(_) | Command::MemberRemove(_) | Command::MemberChange(_) => self.require_root(caller),
            Command::Alarm(_) | Command::SetDowngrade(_) => self.require_root(caller),
            // Only members say these.
            Command::Auth(AuthCommand::AssignToken(_))
            | Command::PublishMember(_)
            | Command::SetClusterVersion(_)
            | Command::Quarantine(_) => Err(AuthError::PermissionDenied),
            Command::Auth(_) => self.require_root(caller),
        }
    }

    /// Some user was named, whoever it is.
    ///
    /// # Errors
    /// `UserEmpty`.
    pub fn require_user(&self, caller: &Caller) -> Permitted {
        match caller {
            Caller::Anonymous if self.enabled => Err(AuthError::UserEmpty),
            _ => Ok(()),
        }
    }

    /// The user has the root role. Its auth revision does not matter: what counts is the present state.
    ///
    /// # Errors
    /// `UserEmpty`, `UserNotFound`, `PermissionDenied`.
    pub fn require_root(&self, caller: &Caller) -> Permitted {
        self.require_user(caller)?;
        match caller {
            Caller::User { name, .. } if self.enabled => match self.user(name) {
                None => Err(AuthError::UserNotFound),
                Some(user) if user.roles.contains(ROOT) => Ok(()),
                Some(_) => Err(AuthError::PermissionDenied),
            },
            _ => Ok(()),
        }
    }

    /// Whether `caller` may read all of a range.
    ///
    /// # Errors
    /// `UserEmpty`, `OldRevision`, `PermissionDenied`.
    pub fn may_read(&self, caller: &Caller, key: &[u8], range_end: &[u8]) -> Permitted {
        self.granted(caller, |grants| grants.read.covers(key, range_end))
    }

    fn may_write(&self, caller: &Caller, key: &[u8], range_end: &[u8]) -> Permitted {
        self.granted(caller, |grants| grants.write.covers(key, range_end))
    }

    fn granted(&self, caller: &Caller, covers: impl FnOnce(&Grants) -> bool) -> Permitted {
        let Caller::User { name, revision } = caller else { return self.require_user(caller) };
        if !self.enabled {
            return Ok(());
        }
        if *revision < self.revision {
            return Err(AuthError::OldRevision);
        }
        let user = self.user(name).ok_or(AuthError::PermissionDenied)?;
        let granted = user.roles.contains(ROOT) || self.grants.get(&**name).is_some_and(|grants| covers(grants));
        if granted { Ok(()) } else { Err(AuthError::PermissionDenied) }
    }

    fn may_put(&self, caller: &Caller, request: &pb::PutRequest, leases: &LeaseTable) -> Permitted {
        self.may_write(caller, &request.key, &[])?;
        if request.lease != 0 {
            // Who may attach a key to a lease could otherwise not be let to revoke it, which deletes all of its keys.
            self.may_use_lease(caller, LeaseId(request.lease), leases)?;
        }
        if request.prev_kv { self.may_read(caller, &request.key, &[]) } else { Ok(()) }
    }

    fn may_delete_range(&self, caller: &Caller, request: &pb::DeleteRangeRequest) -> Permitted {
        self.may_write(caller, &request.key, &request.range_end)?;
        if request.prev_kv { self.may_read(caller, &request.key, &request.range_end) } else { Ok(()) }
    }

    /// Every comparison and both branches, nested ones too, whichever will be taken.
    ///
    /// # Errors
    /// As [`AuthState::may_read`].
    pub fn may_txn(&self, caller: &Caller, request: &pb::TxnRequest, leases: &LeaseTable) -> Permitted {
        self.require_user(caller)?;
        for compare in &request.compare {
            self.may_read(caller, &compare.key, &compare.range_end)?;
        }
        for op in request.success.iter().chain(&request.failure) {
            match &op.request {
                Some(Request::RequestRange(body)) => self.may_read(caller, &body.key, &body.range_end)?,
                Some(Request::RequestPut(body)) => self.may_put(caller, body, leases)?,
                Some(Request::RequestDeleteRange(body)) => self.may_delete_range(caller, body)?,
                Some(Request::RequestTxn(body)) => self.may_txn(caller, body, leases)?,
                None => {}
            }
        }
        Ok(())
    }

    /// Whether `caller` may write every key that hangs on a lease: to revoke or renew it, or to attach another key.
    ///
    /// # Errors
    /// As [`AuthState::may_read`].
    pub fn may_use_lease(&self, caller: &Caller, lease: LeaseId, leases: &LeaseTable) -> Permitted {
        self.require_user(caller)?;
        if self.require_root(caller).is_ok() {
            return Ok(());
        }
        let (_, keys) = leases.keys(lease).unwrap_or_default();
        keys.iter().try_for_each(|key| self.may_write(caller, key, &[]))
    }

    /// Whether `caller` may see every one of these keys.
    ///
    /// # Errors
    /// As [`AuthState::may_read`].
    pub fn may_read_keys<'a>(&self, caller: &Caller, keys: impl IntoIterator<Item = &'a [u8]>) -> Permitted {
        self.require_user(caller)?;
        if self.require_root(caller).is_ok() {
            return Ok(());
        }
        keys.into_iter().try_for_each(|key| self.may_read(caller, key, &[]))
    }

    /// Whether `caller` may see a user: an administrator, or the user itself.
    ///
    /// # Errors
    /// As [`AuthState::require_root`].
    pub fn may_see_user(&self, caller: &Caller, user: &str) -> Permitted {
        match caller {
            Caller::User { name, .. } if &**name == user => Ok(()),
            _ => self.require_root(caller),
        }
    }

    /// Whether `caller` may see a role: an administrator, or a user who has it.
    ///
    /// # Errors
    /// As [`AuthState::require_root`].
    pub fn may_see_role(&self, caller: &Caller, role: &str) -> Permitted {
        let own = match caller {
            Caller::User { name, .. } => self.user(name).is_some_and(|user| user.roles.contains(role)),
            Caller::Anonymous | Caller::Internal => false,
        };
        if own { Ok(()) } else { self.require_root(caller) }
    }
}
