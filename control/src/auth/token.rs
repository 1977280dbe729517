//! ServiceAccount tokens: JWTs signed with ES256, with the claims of Kubernetes' bound tokens.
//!
//! Signed and verified with `ring` directly: a general JWT library would add algorithms that must then be refused.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::limits;
use crate::status::ApiError;

/// Who signs tokens, and the audience that the API server itself accepts.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// What stands before an uncompressed P-256 point in its SubjectPublicKeyInfo.
const SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// The text is not an ECDSA P-256 key in PKCS #8.
#[derive(Debug, thiserror::Error)]
#[error("the ServiceAccount signing key is not a P-256 key in PKCS #8 PEM")]
pub struct KeyError;

/// The key pair that signs and verifies ServiceAccount tokens.
pub struct SigningKey {
    pair: EcdsaKeyPair,
    random: SystemRandom,
    id: String,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// An object that a token dies with: its kind in lower case (`pod`, `secret`, `node`), name and uid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundObject {
    pub kind: String,
    pub name: String,
    pub uid: String,
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
    pub bound: Option<BoundObject>,
}

/// A verified token. Whether its ServiceAccount and bound object still exist is for the caller to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    pub namespace: String,
    pub service_account: String,
    pub service_account_uid: String,
    pub audiences: Vec<String>,
    pub expires_s: u64,
    pub bound: Option<BoundObject>,
}

#[derive(Deserialize, Serialize)]
struct Payload {
    aud: Vec<String>,
    exp: u64,
    iat: u64,
    iss: String,
    jti: String,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Value,
    nbf: u64,
    sub: String,
}

