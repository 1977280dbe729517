//! In which form an answer is wanted, and in which one a body comes.

use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE};

use crate::engine::table::Include;
use crate::schema::openapi;
use crate::status::ApiError;

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Json,
    Yaml,
    /// `v1` or `v1beta1`, and how much of the object each row carries.
    Table(&'static str, Include),
    Partial(&'static str),
}

/// The encoding of a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Json,
    Yaml,
    Protobuf,
}

/// The first clause of `Accept` that can be served.
///
/// # Errors
/// 406 when there is none.
pub fn form(headers: &HeaderMap, include: Include) -> Result<Form, ApiError> {
    let accept = headers.get(ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("*/*");
    for clause in accept.split(',') {
        let mut parts = clause.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let parameter =
            |name: &str| clause.split(';').skip(1).map(str::trim).find_map(|p| p.strip_prefix(name)?.strip_prefix('='));
        let yaml = media == "application/yaml";
        if !yaml && !matches!(media, "" | "*/*" | "application/*" | "application/json") {
            continue;
        }
        let version = match parameter("v") {
            None | Some("v1") => "v1",
            Some("v1beta1") => "v1beta1",
            Some(_) => continue,
        };
        match parameter("as") {
            None if yaml => return Ok(Form::Yaml),
            None => return Ok(Form::Json),
            Some("Table") => return Ok(Form::Table(version, include)),
            Some("PartialObjectMetadata" | "PartialObjectMetadataList") => return Ok(Form::Partial(version)),
            Some(_) => {}
        }
    }
    let why = "only the following media types are accepted: application/json, application/yaml";
    Err(ApiError::new(406, "NotAcceptable", why))
}

/// Which version of aggregated discovery is wanted, if any before plain JSON.
#[must_use]
pub fn aggregated(headers: &HeaderMap) -> Option<&'static str> {
    let accept = headers.get(ACCEPT)?.to_str().ok()?;
    for clause in accept.split(',') {
        let parameters: Vec<&str> = clause.split(';').map(str::trim).collect();
        if !parameters.contains(&"as=APIGroupDiscoveryList") {
            if matches!(parameters.first(), Some(&"application/json")) {
                return None;
            }
            continue;
        }
        if parameters.contains(&"v=v2") {
            return Some("v2");
        }
        if parameters.contains(&"v=v2beta1") {
            return Some("v2beta1");
        }
    }
    None
}

/// The form in which the OpenAPI v2 document is wanted. kubectl asks for protobuf alone, under the name that kube-apiserver gave
/// it first (before 1.10: after gnostic) or under the one that it gives now.
///
/// # Errors
/// 406 when it cannot be served so.
pub fn openapi_v2(headers: &HeaderMap) -> Result<openapi::Encoding, ApiError> {
    let accept = headers.get(ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("*/*");
    for clause in accept.split(',') {
        match clause.split(';').next().unwrap_or_default().trim() {
            "" | "*/*" | "application/*" | "application/json" => return Ok(openapi::Encoding::Json),
            "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
            | "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
            | "application/com.github.googleapis.gnostic.OpenAPIv2@68f4ded+protobuf" => {
                return Ok(openapi::Encoding::Protobuf);
            }
            _ => {}
        }
    }
    let why = "only the following media types are accepted: application/json, \
               application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
    Err(ApiError::new(406, "NotAcceptable", why))
}

/// The media type of a body without its parameters.
#[must_use]
pub fn media_type(headers: &HeaderMap) -> &str {
    let value = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim()
}

/// # Errors
/// 415 for an unknown one.
pub fn encoding(headers: &HeaderMap) -> Result<Encoding, ApiError> {
    match media_type(headers) {
        "" | "application/json" => Ok(Encoding::Json),
        "application/yaml" | "text/yaml" => Ok(Encoding::Yaml),
        "application/vnd.kubernetes.protobuf" => Ok(Encoding::Protobuf),
        _ => Err(ApiError::unsupported_media_type(
            "the body of the request was in an unknown format - accepted media types include: application/json, \
             application/yaml, application/vnd.kubernetes.protobuf",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(text: &str) -> HeaderMap {
        HeaderMap::from_iter([(ACCEPT, text.parse().unwrap())])
    }

    #[test]
    fn what_kubectl_asks_for() {
        let form = |text: &str| form(&accept(text), Include::Metadata).map_err(|e| e.code);
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,\
                     application/json";
        assert_eq!(form(table), Ok(Form::Table("v1", Include::Metadata)));
        assert_eq!(form("application/vnd.kubernetes.protobuf,application/json"), Ok(Form::Json));
        assert_eq!(form("application/json, */*"), Ok(Form::Json));
        assert_eq!(form("application/cbor"), Err(406));
        let discovery = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
        assert_eq!(aggregated(&accept(discovery)), Some("v2"));
        assert_eq!(aggregated(&accept("application/json")), None);
        let openapi = |text: &str| openapi_v2(&accept(text)).map_err(|e| e.code);
        let protobuf = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
        assert_eq!(openapi(protobuf), Ok(openapi::Encoding::Protobuf));
        assert_eq!(openapi("application/json, */*"), Ok(openapi::Encoding::Json));
        assert_eq!(openapi("text/html"), Err(406));
    }
}
