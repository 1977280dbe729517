//! JSON web tokens, signed and verified with `ring`: the other kind of token that etcd offers.
//!
//! The method is the operator's choice and a token's header must name exactly it, so there is no list of algorithms to
//! choose from, and none to confuse. The claims are etcd's: `username`, `revision` (of the auth state), `exp`.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair, UnparsedPublicKey};
use ring::{hmac, signature::RsaEncoding, signature::VerificationAlgorithm};
use rustls::pki_types::pem::{PemObject as _, SectionKind};
use serde_json::{Value, json};

use super::der;
use super::error::AuthError;

/// How tokens are signed, by the names of `sign-method`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignMethod {
    Hs256,
    Hs384,
    Hs512,
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
}

const METHODS: [(&str, SignMethod); 12] = [
    ("HS256", SignMethod::Hs256),
    ("HS384", SignMethod::Hs384),
    ("HS512", SignMethod::Hs512),
    ("RS256", SignMethod::Rs256),
    ("RS384", SignMethod::Rs384),
    ("RS512", SignMethod::Rs512),
    ("PS256", SignMethod::Ps256),
    ("PS384", SignMethod::Ps384),
    ("PS512", SignMethod::Ps512),
    ("ES256", SignMethod::Es256),
    ("ES384", SignMethod::Es384),
    ("EdDSA", SignMethod::EdDsa),
];

/// What a method needs of `ring`.
enum Algorithm {
    Hmac(hmac::Algorithm),
    Rsa(&'static dyn RsaEncoding, &'static dyn VerificationAlgorithm),
    Ecdsa(&'static signature::EcdsaSigningAlgorithm, &'static dyn VerificationAlgorithm),
    Ed25519,
}

impl SignMethod {
    /// The method of a name such as `RS256`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        METHODS.iter().find(|(known, _)| *known == name).map(|(_, method)| *method)
    }

    fn name(self) -> &'static str {
        METHODS.iter().find(|(_, method)| *method == self).expect("every method has a name").0
    }

    fn algorithm(self) -> Algorithm {
        use signature as s;
        match self {
            Self::Hs256 => Algorithm::Hmac(hmac::HMAC_SHA256),
            Self::Hs384 => Algorithm::Hmac(hmac::HMAC_SHA384),
            Self::Hs512 => Algorithm::Hmac(hmac::HMAC_SHA512),
            Self::Rs256 => Algorithm::Rsa(&s::RSA_PKCS1_SHA256, &s::RSA_PKCS1_2048_8192_SHA256),
            Self::Rs384 => Algorithm::Rsa(&s::RSA_PKCS1_SHA384, &s::RSA_PKCS1_2048_8192_SHA384),
            Self::Rs512 => Algorithm::Rsa(&s::RSA_PKCS1_SHA512, &s::RSA_PKCS1_2048_8192_SHA512),
            Self::Ps256 => Algorithm::Rsa(&s::RSA_PSS_SHA256, &s::RSA_PSS_2048_8192_SHA256),
            Self::Ps384 => Algorithm::Rsa(&s::RSA_PSS_SHA384, &s::RSA_PSS_2048_8192_SHA384),
            Self::Ps512 => Algorithm::Rsa(&s::RSA_PSS_SHA512, &s::RSA_PSS_2048_8192_SHA512),
            Self::Es256 => Algorithm::Ecdsa(&s::ECDSA_P256_SHA256_FIXED_SIGNING, &s::ECDSA_P256_SHA256_FIXED),
            Self::Es384 => Algorithm::Ecdsa(&s::ECDSA_P384_SHA384_FIXED_SIGNING, &s::ECDSA_P384_SHA384_FIXED),
            Self::EdDsa => Algorithm::Ed25519,
        }
    }
}

