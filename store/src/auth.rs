//! Authentication and authorization: users, roles, tokens, and what a caller may do.
//!
//! Everything here is pure. The replicated part is [`state`] (users, roles, the auth revision), changed only by an
//! [`AuthCommand`] of the log and asked by [`permit`] both in apply, where it decides about every change, and by the
//! edge, where it decides about reads. [`caller`] is who sent a request, as a log entry carries it. Tokens are not
//! replicated state: [`tokens`] is each member's own table of simple tokens, [`jwt`] signs and verifies the others.

pub mod caller;
pub mod command;
pub(crate) mod der;
pub mod error;
pub mod grants;
pub mod jwt;
pub mod options;
pub mod permit;
pub mod state;
#[cfg(test)]
mod tests;
pub mod tokens;

pub use caller::Caller;
pub use command::{AuthAnswer, AuthCommand};
pub use error::AuthError;
pub use options::{AuthOptions, AuthOptionsError, TokenProvider};
pub use state::AuthState;

/// The user without whom authentication cannot be enabled, and the role that may do everything.
pub const ROOT: &str = "root";
