//! Security contexts resolved: who a container runs as and what it may do.
//!
//! The container's context wins over the pod's, field by field. Names of users and groups are numbers by the time they
//! arrive here, looked up in the image by the caller ([`ImageUser`]).

use k8s_openapi::api::core::v1::{Container, PodSecurityContext, PodSpec, SecurityContext};

use crate::runtime::plan::{CapabilitySet, Seccomp, UserPlan};

/// The image's `USER`, looked up in the image's own files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageUser {
    pub uid: u32,
    pub gid: u32,
    /// Groups that /etc/group puts the user in.
    pub groups: Vec<u32>,
    pub home: Option<String>,
    /// The name, where the image gives no number: `runAsNonRoot` cannot trust it.
    pub name: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Privileges {
    pub user: UserPlan,
    pub capabilities: CapabilitySet,
    pub seccomp: Seccomp,
    pub privileged: bool,
    pub no_new_privileges: bool,
    pub read_only_root: bool,
    pub is_proc_unmasked: bool,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SecurityError {
    #[error("container has runAsNonRoot and image has non-numeric user ({0}), cannot verify user is non-root")]
    NonNumericUser(String),
    #[error("container has runAsNonRoot and image will run as root")]
    Root,
    #[error("container's runAsUser breaks non-root policy")]
    RootAsked,
    #[error("{0} is not a user or group id")]
    Id(i64),
    #[error("unknown capability {0:?}")]
    Capability(String),
    #[error("seccomp profile {0} is not supported on this node")]
    Seccomp(String),
}

/// The uid that the pod asks for; the caller looks that uid up in the image before [`resolve`].
pub fn asked_uid(spec: &PodSpec, container: &Container) -> Option<i64> {
    let own = container.security_context.as_ref().and_then(|context| context.run_as_user);
    own.or_else(|| spec.security_context.as_ref().and_then(|context| context.run_as_user))
}

/// `image_user` is the user of the image, or the entry of [`asked_uid`] in the image's files where the pod asks for one.
pub fn resolve(spec: &PodSpec, container: &Container, image_user: &ImageUser) -> Result<Privileges, SecurityError> {
    let (pod_default, own_default) = (PodSecurityContext::default(), SecurityContext::default());
    let pod = spec.security_context.as_ref().unwrap_or(&pod_default);
    let own = container.security_context.as_ref().unwrap_or(&own_default);
    let user = user(pod, own, image_user)?;
    let is_non_root = own.run_as_non_root.or(pod.run_as_non_root) == Some(true);
    if is_non_root && user.uid == 0 {
        return Err(if own.run_as_user.or(pod.run_as_user).is_some() {
            SecurityError::RootAsked
        } else {
            SecurityError::Root
        });
    }
    if let (true, None, Some(name)) = (is_non_root, own.run_as_user.or(pod.run_as_user), &image_user.name) {
        return Err(SecurityError::NonNumericUser(name.clone()));
    }
    let privileged = own.privileged == Some(true);
    let capabilities = if privileged { CapabilitySet::all() } else { capabilities(own)? };
    let profile = own.seccomp_profile.as_ref().or(pod.seccomp_profile.as_ref());
    let seccomp = match profile.map(|profile| profile.type_.as_str()) {
        _ if privileged => Seccomp::Unconfined,
        None | Some("RuntimeDefault") => Seccomp::RuntimeDefault,
        Some("Unconfined") => Seccomp::Unconfined,
        Some(other) => return Err(SecurityError::Seccomp(other.to_owned())),
    };
    Ok(Privileges {
        user,
        no_new_privileges: own.allow_privilege_escalation == Some(false)
            && !privileged
            && !capabilities.contains("SYS_ADMIN"),
        capabilities,
        seccomp,
        privileged,
        read_only_root: own.read_only_root_filesystem == Some(true),
        is_proc_unmasked: own.proc_mount.as_deref() == Some("Unmasked"),
    })
}

fn user(pod: &PodSecurityContext, own: &SecurityContext, image: &ImageUser) -> Result<UserPlan, SecurityError> {
    let id = |number: i64| u32::try_from(number).map_err(|_| SecurityError::Id(number));
    let uid = own.run_as_user.or(pod.run_as_user).map_or(Ok(image.uid), id)?;
    let gid = own.run_as_group.or(pod.run_as_group).map_or(Ok(image.gid), id)?;
    let mut groups =
        if pod.supplemental_groups_policy.as_deref() == Some("Strict") { Vec::new() } else { image.groups.clone() };
    for group in pod.supplemental_groups.iter().flatten().chain(&pod.fs_group) {
        groups.push(id(*group)?);
    }
    groups.sort_unstable();
    groups.dedup();
    Ok(UserPlan { uid, gid, groups })
}

fn capabilities(own: &SecurityContext) -> Result<CapabilitySet, SecurityError> {
    let Some(wanted) = &own.capabilities else { return Ok(CapabilitySet::default()) };
    let (add, drop) = (wanted.add.as_deref().unwrap_or_default(), wanted.drop.as_deref().unwrap_or_default());
    CapabilitySet::default().adjusted(add, drop).map_err(|error| SecurityError::Capability(error.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(pod: serde_json::Value, own: serde_json::Value, image: ImageUser) -> Result<Privileges, SecurityError> {
        let container: Container = serde_json::from_value(json!({"name": "c", "securityContext": own})).unwrap();
        let spec: PodSpec = serde_json::from_value(json!({"containers": [], "securityContext": pod})).unwrap();
        resolve(&spec, &container, &image)
    }

    #[test]
    fn the_container_wins_over_the_pod_and_the_pod_over_the_image() {
        let image = ImageUser { uid: 7, gid: 8, groups: vec![9], ..ImageUser::default() };
        let plain = check(json!({}), json!({}), image.clone()).unwrap();
        assert_eq!(plain.user, UserPlan { uid: 7, gid: 8, groups: vec![9] });
        let asked = check(
            json!({"runAsUser": 1, "runAsGroup": 2, "fsGroup": 3, "supplementalGroups": [4, 3]}),
            json!({"runAsUser": 5}),
            image,
        )
        .unwrap();
        assert_eq!(asked.user, UserPlan { uid: 5, gid: 2, groups: vec![3, 4, 9] });
    }

    #[test]
    fn non_root_is_verified() {
        let named = ImageUser { uid: 7, name: Some("app".into()), ..ImageUser::default() };
        assert_eq!(
            check(json!({"runAsNonRoot": true}), json!({}), named.clone()),
            Err(SecurityError::NonNumericUser("app".into()))
        );
        assert_eq!(check(json!({"runAsNonRoot": true}), json!({}), ImageUser::default()), Err(SecurityError::Root));
        assert_eq!(
            check(json!({}), json!({"runAsNonRoot": true, "runAsUser": 0}), named),
            Err(SecurityError::RootAsked)
        );
    }

    #[test]
    fn privileges() {
        let plain = check(
            json!({}),
            json!({"capabilities": {"drop": ["ALL"], "add": ["CHOWN"]}, "allowPrivilegeEscalation": false}),
            ImageUser::default(),
        )
        .unwrap();
        assert!(
            plain.no_new_privileges && plain.capabilities.contains("CHOWN") && !plain.capabilities.contains("KILL")
        );
        let privileged =
            check(json!({}), json!({"privileged": true, "allowPrivilegeEscalation": false}), ImageUser::default())
                .unwrap();
        assert!(
            privileged.privileged && !privileged.no_new_privileges && privileged.capabilities == CapabilitySet::all()
        );
        assert_eq!(privileged.seccomp, Seccomp::Unconfined);
        let localhost = json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "x.json"}});
        assert_eq!(check(localhost, json!({}), ImageUser::default()), Err(SecurityError::Seccomp("Localhost".into())));
    }
}