/// Why keys cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("priv-key is needed for {0}")]
    SecretMissing(&'static str),
    #[error("pub-key or priv-key is needed for {0}")]
    Missing(&'static str),
    #[error("priv-key is not a PEM private key for {0}")]
    Private(&'static str),
    #[error("pub-key is not a PEM public key for {0}")]
    Public(&'static str),
    #[error("pub-key and priv-key do not belong together")]
    Mismatch,
}

enum Signer {
    Hmac(hmac::Key),
    Rsa(Box<RsaKeyPair>, &'static dyn RsaEncoding),
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Signer {
    fn public_key(&self) -> Vec<u8> {
        match self {
            Self::Hmac(_) => Vec::new(),
            Self::Rsa(pair, _) => pair.public().as_ref().to_vec(),
            Self::Ecdsa(pair) => pair.public_key().as_ref().to_vec(),
            Self::Ed25519(pair) => pair.public_key().as_ref().to_vec(),
        }
    }

    fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        match self {
            Self::Hmac(key) => Some(hmac::sign(key, message).as_ref().to_vec()),
            Self::Rsa(pair, encoding) => {
                let mut signed = vec![0; pair.public().modulus_len()];
                pair.sign(*encoding, &random, message, &mut signed).ok()?;
                Some(signed)
            }
            Self::Ecdsa(pair) => Some(pair.sign(&random, message).ok()?.as_ref().to_vec()),
            Self::Ed25519(pair) => Some(pair.sign(message).as_ref().to_vec()),
        }
    }
}

/// Signs and verifies tokens, or only verifies them when there is no private key.
pub struct Jwt {
    method: SignMethod,
    signer: Option<Signer>,
    public_key: Vec<u8>,
    ttl: Duration,
}

impl fmt::Debug for Jwt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jwt").field("method", &self.method).field("ttl", &self.ttl).finish_non_exhaustive()
    }
}

impl Jwt {
    /// `private` and `public` are the contents of the key files: PEM, or the secret itself for HMAC.
    ///
    /// # Errors
    /// When a key is missing, of another kind, or the two do not belong together.
    pub fn new(
        method: SignMethod,
        private: Option<&[u8]>,
        public: Option<&[u8]>,
        ttl: Duration,
    ) -> Result<Self, KeyError> {
        let name = method.name();
        let signer = private.map(|key| signer(method, key).ok_or(KeyError::Private(name))).transpose()?;
        if matches!(method.algorithm(), Algorithm::Hmac(_)) {
            let signer = signer.ok_or(KeyError::SecretMissing(name))?;
            return Ok(Self { method, signer: Some(signer), public_key: Vec::new(), ttl });
        }
        let public = public.map(|key| public_key(key).ok_or(KeyError::Public(name))).transpose()?;
        let public_key = match (&signer, public) {
            (None, None) => return Err(KeyError::Missing(name)),
            (None, Some(public)) => public,
            (Some(signer), public) => {
                let own = signer.public_key();
                if public.is_some_and(|public| public != own) {
                    return Err(KeyError::Mismatch);
                }
                own
            }
        };
        Ok(Self { method, signer, public_key, ttl })
    }

    /// A token for a user; `now_s` is the time of day in seconds.
    ///
    /// # Errors
    /// `VerifyOnly` without a private key.
    pub fn sign(&self, user: &str, revision: u64, now_s: u64) -> Result<String, AuthError> {
        let signer = self.signer.as_ref().ok_or(AuthError::VerifyOnly)?;
        let header = json!({"alg": self.method.name(), "typ": "JWT"});
        let claims = json!({"exp": now_s + self.ttl.as_secs(), "revision": revision, "username": user});
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(&header), part(&claims));
        let signed = signer.sign(message.as_bytes()).ok_or(AuthError::Failed)?;
        Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signed)))
    }

    /// The user and the auth revision of a token that is genuine and not expired.
    ///
    /// # Errors
    /// `InvalidToken`.
    pub fn verify(&self, token: &str, now_s: u64) -> Result<(String, u64), AuthError> {
        self.check(token, now_s).ok_or(AuthError::InvalidToken)
    }

    fn check(&self, token: &str, now_s: u64) -> Option<(String, u64)> {
        let (message, signed) = token.rsplit_once('.')?;
        let (header, claims) = message.split_once('.')?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
        let header: Value = serde_json::from_slice(&decode(header)?).ok()?;
        if header.get("alg")?.as_str()? != self.method.name() {
            return None;
        }
        self.is_genuine(message.as_bytes(), &decode(signed)?).then_some(())?;
        let claims: Value = serde_json::from_slice(&decode(claims)?).ok()?;
        let now = now_s as f64;
        // Not required, as in etcd; but what is there must hold.
        if claims.get("exp").is_some_and(|exp| exp.as_f64().is_none_or(|exp| now >= exp))
            || claims.get("nbf").is_some_and(|nbf| nbf.as_f64().is_none_or(|nbf| now < nbf))
        {
            return None;
        }
        let revision = claims.get("revision")?;
        let revision = revision.as_u64().or_else(|| revision.as_f64().map(|revision| revision as u64))?;
        Some((claims.get("username")?.as_str()?.to_owned(), revision))
    }

    fn is_genuine(&self, message: &[u8], signed: &[u8]) -> bool {
        let verified = |algorithm: &'static dyn VerificationAlgorithm| {
            UnparsedPublicKey::new(algorithm, &self.public_key).verify(message, signed).is_ok()
        };
        match (self.method.algorithm(), &self.signer) {
            (Algorithm::Hmac(_), Some(Signer::Hmac(key))) => hmac::verify(key, message, signed).is_ok(),
            (Algorithm::Hmac(_), _) => false,
            (Algorithm::Rsa(_, algorithm) | Algorithm::Ecdsa(_, algorithm), _) => verified(algorithm),
            (Algorithm::Ed25519, _) => verified(&signature::ED25519),
        }
    }
}

