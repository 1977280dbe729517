//! Who asks, and what they may do.
//!
//! Both are decisions over values: [`Authenticator::authenticate`] turns a verified client certificate or a bearer token into a
//! [`crate::registry::User`], [`authorize()`] compares a user with what a request does. TLS, keys and files are in `io::pki`.

mod authenticate;
mod authorize;
pub mod token;
pub mod token_request;

pub use authenticate::{ANONYMOUS, AUTHENTICATED, Authenticator, MASTERS, NODES};
pub use authorize::{Attributes, authorize};
