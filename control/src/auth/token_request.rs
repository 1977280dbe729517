//! The `token` subresource of ServiceAccounts: a TokenRequest in, the same with a token out.

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::token::{BoundObject, ISSUER, SigningKey, TokenRequest};
use crate::limits;
use crate::status::{ApiError, FieldError};

/// The ServiceAccount a token is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
    pub uid: &'a str,
}

/// Answers a TokenRequest. `bound_uid` is the uid of the object that `spec.boundObjectRef` names, as the caller found it; `id` a
/// fresh UUID. 422 when the expiry or the reference is not allowed.
pub fn respond(
    key: &SigningKey,
    body: &Value,
    subject: Subject<'_>,
    bound_uid: Option<&str>,
    now_s: u64,
    id: &str,
) -> Result<Value, ApiError> {
    let spec = &body["spec"];
    let expiration_s = spec["expirationSeconds"].as_u64().unwrap_or(limits::TOKEN_EXPIRATION_S_DEFAULT);
    let mut errors = Vec::new();
    if spec["expirationSeconds"].is_number() && expiration_s < limits::TOKEN_EXPIRATION_S_MIN
        || spec["expirationSeconds"].as_i64().is_some_and(|s| s < 0)
    {
        let detail = "may not specify a duration less than 10 minutes";
        errors.push(FieldError::invalid("spec.expirationSeconds", &spec["expirationSeconds"], detail));
    }
    let bound = bound_object(&spec["boundObjectRef"], bound_uid, &mut errors);
    if !errors.is_empty() {
        return Err(ApiError::invalid("authentication.k8s.io", "TokenRequest", subject.name, &errors));
    }
    let audiences: Vec<String> = match spec["audiences"].as_array() {
        Some(list) if !list.is_empty() => list.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => vec![ISSUER.to_owned()],
    };
    let request = TokenRequest {
        namespace: subject.namespace.to_owned(),
        service_account: subject.name.to_owned(),
        service_account_uid: subject.uid.to_owned(),
        audiences: audiences.clone(),
        expiration_s,
        bound,
    };
    let (token, expires_s) = key.mint(&request, now_s, id)?;
    let rfc3339 = |unix_s: u64| {
        let time = i64::try_from(unix_s).ok().and_then(|s| Timestamp::from_second(s).ok());
        time.map(|t| format!("{t:.0}")).ok_or_else(|| ApiError::internal("the clock is beyond the year 9999"))
    };
    let mut spec = json!({"audiences": audiences, "expirationSeconds": expires_s - now_s});
    spec["boundObjectRef"] = body["spec"]["boundObjectRef"].clone();
    Ok(json!({
        "kind": "TokenRequest",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": {"name": subject.name, "namespace": subject.namespace, "creationTimestamp": rfc3339(now_s)?},
        "spec": spec,
        "status": {"token": token, "expirationTimestamp": rfc3339(expires_s)?},
    }))
}

fn bound_object(reference: &Value, uid: Option<&str>, errors: &mut Vec<FieldError>) -> Option<BoundObject> {
    let kind = reference["kind"].as_str()?;
    if !["Pod", "Secret", "Node"].contains(&kind) {
        errors.push(FieldError::not_supported("spec.boundObjectRef.kind", kind, &["Node", "Pod", "Secret"]));
        return None;
    }
    let name = reference["name"].as_str().unwrap_or_default();
    let Some(uid) = uid else {
        errors.push(FieldError::not_found("spec.boundObjectRef.name", &name.into()));
        return None;
    };
    if reference["uid"].as_str().is_some_and(|wanted| !wanted.is_empty() && wanted != uid) {
        errors.push(FieldError::invalid("spec.boundObjectRef.uid", &reference["uid"], "does not match the object"));
        return None;
    }
    Some(BoundObject { kind: kind.to_lowercase(), name: name.to_owned(), uid: uid.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROBOT: Subject<'static> = Subject { namespace: "team", name: "robot", uid: "u" };

    fn answer(spec: &Value, bound_uid: Option<&str>) -> Result<Value, ApiError> {
        let key = SigningKey::from_pem(&rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
        respond(&key, &json!({"spec": spec}), ROBOT, bound_uid, 1_767_225_600, "id")
    }

    #[test]
    fn a_request_without_wishes_gets_an_hour() {
        let answer = answer(&json!({}), None).unwrap();
        assert_eq!(answer["spec"]["expirationSeconds"], json!(3600));
        assert_eq!(answer["spec"]["audiences"], json!([ISSUER]));
        assert_eq!(answer["status"]["expirationTimestamp"], json!("2026-01-01T01:00:00Z"));
        assert_eq!(answer["status"]["token"].as_str().unwrap().split('.').count(), 3);
    }

    #[test]
    fn short_lives_and_strange_references_are_refused() {
        assert_eq!(answer(&json!({"expirationSeconds": 599}), None).unwrap_err().code, 422);
        assert_eq!(answer(&json!({"expirationSeconds": -1}), None).unwrap_err().code, 422);
        let node = json!({"boundObjectRef": {"kind": "Service", "name": "s"}});
        assert_eq!(answer(&node, Some("x")).unwrap_err().code, 422);
        let pod = json!({"boundObjectRef": {"kind": "Pod", "name": "p", "uid": "1"}});
        assert_eq!(answer(&pod, None).unwrap_err().code, 422);
        assert_eq!(answer(&pod, Some("2")).unwrap_err().code, 422);
        assert!(answer(&pod, Some("1")).is_ok());
    }
}
