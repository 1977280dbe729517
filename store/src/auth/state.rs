//! The replicated auth state: users, roles, whether they matter, and the revision that counts their changes.
//!
//! It is copied on write: readers hold the version they began with, apply works on the next one. What a change touched is
//! returned as [`Effects`], for whoever stores the state and keeps tokens.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use kontiki_api::authpb;
use kontiki_api::authpb::permission::Type as Access;
use kontiki_api::etcdserverpb as pb;

use super::command::{AssignToken, AuthAnswer, AuthCommand};
use super::error::AuthError;
use super::grants::{self, Grants, Span, Union};
use super::{Caller, ROOT};
use crate::ids::LogIndex;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// The bcrypt text; empty for a user who cannot log in with a password.
    pub(crate) hash: String,
    pub(crate) roles: BTreeSet<String>,
    pub(crate) no_password: bool,
}

/// What a role grants, by key and range end, as etcd lists it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Role {
    pub(crate) permissions: BTreeMap<(Bytes, Bytes), Access>,
}

/// One version of the state. A fresh store is at revision 1, with authentication off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthState {
    pub(super) enabled: bool,
    pub(super) revision: u64,
    pub(super) users: BTreeMap<String, Arc<User>>,
    pub(super) roles: BTreeMap<String, Arc<Role>>,
    /// Of each user; derived from the two above.
    pub(super) grants: BTreeMap<String, Arc<Grants>>,
}

impl Default for AuthState {
    fn default() -> Self {
        Self { enabled: false, revision: 1, users: BTreeMap::new(), roles: BTreeMap::new(), grants: BTreeMap::new() }
    }
}

/// What a command touched: names to be stored as they now are, and what happens to simple tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    pub users: BTreeSet<String>,
    pub roles: BTreeSet<String>,
    pub token: Option<TokenChange>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenChange {
    Assigned { token: String, user: String },
    ForgetUser(String),
    ForgetAll,
}

