//! Credentials to users: client certificates, ServiceAccount tokens, impersonation.

use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::token::{self, SigningKey};
use crate::registry::User;
use crate::status::ApiError;

/// The user of a request without credentials.
pub const ANONYMOUS: &str = "system:anonymous";
/// The group of everyone who showed credentials.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group that may do everything.
pub const MASTERS: &str = "system:masters";
/// The group of node agents.
pub const NODES: &str = "system:nodes";

/// Turns credentials into users.
#[derive(Clone, Debug)]
pub struct Authenticator {
    signing_key: Arc<SigningKey>,
}

impl Authenticator {
    #[must_use]
    pub fn new(signing_key: Arc<SigningKey>) -> Self {
        Self { signing_key }
    }

    /// The identity of a request: the subject of the client certificate (already verified against the cluster CA by TLS), or a
    /// ServiceAccount token, or `system:anonymous`. 401 for a token that is not ours, expired or malformed; 403 for an
    /// impersonation by other than `system:masters`. `now_s` is Unix time.
    pub fn authenticate(
        &self,
        headers: &HeaderMap,
        peer_certs: &[CertificateDer<'_>],
        now_s: u64,
    ) -> Result<User, ApiError> {
        let user = match (peer_certs.first(), bearer_token(headers)?) {
            (Some(leaf), _) => user_of_certificate(leaf)?,
            (None, Some(token)) => self.user_of_token(token, now_s)?,
            (None, None) => User { name: ANONYMOUS.to_owned(), groups: vec!["system:unauthenticated".to_owned()] },
        };
        impersonated(user, headers)
    }

    fn user_of_token(&self, token: &str, now_s: u64) -> Result<User, ApiError> {
        let claims = self.signing_key.verify(token, now_s)?;
        if !claims.audiences.iter().any(|audience| audience == token::ISSUER) {
            return Err(ApiError::unauthorized());
        }
        let (namespace, account) = (&claims.namespace, &claims.service_account);
        Ok(User {
            name: format!("system:serviceaccount:{namespace}:{account}"),
            groups: vec![
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{namespace}"),
                AUTHENTICATED.to_owned(),
            ],
        })
    }
}

/// The token of `Authorization: Bearer …`. 401 when the header is there but says something else.
fn bearer_token(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let Some(header) = headers.get(AUTHORIZATION) else { return Ok(None) };
    let text = header.to_str().map_err(|_| ApiError::unauthorized())?;
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(Some(token.trim())),
        _ => Err(ApiError::unauthorized()),
    }
}

/// CN is the name, each O a group.
fn user_of_certificate(leaf: &CertificateDer<'_>) -> Result<User, ApiError> {
    let (_, certificate) = X509Certificate::from_der(leaf).map_err(|_| ApiError::unauthorized())?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next().and_then(|cn| cn.as_str().ok()).unwrap_or_default();
    if name.is_empty() {
        return Err(ApiError::unauthorized());
    }
    let mut groups: Vec<String> =
        subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect();
    groups.push(AUTHENTICATED.to_owned());
    Ok(User { name: name.to_owned(), groups })
}

/// `kubectl --as`. Refused rather than ignored for others than masters: acting as oneself would be more than was asked for.
fn impersonated(user: User, headers: &HeaderMap) -> Result<User, ApiError> {
    let values = |name: &str| {
        headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).map(str::to_owned).collect::<Vec<_>>()
    };
    let Some(name) = values("impersonate-user").into_iter().next() else {
        let has_rest = ["impersonate-group", "impersonate-uid"].iter().any(|name| headers.contains_key(*name));
        let refusal = || ApiError::bad_request("requested groups or uid without impersonating a user");
        return if has_rest { Err(refusal()) } else { Ok(user) };
    };
    if !user.groups.iter().any(|group| group == MASTERS) {
        let why = format!(
            "User \"{}\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope",
            user.name
        );
        return Err(ApiError::forbidden("", "users", &name, &why));
    }
    let mut groups = values("impersonate-group");
    if name != ANONYMOUS && !groups.iter().any(|group| group == AUTHENTICATED) {
        groups.push(AUTHENTICATED.to_owned());
    }
    Ok(User { name, groups })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    use super::*;
    use crate::auth::token::TokenRequest;

    fn authenticator() -> Authenticator {
        let key = KeyPair::generate().unwrap().serialize_pem();
        Authenticator::new(Arc::new(SigningKey::from_pem(&key).unwrap()))
    }

    fn certificate(name: &str, group: &str) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn a_certificate_names_user_and_groups() {
        let admin = certificate("kubernetes-admin", MASTERS);
        let user = authenticator().authenticate(&HeaderMap::new(), &[admin], 0).unwrap();
        assert_eq!(user.name, "kubernetes-admin");
        assert_eq!(user.groups, [MASTERS, AUTHENTICATED]);
    }

    #[test]
    fn a_token_of_ours_names_its_service_account() {
        let authenticator = authenticator();
        let request = TokenRequest {
            namespace: "default".to_owned(),
            service_account: "robot".to_owned(),
            service_account_uid: "u".to_owned(),
            expiration_s: 600,
            ..TokenRequest::default()
        };
        let (token, _) = authenticator.signing_key.mint(&request, 1000, "id").unwrap();
        let bearer = headers(&[("authorization", &format!("Bearer {token}"))]);
        let user = authenticator.authenticate(&bearer, &[], 1001).unwrap();
        assert_eq!(user.name, "system:serviceaccount:default:robot");
        assert_eq!(user.groups, ["system:serviceaccounts", "system:serviceaccounts:default", AUTHENTICATED]);
        assert_eq!(authenticator.authenticate(&bearer, &[], 1601).unwrap_err().code, 401, "expired");
        let elsewhere = TokenRequest { audiences: vec!["vault".to_owned()], ..request };
        let (token, _) = authenticator.signing_key.mint(&elsewhere, 1000, "id").unwrap();
        let bearer = headers(&[("authorization", &format!("Bearer {token}"))]);
        assert_eq!(authenticator.authenticate(&bearer, &[], 1001).unwrap_err().code, 401, "for another audience");
    }

    #[test]
    fn no_credentials_are_anonymous_and_bad_ones_refused() {
        let authenticator = authenticator();
        assert_eq!(authenticator.authenticate(&HeaderMap::new(), &[], 0).unwrap().name, ANONYMOUS);
        for header in ["Bearer nonsense", "Bearer a.b.c", "Basic YTpi", "Bearer"] {
            let refused = authenticator.authenticate(&headers(&[("authorization", header)]), &[], 0);
            assert_eq!(refused.unwrap_err().code, 401, "{header}");
        }
    }

    #[test]
    fn only_masters_act_as_others() {
        let authenticator = authenticator();
        let wish = headers(&[("impersonate-user", "bob"), ("impersonate-group", "dev")]);
        let admin = certificate("kubernetes-admin", MASTERS);
        let user = authenticator.authenticate(&wish, &[admin], 0).unwrap();
        assert_eq!((user.name.as_str(), user.groups), ("bob", vec!["dev".to_owned(), AUTHENTICATED.to_owned()]));
        let node = certificate("system:node:a", NODES);
        assert_eq!(authenticator.authenticate(&wish, &[node], 0).unwrap_err().code, 403);
        assert_eq!(authenticator.authenticate(&wish, &[], 0).unwrap_err().code, 403);
    }
}