impl SigningKey {
    /// From a PKCS #8 PEM.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| KeyError)?;
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_pkcs8_der(), &random)
            .map_err(|_| KeyError)?;
        let mut spki = Sha256::new_with_prefix(SPKI_PREFIX);
        spki.update(pair.public_key().as_ref());
        let id = URL_SAFE_NO_PAD.encode(spki.finalize());
        Ok(Self { pair, random, id })
    }

    /// A signed JWT and its expiry as Unix time. `id` is the `jti`: a fresh UUID.
    pub fn mint(&self, request: &TokenRequest, now_s: u64, id: &str) -> Result<(String, u64), ApiError> {
        let TokenRequest { namespace, service_account, service_account_uid, audiences, expiration_s, bound } = request;
        let mut kubernetes = json!({
            "namespace": namespace,
            "serviceaccount": {"name": service_account, "uid": service_account_uid},
        });
        if let Some(BoundObject { kind, name, uid }) = bound {
            kubernetes[kind.as_str()] = json!({"name": name, "uid": uid});
        }
        let expires_s = now_s.saturating_add((*expiration_s).min(limits::TOKEN_EXPIRATION_S_MAX));
        let payload = Payload {
            aud: if audiences.is_empty() { vec![ISSUER.to_owned()] } else { audiences.clone() },
            exp: expires_s,
            iat: now_s,
            iss: ISSUER.to_owned(),
            jti: id.to_owned(),
            kubernetes,
            nbf: now_s,
            sub: format!("system:serviceaccount:{namespace}:{service_account}"),
        };
        let header = json!({"alg": "ES256", "kid": self.id, "typ": "JWT"});
        let payload = serde_json::to_vec(&payload).expect("a payload is plain JSON");
        let mut token = format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(payload));
        let signature =
            self.pair.sign(&self.random, token.as_bytes()).map_err(|_| ApiError::internal("cannot sign a token"))?;
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(signature));
        Ok((token, expires_s))
    }

    /// The claims of a token that this key signed and that is valid at `now_s`; 401 otherwise.
    pub fn verify(&self, token: &str, now_s: u64) -> Result<Claims, ApiError> {
        let payload = self.verified_payload(token).ok_or_else(ApiError::unauthorized)?;
        let is_current = payload.nbf <= now_s + limits::TOKEN_CLOCK_SKEW_S && now_s < payload.exp;
        if payload.iss != ISSUER || !is_current {
            return Err(ApiError::unauthorized());
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let about = &payload.kubernetes;
        let bound = ["pod", "secret", "node"].iter().find_map(|kind| {
            let object = about.get(kind)?;
            Some(BoundObject { kind: (*kind).to_owned(), name: text(&object["name"]), uid: text(&object["uid"]) })
        });
        let claims = Claims {
            namespace: text(&about["namespace"]),
            service_account: text(&about["serviceaccount"]["name"]),
            service_account_uid: text(&about["serviceaccount"]["uid"]),
            audiences: payload.aud,
            expires_s: payload.exp,
            bound,
        };
        let is_whole = !claims.namespace.is_empty() && !claims.service_account.is_empty();
        if is_whole { Ok(claims) } else { Err(ApiError::unauthorized()) }
    }

    fn verified_payload(&self, token: &str) -> Option<Payload> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, payload) = signed.split_once('.')?;
        let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
        if header["alg"] != "ES256" {
            return None;
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key().as_ref())
            .verify(signed.as_bytes(), &signature)
            .ok()?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
    }

    /// The answer to `/openid/v1/jwks`.
    #[must_use]
    pub fn jwks(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        // 0x04, then two coordinates of 32 bytes.
        let (x, y) = point[1..].split_at(32);
        let [x, y] = [x, y].map(|c| URL_SAFE_NO_PAD.encode(c));
        json!({"keys": [{"use": "sig", "kty": "EC", "kid": self.id, "crv": "P-256", "alg": "ES256", "x": x, "y": y}]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SigningKey {
        SigningKey::from_pem(&rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap()
    }

    fn request() -> TokenRequest {
        TokenRequest {
            namespace: "team".to_owned(),
            service_account: "robot".to_owned(),
            service_account_uid: "sa-uid".to_owned(),
            audiences: Vec::new(),
            expiration_s: 3600,
            bound: Some(BoundObject { kind: "pod".to_owned(), name: "p".to_owned(), uid: "p-uid".to_owned() }),
        }
    }

    #[test]
    fn what_is_minted_verifies_until_it_expires() {
        let key = key();
        let (token, expires_s) = key.mint(&request(), 1_000, "id-1").unwrap();
        assert_eq!(expires_s, 4_600);
        let claims = key.verify(&token, 4_599).unwrap();
        assert_eq!((claims.namespace.as_str(), claims.service_account.as_str()), ("team", "robot"));
        assert_eq!((claims.service_account_uid.as_str(), claims.bound), ("sa-uid", request().bound));
        assert_eq!(claims.audiences, [ISSUER]);
        assert_eq!(key.verify(&token, 4_600).unwrap_err().code, 401);
        assert_eq!(key.verify(&token, 500).unwrap_err().code, 401, "not yet valid");
    }

    #[test]
    fn the_payload_has_the_claims_of_kubernetes() {
        let (token, _) = key().mint(&request(), 1_000, "id-1").unwrap();
        let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
        let payload: Value = serde_json::from_slice(&payload).unwrap();
        let expected = json!({"aud": [ISSUER], "exp": 4600, "iat": 1000, "iss": ISSUER, "jti": "id-1", "nbf": 1000,
            "sub": "system:serviceaccount:team:robot", "kubernetes.io": {"namespace": "team",
            "serviceaccount": {"name": "robot", "uid": "sa-uid"}, "pod": {"name": "p", "uid": "p-uid"}}});
        assert_eq!(payload, expected);
    }

    #[test]
    fn tokens_of_others_and_changed_tokens_are_refused() {
        let (ours, (theirs, _)) = (key(), key().mint(&request(), 1_000, "id").unwrap());
        assert_eq!(ours.verify(&theirs, 1_001).unwrap_err().code, 401);
        let (token, _) = ours.mint(&request(), 1_000, "id").unwrap();
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let header = signed.split_once('.').unwrap().0;
        let (other, _) =
            ours.mint(&TokenRequest { service_account: "root".to_owned(), ..request() }, 1_000, "id").unwrap();
        let other_payload = other.split('.').nth(1).unwrap();
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        for forged in [
            format!("{header}.{other_payload}.{signature}"),
            format!("{signed}."),
            format!("{none}.{other_payload}."),
            signed.to_owned(),
        ] {
            assert_eq!(ours.verify(&forged, 1_001).unwrap_err().code, 401, "{forged}");
        }
    }
}
