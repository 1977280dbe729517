//! Who a token belongs to, and who gets one.
//!
//! A simple token is assigned by an entry of the log, so that it works on every member; one that has not applied the entry
//! yet waits for it, because the token says where in the log it is. A signed token needs no entry. Passwords are compared
//! here, on the member that was asked, and never in apply.

use tokio::time::{Instant, timeout_at};

use super::inner::Inner;
use crate::auth::command::AssignToken;
use crate::auth::jwt::Jwt;
use crate::auth::{AuthAnswer, AuthCommand, AuthError, AuthOptions, AuthOptionsError, Caller, TokenProvider, tokens};
use crate::command::{Command, Response};
use crate::error::StoreError;
use crate::io::auth::{self, PasswordWork};
use crate::io::random::SystemRandom;
use crate::limits::{AUTH_TOKEN_AHEAD_MAX, AUTH_TOKEN_WAIT, AUTHENTICATE_RETRIES};

/// What a member needs for making and checking tokens.
pub(super) struct Authority {
    /// Nothing for simple tokens.
    jwt: Option<Jwt>,
    pub(super) passwords: PasswordWork,
}

impl Authority {
    /// # Errors
    /// When the keys of signed tokens cannot be read.
    pub(super) fn new(options: &AuthOptions) -> Result<Self, AuthOptionsError> {
        let jwt = match &options.token {
            TokenProvider::Simple => None,
            TokenProvider::Jwt(options) => Some(auth::load(options)?),
        };
        Ok(Self { jwt, passwords: PasswordWork::new(options.bcrypt_cost) })
    }
}

impl Inner {
    pub(super) async fn identify(&self, token: &str) -> Result<Caller, StoreError> {
        if let Some(jwt) = &self.authority.jwt {
            let (name, revision) = jwt.verify(token, auth::time_of_day_s())?;
            return Ok(Caller::User { name: name.into(), revision });
        }
        if let Some(caller) = self.holder(token) {
            return Ok(caller);
        }
        let index = tokens::index_of(token).ok_or(AuthError::InvalidToken)?;
        let mut progress = self.progress.clone();
        let next = progress.borrow().next;
        if (next..=next.saturating_add(AUTH_TOKEN_AHEAD_MAX)).contains(&index) {
            let deadline = Instant::now() + AUTH_TOKEN_WAIT;
            // Too late or stopping: the token is then simply not known here.
            let _ = timeout_at(deadline, progress.wait_for(|progress| progress.next > index)).await;
        }
        Ok(self.holder(token).ok_or(AuthError::InvalidToken)?)
    }

    fn holder(&self, token: &str) -> Option<Caller> {
        // The revision first: a change after it, which may have taken the token back, makes it an old one.
        let revision = self.reader.auth().revision();
        let name = self.reader.token_user(token, self.config.auth.token_ttl)?;
        Some(Caller::User { name, revision })
    }

    pub(super) async fn authenticate(
        self: &std::sync::Arc<Self>,
        user: &str,
        password: &str,
    ) -> Result<String, StoreError> {
        self.read_barrier().await?;
        for _ in 0..AUTHENTICATE_RETRIES {
            let state = self.reader.auth();
            let hash = state.password_hash(user)?.to_owned();
            if !self.authority.passwords.verify(password.to_owned(), hash).await? {
                tracing::info!(user, "a password is wrong");
                return Err(AuthError::Failed.into());
            }
            let revision = state.revision();
            if let Some(jwt) = &self.authority.jwt {
                return Ok(jwt.sign(user, revision, auth::time_of_day_s())?);
            }
            let prefix = auth::token_letters(&SystemRandom);
            let command = AuthCommand::AssignToken(AssignToken { name: user.to_owned(), prefix, revision });
            match self.propose(&Command::Auth(command)).await {
                Ok(Response::Auth(AuthAnswer::Token(token))) => return Ok(token),
                Ok(other) => unreachable!("a token was asked for, and {other:?} answered"),
                // Users or roles changed since the password was compared; perhaps this password.
                Err(StoreError::Auth(AuthError::OldRevision)) => self.read_barrier().await?,
                Err(error) => return Err(error),
            }
        }
        Err(AuthError::OldRevision.into())
    }
}
