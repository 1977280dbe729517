//! The Auth service: users, roles, permissions, and tokens.
//!
//! Changes are decided in apply, where the caller travels with the command. Questions are answered after a read barrier
//! from this member's state, which is as current as if they had gone through the log.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kontiki_api::etcdserverpb as pb;
use kontiki_api::etcdserverpb::auth_server::Auth;
use tonic::{Request, Response, Status};

use super::access::{Sender, split};
use super::{Edge, response};
use crate::auth::{AuthAnswer, AuthCommand, AuthError, AuthState, Caller};
use crate::command::Command;
use crate::error::StoreError;

impl Edge {
    /// Has a change applied for `sender`, and answers with a header.
    async fn change(&self, sender: &Sender, command: AuthCommand) -> Result<Option<pb::ResponseHeader>, Status> {
        let caller = self.caller(sender).await?;
        self.change_as(&caller, command).await
    }

    async fn change_as(&self, caller: &Caller, command: AuthCommand) -> Result<Option<pb::ResponseHeader>, Status> {
        let answer = response!(self.member.propose_as(caller, Command::Auth(command)).await, Auth);
        assert_eq!(answer, AuthAnswer::Done, "only logging in answers with a token");
        Ok(Some(self.header_now()))
    }

    /// The present state, for a question that `may` allows.
    async fn ask(
        &self,
        sender: &Sender,
        may: impl FnOnce(&AuthState, &Caller) -> Result<(), AuthError>,
    ) -> Result<Arc<AuthState>, StoreError> {
        self.member.read_barrier().await?;
        let caller = self.caller(sender).await?;
        let state = self.member.reader().auth();
        if state.is_enabled() && caller != Caller::Internal {
            may(&state, &caller)?;
        }
        Ok(state)
    }

    /// The caller, who may change users; asked before the work of hashing a password is done for nobody.
    async fn administrator(&self, sender: &Sender) -> Result<Caller, StoreError> {
        let caller = self.caller(sender).await?;
        if self.require_root(&caller).is_err() {
            self.member.read_barrier().await?;
            let caller = self.caller(sender).await?;
            self.require_root(&caller)?;
            return Ok(caller);
        }
        Ok(caller)
    }
}

#[tonic::async_trait]
impl Auth for Edge {
    async fn auth_enable(
        &self,
        request: Request<pb::AuthEnableRequest>,
    ) -> Result<Response<pb::AuthEnableResponse>, Status> {
        let (sender, _) = split(request);
        let header = self.change(&sender, AuthCommand::Enable).await?;
        Ok(Response::new(pb::AuthEnableResponse { header }))
    }

    async fn auth_disable(
        &self,
        request: Request<pb::AuthDisableRequest>,
    ) -> Result<Response<pb::AuthDisableResponse>, Status> {
        let (sender, _) = split(request);
        let header = self.change(&sender, AuthCommand::Disable).await?;
        Ok(Response::new(pb::AuthDisableResponse { header }))
    }

    /// For everybody, so that a client can find out whether it needs a token; but a wrong one is an error.
    async fn auth_status(
        &self,
        request: Request<pb::AuthStatusRequest>,
    ) -> Result<Response<pb::AuthStatusResponse>, Status> {
        let (sender, _) = split(request);
        let state = self.ask(&sender, |_, _| Ok(())).await?;
        let header = Some(self.header_now());
        let (enabled, auth_revision) = (state.is_enabled(), state.revision());
        Ok(Response::new(pb::AuthStatusResponse { header, enabled, auth_revision }))
    }

    async fn authenticate(
        &self,
        request: Request<pb::AuthenticateRequest>,
    ) -> Result<Response<pb::AuthenticateResponse>, Status> {
        let pb::AuthenticateRequest { name, password } = request.into_inner();
        let token = self.member.authenticate(&name, &password).await?;
        Ok(Response::new(pb::AuthenticateResponse { header: Some(self.header_now()), token }))
    }

    async fn user_add(
        &self,
        request: Request<pb::AuthUserAddRequest>,
    ) -> Result<Response<pb::AuthUserAddResponse>, Status> {
        let (sender, mut request) = split(request);
        let caller = self.administrator(&sender).await?;
        let password = std::mem::take(&mut request.password);
        request.hashed_password = match request.options {
            Some(options) if options.no_password => String::new(),
            _ => self.member.hash_password(password).await?,
        };
        let header = self.change_as(&caller, AuthCommand::UserAdd(request)).await?;
        Ok(Response::new(pb::AuthUserAddResponse { header }))
    }

    async fn user_get(
        &self,
        request: Request<pb::AuthUserGetRequest>,
    ) -> Result<Response<pb::AuthUserGetResponse>, Status> {
        let (sender, request) = split(request);
        let state = self.ask(&sender, |state, caller| state.may_see_user(caller, &request.name)).await?;
        let roles = state.roles_of(&request.name)?;
        Ok(Response::new(pb::AuthUserGetResponse { header: Some(self.header_now()), roles }))
    }

