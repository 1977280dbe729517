//! Who asks, and what they may do.
//!
//! Both are decisions over values: [`Authenticator::authenticate`] turns a verified client certificate or a bearer token into a
//! [`User`], [`authorize`] compares a user with what a request does. TLS, keys and files are in `io::pki`.

mod authorize;
pub mod token;

use http::HeaderMap;
use rustls_pki_types::CertificateDer;

use crate::registry::User;
use crate::status::ApiError;

pub use authorize::{Attributes, authorize};

/// Turns credentials into users.
#[derive(Debug)]
pub struct Authenticator {}

impl Authenticator {
    /// The identity of a request: the subject of the client certificate (already verified against the cluster CA by TLS), or a
    /// ServiceAccount token, or `system:anonymous`. 401 for a token that is not ours, expired or malformed.
    /// `now_s` is Unix time.
    pub fn authenticate(
        &self,
        _headers: &HeaderMap,
        _peer_certs: &[CertificateDer<'_>],
        _now_s: u64,
    ) -> Result<User, ApiError> {
        Err(ApiError::unauthorized())
    }
}
