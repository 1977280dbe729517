//! `imagePullSecrets`: Docker configurations as credentials.

use base64::Engine as _;
use k8s_openapi::api::core::v1::Secret;
use serde_json::Value;

use crate::image::Credential;

/// The credentials in a Secret of type `kubernetes.io/dockerconfigjson` or the older `kubernetes.io/dockercfg`; what is
/// not understood is left out, as one bad entry must not spoil the others.
pub fn of(secret: &Secret) -> Vec<Credential> {
    let parse = |key: &str| -> Option<Value> { serde_json::from_slice(&secret.data.as_ref()?.get(key)?.0).ok() };
    let registries = match parse(".dockerconfigjson") {
        Some(config) => config.get("auths").cloned(),
        None => parse(".dockercfg"),
    };
    let Some(Value::Object(registries)) = registries else { return Vec::new() };
    registries.iter().filter_map(|(registry, entry)| credential(registry, entry)).collect()
}

fn credential(registry: &str, entry: &Value) -> Option<Credential> {
    let field = |name: &str| entry.get(name).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned);
    let registry =
        registry.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/').to_owned();
    if let (Some(username), Some(password)) = (field("username"), field("password")) {
        return Some(Credential { registry, username, password });
    }
    let auth = base64::engine::general_purpose::STANDARD.decode(field("auth")?).ok()?;
    let (username, password) = std::str::from_utf8(&auth).ok()?.split_once(':')?;
    Some(Credential { registry, username: username.to_owned(), password: password.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_docker_configuration() {
        let secret = |key: &str, json: &str| -> Secret {
            let data =
                std::collections::BTreeMap::from([(key.to_owned(), k8s_openapi::ByteString(json.as_bytes().to_vec()))]);
            Secret { data: Some(data), ..Secret::default() }
        };
        let new = secret(
            ".dockerconfigjson",
            r#"{"auths": {"https://r.example/": {"auth": "dTpwOnE="}, "bad": {"auth": "?"}}}"#,
        );
        let old = secret(".dockercfg", r#"{"r.example": {"username": "u", "password": "p:q"}}"#);
        let expected = [Credential { registry: "r.example".into(), username: "u".into(), password: "p:q".into() }];
        assert_eq!(of(&new), expected);
        assert_eq!(of(&old), expected);
        assert_eq!(of(&Secret::default()), []);
    }
}
