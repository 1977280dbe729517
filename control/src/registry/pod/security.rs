//! Whether the security contexts of a pod and of its containers are well-formed.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::volumes::required;
use crate::registry::fields;
use crate::status::FieldError;

const SYSCTL_NAME_MAX: usize = 253;

/// A pod's `securityContext`.
pub(super) fn pod(context: &Value, path: &str, errors: &mut Vec<FieldError>) {
    ids(context, &["runAsUser", "runAsGroup", "fsGroup"], path, errors);
    let mut seen = HashSet::new();
    for (index, sysctl) in fields::items(context, "/sysctls").iter().enumerate() {
        let path = format!("{path}.sysctls[{index}]");
        required(sysctl, "name", &path, errors);
        let name = fields::text(sysctl, "/name");
        if name.is_empty() {
            continue;
        }
        if !is_sysctl_name(name) {
            let rule = r"^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            let detail = format!("must have at most {SYSCTL_NAME_MAX} characters and match regex {rule}");
            errors.push(FieldError::invalid(format!("{path}.name"), &json!(name), &detail));
        } else if !seen.insert(name) {
            errors.push(FieldError::duplicate(format!("{path}.name"), &json!(name)));
        }
    }
}

/// A container's `securityContext`.
pub(super) fn container(context: &Value, path: &str, errors: &mut Vec<FieldError>) {
    ids(context, &["runAsUser", "runAsGroup"], path, errors);
    if context["allowPrivilegeEscalation"] == false {
        let detail = "cannot set `allowPrivilegeEscalation` to false and ";
        if fields::flag(context, "/privileged") {
            errors.push(FieldError::invalid(path, context, &format!("{detail}`privileged` to true")));
        }
        if fields::items(context, "/capabilities/add").iter().any(|name| name == "CAP_SYS_ADMIN") {
            errors.push(FieldError::invalid(path, context, &format!("{detail}`capabilities.Add` CAP_SYS_ADMIN")));
        }
    }
}

/// User and group ids that Linux has.
fn ids(context: &Value, names: &[&str], path: &str, errors: &mut Vec<FieldError>) {
    for field in names {
        if let Some(id) = context.get(*field).and_then(Value::as_i64)
            && !(0..=i64::from(i32::MAX)).contains(&id)
        {
            let detail = "must be between 0 and 2147483647, inclusive";
            errors.push(FieldError::invalid(format!("{path}.{field}"), &json!(id), detail));
        }
    }
}

fn is_sysctl_name(name: &str) -> bool {
    let fine = |part: &str| {
        let inner = part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
        let ends = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        inner && part.starts_with(ends) && part.ends_with(ends)
    };
    name.len() <= SYSCTL_NAME_MAX && name.split(['.', '/']).all(fine)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::registry::pod::KIND;
    use crate::registry::testing::invalid;

    #[test]
    fn security_contexts_are_checked() {
        expect![[r#"
            spec.containers[0].securityContext.runAsGroup: Invalid value: -2: must be between 0 and 2147483647, inclusive
            spec.containers[0].securityContext: Invalid value: {"runAsGroup":-2,"privileged":true,"allowPrivilegeEscalation":false}: cannot set `allowPrivilegeEscalation` to false and `privileged` to true
            spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive
            spec.securityContext.sysctls[1].name: Duplicate value: "net.core.somaxconn"
            spec.securityContext.sysctls[2].name: Invalid value: "Net": must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$
            spec.securityContext.sysctls[3].name: Required value"#]].assert_eq(&invalid(
            &KIND,
            "{spec: {securityContext: {runAsUser: -1, sysctls: [{name: net.core.somaxconn}, {name: net.core.somaxconn},
              {name: Net}, {}]}, containers: [{name: a, image: b, securityContext: {runAsGroup: -2, privileged: true,
              allowPrivilegeEscalation: false}}]}}",
        ));
    }
}