fn signer(method: SignMethod, key: &[u8]) -> Option<Signer> {
    if let Algorithm::Hmac(algorithm) = method.algorithm() {
        return (!key.is_empty()).then(|| Signer::Hmac(hmac::Key::new(algorithm, key)));
    }
    let (kind, der) = sections(key).find(|(kind, _)| {
        matches!(kind, SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey)
    })?;
    let random = SystemRandom::new();
    match (method.algorithm(), kind) {
        (Algorithm::Rsa(encoding, _), SectionKind::PrivateKey) => {
            Some(Signer::Rsa(Box::new(RsaKeyPair::from_pkcs8(&der).ok()?), encoding))
        }
        (Algorithm::Rsa(encoding, _), SectionKind::RsaPrivateKey) => {
            Some(Signer::Rsa(Box::new(RsaKeyPair::from_der(&der).ok()?), encoding))
        }
        (Algorithm::Ecdsa(algorithm, _), SectionKind::PrivateKey) => {
            Some(Signer::Ecdsa(EcdsaKeyPair::from_pkcs8(algorithm, &der, &random).ok()?))
        }
        (Algorithm::Ecdsa(algorithm, _), SectionKind::EcPrivateKey) => {
            let (private, public) = der::sec1_keys(&der)?;
            let pair = EcdsaKeyPair::from_private_key_and_public_key(algorithm, private, public, &random);
            Some(Signer::Ecdsa(pair.ok()?))
        }
        // OpenSSL leaves the public key out.
        (Algorithm::Ed25519, SectionKind::PrivateKey) => {
            Some(Signer::Ed25519(Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).ok()?))
        }
        _ => None,
    }
}

fn public_key(pem: &[u8]) -> Option<Vec<u8>> {
    sections(pem).find_map(|(kind, der)| match kind {
        SectionKind::PublicKey => der::public_key(&der).map(<[u8]>::to_vec),
        SectionKind::Certificate => der::certificate_key(&der).map(<[u8]>::to_vec),
        _ => None,
    })
}