impl AuthState {
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    #[must_use]
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.get(name).map(Arc::as_ref)
    }

    #[must_use]
    pub fn role(&self, name: &str) -> Option<&Role> {
        self.roles.get(name).map(Arc::as_ref)
    }

    /// The names of all users, sorted.
    #[must_use]
    pub fn user_names(&self) -> Vec<String> {
        self.users.keys().cloned().collect()
    }

    /// The names of all roles, sorted.
    #[must_use]
    pub fn role_names(&self) -> Vec<String> {
        self.roles.keys().cloned().collect()
    }

    /// The roles of a user, sorted.
    ///
    /// # Errors
    /// `UserNotFound`.
    pub fn roles_of(&self, user: &str) -> Result<Vec<String>, AuthError> {
        let user = self.user(user).ok_or(AuthError::UserNotFound)?;
        Ok(user.roles.iter().cloned().collect())
    }

    /// What a role grants, sorted. The root role grants everything, whatever was granted to it.
    ///
    /// # Errors
    /// `RoleNotFound`.
    pub fn permissions_of(&self, name: &str) -> Result<Vec<authpb::Permission>, AuthError> {
        let role = self.role(name).ok_or(AuthError::RoleNotFound)?;
        if name == ROOT {
            let everything = authpb::Permission {
                perm_type: Access::Readwrite.into(),
                key: Bytes::new(),
                range_end: Bytes::from_static(&[0]),
            };
            return Ok(vec![everything]);
        }
        let permission = |((key, range_end), access): (&(Bytes, Bytes), &Access)| authpb::Permission {
            perm_type: (*access).into(),
            key: key.clone(),
            range_end: range_end.clone(),
        };
        Ok(role.permissions.iter().map(permission).collect())
    }

    /// The bcrypt text that a password is to be compared with.
    ///
    /// # Errors
    /// `NotEnabled`, `Failed` for an unknown user, `NoPasswordUser`.
    pub fn password_hash(&self, name: &str) -> Result<&str, AuthError> {
        if !self.enabled {
            return Err(AuthError::NotEnabled);
        }
        let user = self.user(name).ok_or(AuthError::Failed)?;
        if user.no_password { Err(AuthError::NoPasswordUser) } else { Ok(&user.hash) }
    }

    /// Puts a stored user or role back; call [`AuthState::restored`] at the end.
    pub(crate) fn restore_user(&mut self, name: String, user: User) {
        self.users.insert(name, Arc::new(user));
    }

    pub(crate) fn restore_role(&mut self, name: String, role: Role) {
        self.roles.insert(name, Arc::new(role));
    }

    pub(crate) fn restored(&mut self, enabled: bool, revision: u64) {
        self.enabled = enabled;
        self.revision = revision;
        self.merge(&self.users.keys().cloned().collect());
    }

    /// Applies a command of the log at `index`; whoever may ask for it has been decided before. A failed one changes
    /// nothing.
    ///
    /// # Errors
    /// The command's own.
    pub(crate) fn apply(&mut self, index: LogIndex, command: &AuthCommand) -> Result<(AuthAnswer, Effects), AuthError> {
        let effects = match command {
            AuthCommand::Enable => self.enable()?,
            AuthCommand::Disable => self.disable(),
            AuthCommand::UserAdd(request) => self.user_add(request)?,
            AuthCommand::UserDelete(request) => self.user_delete(&request.name)?,
            AuthCommand::UserChangePassword(request) => self.user_change_password(request)?,
            AuthCommand::UserGrantRole(request) => self.user_grant_role(&request.user, &request.role)?,
            AuthCommand::UserRevokeRole(request) => self.user_revoke_role(&request.name, &request.role)?,
            AuthCommand::RoleAdd(request) => self.role_add(&request.name)?,
            AuthCommand::RoleDelete(request) => self.role_delete(&request.role)?,
            AuthCommand::RoleGrantPermission(request) => self.role_grant(&request.name, request.perm.as_ref())?,
            AuthCommand::RoleRevokePermission(request) => self.role_revoke(request)?,
            AuthCommand::AssignToken(request) => return self.assign_token(index, request),
        };
        Ok((AuthAnswer::Done, effects))
    }

    fn enable(&mut self) -> Result<Effects, AuthError> {
        if !self.enabled {
            let root = self.user(ROOT).ok_or(AuthError::RootUserMissing)?;
            if !root.roles.contains(ROOT) {
                return Err(AuthError::RootRoleMissing);
            }
            // etcd counts disabling, but not enabling.
            self.enabled = true;
        }
        Ok(Effects::default())
    }

    fn disable(&mut self) -> Effects {
        if !self.enabled {
            return Effects::default();
        }
        self.enabled = false;
        self.revision += 1;
        Effects { token: Some(TokenChange::ForgetAll), ..Effects::default() }
    }

    fn user_add(&mut self, request: &pb::AuthUserAddRequest) -> Result<Effects, AuthError> {
        if request.name.is_empty() {
            return Err(AuthError::UserEmpty);
        }
        if self.users.contains_key(&request.name) {
            return Err(AuthError::UserExists);
        }
        let no_password = request.options.is_some_and(|options| options.no_password);
        let hash = if no_password { String::new() } else { request.hashed_password.clone() };
        let user = User { hash, no_password, roles: BTreeSet::new() };
        self.users.insert(request.name.clone(), Arc::new(user));
        Ok(self.users_changed([request.name.clone()].into()))
    }

    fn user_delete(&mut self, name: &str) -> Result<Effects, AuthError> {
        if self.enabled && name == ROOT {
            return Err(AuthError::InvalidManagement);
        }
        self.users.remove(name).ok_or(AuthError::UserNotFound)?;
        let effects = self.users_changed([name.to_owned()].into());
        Ok(Effects { token: Some(TokenChange::ForgetUser(name.to_owned())), ..effects })
    }

    fn user_change_password(&mut self, request: &pb::AuthUserChangePasswordRequest) -> Result<Effects, AuthError> {
        let user = self.user_mut(&request.name)?;
        if !user.no_password {
            user.hash.clone_from(&request.hashed_password);
        }
        let effects = self.users_changed([request.name.clone()].into());
        Ok(Effects { token: Some(TokenChange::ForgetUser(request.name.clone())), ..effects })
    }

    fn user_grant_role(&mut self, name: &str, role: &str) -> Result<Effects, AuthError> {
        let known = role == ROOT || self.roles.contains_key(role);
        let user = self.user_mut(name)?;
        if !known {
            return Err(AuthError::RoleNotFound);
        }
        if !user.roles.insert(role.to_owned()) {
            return Ok(Effects::default());
        }
        Ok(self.users_changed([name.to_owned()].into()))
    }

    fn user_revoke_role(&mut self, name: &str, role: &str) -> Result<Effects, AuthError> {
        if self.enabled && name == ROOT && role == ROOT {
            return Err(AuthError::InvalidManagement);
        }
        if !self.user_mut(name)?.roles.remove(role) {
            return Err(AuthError::RoleNotGranted);
        }
        Ok(self.users_changed([name.to_owned()].into()))
    }

    fn role_add(&mut self, name: &str) -> Result<Effects, AuthError> {
        if name.is_empty() {
            return Err(AuthError::RoleEmpty);
        }
        if self.roles.contains_key(name) {
            return Err(AuthError::RoleExists);
        }
        self.roles.insert(name.to_owned(), Arc::default());
        Ok(self.role_changed(name))
    }

    fn role_delete(&mut self, name: &str) -> Result<Effects, AuthError> {
        if self.enabled && name == ROOT {
            return Err(AuthError::InvalidManagement);
        }
        self.roles.remove(name).ok_or(AuthError::RoleNotFound)?;
        let had = self.users_with(name);
        for user in &had {
            self.user_mut(user)?.roles.remove(name);
        }
        self.merge(&had);
        Ok(Effects { users: had, ..self.role_changed(name) })
    }

    fn role_grant(&mut self, name: &str, permission: Option<&authpb::Permission>) -> Result<Effects, AuthError> {
        let permission = permission.ok_or(AuthError::PermissionNotGiven)?;
        let access = Access::try_from(permission.perm_type).map_err(|_| AuthError::InvalidManagement)?;
        if !grants::is_valid(&permission.key, &permission.range_end) {
            return Err(AuthError::InvalidManagement);
        }
        // The request's bytes belong to a larger buffer, and a grant lives long.
        let own = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
        let place = (own(&permission.key), own(&permission.range_end));
        self.role_mut(name)?.permissions.insert(place, access);
        Ok(self.role_changed(name))
    }

    fn role_revoke(&mut self, request: &pb::AuthRoleRevokePermissionRequest) -> Result<Effects, AuthError> {
        let place = (request.key.clone(), request.range_end.clone());
        if self.role_mut(&request.role)?.permissions.remove(&place).is_none() {
            return Err(AuthError::PermissionNotGranted);
        }
        Ok(self.role_changed(&request.role))
    }

    /// The password was compared on the proposing member, with the state at the request's revision.
    ///
    /// # Errors
    /// `OldRevision` when the state has changed since, and those of [`AuthState::password_hash`].
    pub(crate) fn assign_token(
        &self,
        index: LogIndex,
        request: &AssignToken,
    ) -> Result<(AuthAnswer, Effects), AuthError> {
        self.password_hash(&request.name)?;
        if request.revision != self.revision {
            return Err(AuthError::OldRevision);
        }
        let token = format!("{}.{index}", request.prefix);
        let change = TokenChange::Assigned { token: token.clone(), user: request.name.clone() };
        Ok((AuthAnswer::Token(token), Effects { token: Some(change), ..Effects::default() }))
    }

    fn user_mut(&mut self, name: &str) -> Result<&mut User, AuthError> {
        self.users.get_mut(name).map(Arc::make_mut).ok_or(AuthError::UserNotFound)
    }

    fn role_mut(&mut self, name: &str) -> Result<&mut Role, AuthError> {
        self.roles.get_mut(name).map(Arc::make_mut).ok_or(AuthError::RoleNotFound)
    }

    fn users_with(&self, role: &str) -> BTreeSet<String> {
        self.users.iter().filter(|(_, user)| user.roles.contains(role)).map(|(name, _)| name.clone()).collect()
    }

    fn users_changed(&mut self, users: BTreeSet<String>) -> Effects {
        self.revision += 1;
        self.merge(&users);
        Effects { users, ..Effects::default() }
    }

    fn role_changed(&mut self, role: &str) -> Effects {
        self.revision += 1;
        self.merge(&self.users_with(role));
        Effects { roles: [role.to_owned()].into(), ..Effects::default() }
    }

    /// Derives again what these users may do.
    fn merge(&mut self, users: &BTreeSet<String>) {
        for name in users {
            let Some(user) = self.users.get(name) else {
                self.grants.remove(name);
                continue;
            };
            let (mut read, mut write) = (Vec::new(), Vec::new());
            let roles = user.roles.iter().filter_map(|role| self.roles.get(role));
            for ((key, range_end), access) in roles.flat_map(|role| &role.permissions) {
                let span = Span::of(key, range_end);
                match access {
                    Access::Read => read.push(span),
                    Access::Write => write.push(span),
                    Access::Readwrite => {
                        read.push(span.clone());
                        write.push(span);
                    }
                }
            }
            let grants = Grants { read: Union::of(read), write: Union::of(write) };
            self.grants.insert(name.clone(), Arc::new(grants));
        }
    }

    /// The revision as of which `caller` was checked is no longer the present one.
    #[must_use]
    pub fn is_stale(&self, caller: &Caller) -> bool {
        matches!(caller, Caller::User { revision, .. } if *revision != self.revision)
    }
}