    async fn user_list(
        &self,
        request: Request<pb::AuthUserListRequest>,
    ) -> Result<Response<pb::AuthUserListResponse>, Status> {
        let (sender, _) = split(request);
        let users = self.ask(&sender, AuthState::require_root).await?.user_names();
        Ok(Response::new(pb::AuthUserListResponse { header: Some(self.header_now()), users }))
    }

    async fn user_delete(
        &self,
        request: Request<pb::AuthUserDeleteRequest>,
    ) -> Result<Response<pb::AuthUserDeleteResponse>, Status> {
        let (sender, request) = split(request);
        let header = self.change(&sender, AuthCommand::UserDelete(request)).await?;
        Ok(Response::new(pb::AuthUserDeleteResponse { header }))
    }

    async fn user_change_password(
        &self,
        request: Request<pb::AuthUserChangePasswordRequest>,
    ) -> Result<Response<pb::AuthUserChangePasswordResponse>, Status> {
        let (sender, mut request) = split(request);
        let caller = self.administrator(&sender).await?;
        let password = std::mem::take(&mut request.password);
        request.hashed_password = match password.is_empty() {
            false => self.member.hash_password(password).await?,
            // The client may have hashed it by itself.
            true => given_hash(&request.hashed_password)?,
        };
        let header = self.change_as(&caller, AuthCommand::UserChangePassword(request)).await?;
        Ok(Response::new(pb::AuthUserChangePasswordResponse { header }))
    }

    async fn user_grant_role(
        &self,
        request: Request<pb::AuthUserGrantRoleRequest>,
    ) -> Result<Response<pb::AuthUserGrantRoleResponse>, Status> {
        let (sender, request) = split(request);
        let header = self.change(&sender, AuthCommand::UserGrantRole(request)).await?;
        Ok(Response::new(pb::AuthUserGrantRoleResponse { header }))
    }

    async fn user_revoke_role(
        &self,
        request: Request<pb::AuthUserRevokeRoleRequest>,
    ) -> Result<Response<pb::AuthUserRevokeRoleResponse>, Status> {
        let (sender, request) = split(request);
        let header = self.change(&sender, AuthCommand::UserRevokeRole(request)).await?;
        Ok(Response::new(pb::AuthUserRevokeRoleResponse { header }))
    }

    async fn role_add(
        &self,
        request: Request<pb::AuthRoleAddRequest>,
    ) -> Result<Response<pb::AuthRoleAddResponse>, Status> {
        let (sender, request) = split(request);
        let header = self.change(&sender, AuthCommand::RoleAdd(request)).await?;
        Ok(Response::new(pb::AuthRoleAddResponse { header }))
    }

    async fn role_get(
        &self,
        request: Request<pb::AuthRoleGetRequest>,
    ) -> Result<Response<pb::AuthRoleGetResponse>, Status> {
        let (sender, request) = split(request);
        let state = self.ask(&sender, |state, caller| state.may_see_role(caller, &request.role)).await?;
        let perm = state.permissions_of(&request.role)?;
        Ok(Response::new(pb::AuthRoleGetResponse { header: Some(self.header_now()), perm }))
    }

    async fn role_list(
        &self,
        request: Request<pb::AuthRoleListRequest>,
    ) -> Result<Response<pb::AuthRoleListResponse>, Status> {
        let (sender, _) = split(request);
        let roles = self.ask(&sender, AuthState::require_root).await?.role_names();
        Ok(Response::new(pb::AuthRoleListResponse { header: Some(self.header_now()), roles }))
    }

    async fn role_delete(
        &self,
        request: Request<pb::AuthRoleDeleteRequest>,
    ) -> Result<Response<pb::AuthRoleDeleteResponse>, Status> {
        let (sender, request) = split(request);
        let header = self.change(&sender, AuthCommand::RoleDelete(request)).await?;
        Ok(Response::new(pb::AuthRoleDeleteResponse { header }))
    }

    async fn role_grant_permission(
        &self,
        request: Request<pb::AuthRoleGrantPermissionRequest>,
    ) -> Result<Response<pb::AuthRoleGrantPermissionResponse>, Status> {
        let (sender, request) = split(request);
        let header = self.change(&sender, AuthCommand::RoleGrantPermission(request)).await?;
        Ok(Response::new(pb::AuthRoleGrantPermissionResponse { header }))
    }

    async fn role_revoke_permission(
        &self,
        request: Request<pb::AuthRoleRevokePermissionRequest>,
    ) -> Result<Response<pb::AuthRoleRevokePermissionResponse>, Status> {
        let (sender, request) = split(request);
        let header = self.change(&sender, AuthCommand::RoleRevokePermission(request)).await?;
        Ok(Response::new(pb::AuthRoleRevokePermissionResponse { header }))
    }
}

/// The bcrypt text that a client sent, in base64. etcd's error for one that is not.
fn given_hash(encoded: &str) -> Result<String, AuthError> {
    let bytes = STANDARD.decode(encoded).map_err(|_| AuthError::NoPasswordUser)?;
    String::from_utf8(bytes).map_err(|_| AuthError::NoPasswordUser)
}
