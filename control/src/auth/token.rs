//! ServiceAccount tokens: JWTs signed with ES256.
use std::fmt;

use crate::status::ApiError;

/// The key pair that signs and verifies ServiceAccount tokens.
pub struct SigningKey {}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").finish_non_exhaustive()
    }
}

/// What a token is minted for (the TokenRequest subresource).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenRequest {
    pub namespace: String,
    pub service_account: String,
    pub service_account_uid: String,
    /// Empty means the API server itself.
    pub audiences: Vec<String>,
    pub expiration_s: u64,
    /// (`pod` | `secret` | `node`, name, uid).
    pub bound: Option<(String, String, String)>,
}

/// A verified token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    pub namespace: String,
    pub service_account: String,
    pub service_account_uid: String,
    pub audiences: Vec<String>,
    pub expires_s: u64,
    pub bound: Option<(String, String, String)>,
}

impl SigningKey {
    /// A signed JWT and its expiry as Unix time. `id` is the `jti`: a fresh UUID.
    pub fn mint(&self, _request: &TokenRequest, _now_s: u64, _id: &str) -> Result<(String, u64), ApiError> {
        Err(ApiError::internal("no key"))
    }

    /// The claims of a token that this key signed and that is valid at `now_s`; 401 otherwise.
    pub fn verify(&self, _token: &str, _now_s: u64) -> Result<Claims, ApiError> {
        Err(ApiError::unauthorized())
    }
}