fn sections(pem: &[u8]) -> impl Iterator<Item = (SectionKind, Vec<u8>)> {
    <(SectionKind, Vec<u8>)>::pem_slice_iter(pem).map_while(Result::ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(300);

    fn jwt(method: SignMethod, private: Option<&str>, public: Option<&str>) -> Result<Jwt, KeyError> {
        Jwt::new(method, private.map(str::as_bytes), public.map(str::as_bytes), TTL)
    }

    const RSA: &str = include_str!("testdata/rsa.pem");
    const RSA_PKCS1: &str = include_str!("testdata/rsa-pkcs1.pem");
    const RSA_PUBLIC: &str = include_str!("testdata/rsa.pub.pem");
    const RSA_CERTIFICATE: &str = include_str!("testdata/rsa.cert.pem");
    const EC: &str = include_str!("testdata/ec.pem");
    const EC_SEC1: &str = include_str!("testdata/ec-sec1.pem");
    const EC_PUBLIC: &str = include_str!("testdata/ec.pub.pem");
    const EC384_SEC1: &str = include_str!("testdata/ec384-sec1.pem");
    const ED: &str = include_str!("testdata/ed25519.pem");
    const ED_PUBLIC: &str = include_str!("testdata/ed25519.pub.pem");

    #[test]
    fn every_method_verifies_what_it_signed_and_nothing_else() {
        for (name, method) in METHODS {
            let key = match method.algorithm() {
                Algorithm::Hmac(_) => "a secret",
                Algorithm::Rsa(..) => RSA,
                Algorithm::Ecdsa(..) if method == SignMethod::Es384 => EC384_SEC1,
                Algorithm::Ecdsa(..) => EC,
                Algorithm::Ed25519 => ED,
            };
            let jwt = jwt(method, Some(key), None).unwrap();
            let token = jwt.sign("alice", 7, 1000).unwrap();
            assert_eq!(jwt.verify(&token, 1000), Ok(("alice".to_owned(), 7)), "{name}");
            assert_eq!(jwt.verify(&token, 1300), Err(AuthError::InvalidToken), "{name}: expired");
            let mut forged: Vec<&str> = token.split('.').collect();
            let claims = URL_SAFE_NO_PAD.encode(r#"{"username":"root","revision":7}"#);
            forged[1] = &claims;
            assert_eq!(jwt.verify(&forged.join("."), 1000), Err(AuthError::InvalidToken), "{name}: forged");
            for length in 0..token.len() {
                assert!(jwt.verify(&token[..length], 1000).is_err(), "{name}: cut at {length}");
            }
        }
    }

    #[test]
    fn keys_come_in_the_forms_that_openssl_writes() {
        let signers = [
            (SignMethod::Rs256, RSA, RSA_PUBLIC),
            (SignMethod::Rs256, RSA_PKCS1, RSA_CERTIFICATE),
            (SignMethod::Ps512, RSA_PKCS1, RSA_PUBLIC),
            (SignMethod::Es256, EC, EC_PUBLIC),
            (SignMethod::Es256, EC_SEC1, EC_PUBLIC),
            (SignMethod::EdDsa, ED, ED_PUBLIC),
        ];
        for (method, private, public) in signers {
            let both = jwt(method, Some(private), Some(public)).unwrap();
            let verifier = jwt(method, None, Some(public)).unwrap();
            let token = both.sign("alice", 7, 1000).unwrap();
            assert_eq!(verifier.verify(&token, 1000), Ok(("alice".to_owned(), 7)), "{method:?}");
            assert_eq!(verifier.sign("alice", 7, 1000), Err(AuthError::VerifyOnly), "{method:?}");
        }
    }

    #[test]
    fn unusable_keys_say_what_is_wrong() {
        assert_eq!(jwt(SignMethod::Hs256, None, Some("x")).unwrap_err(), KeyError::SecretMissing("HS256"));
        assert_eq!(jwt(SignMethod::Rs256, None, None).unwrap_err(), KeyError::Missing("RS256"));
        assert_eq!(jwt(SignMethod::Rs256, Some(EC), None).unwrap_err(), KeyError::Private("RS256"));
        assert_eq!(jwt(SignMethod::Es384, Some(EC), None).unwrap_err(), KeyError::Private("ES384"));
        assert_eq!(jwt(SignMethod::Rs256, None, Some(RSA)).unwrap_err(), KeyError::Public("RS256"));
        let mismatch = jwt(SignMethod::Es256, Some(EC), Some(RSA_PUBLIC));
        assert_eq!(mismatch.unwrap_err(), KeyError::Mismatch);
    }

    #[test]
    fn a_token_that_names_another_algorithm_is_refused() {
        let hmac = jwt(SignMethod::Hs256, Some("a secret"), None).unwrap();
        let claims = URL_SAFE_NO_PAD.encode(r#"{"username":"root","revision":1}"#);
        for alg in ["none", "HS512", "RS256", ""] {
            let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"{alg}","typ":"JWT"}}"#));
            let message = format!("{header}.{claims}");
            let signed = hmac.signer.as_ref().unwrap().sign(message.as_bytes()).unwrap();
            let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(signed));
            assert_eq!(hmac.verify(&token, 0), Err(AuthError::InvalidToken), "{alg}");
        }
    }
}
