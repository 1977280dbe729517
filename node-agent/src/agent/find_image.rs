//! The image for one start of a container, as its pull policy says.
//!
//! `Always` asks the registry. An image that was imported has no registry that could know better, so it is used when the
//! registry does not answer within [`IMPORTED_PATIENCE`]; see [`crate::image`].

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::jiff::Timestamp;

use super::context::Context;
use crate::image::{Credential, Image, Origin, PullError};
use crate::pod::credentials;
use crate::pod::machine::{ImageRef, Note};

/// How long a registry may take to answer for an image that is here already and was imported.
const IMPORTED_PATIENCE: Duration = Duration::from_secs(1);

/// Why there is no image: a waiting reason and its message.
#[derive(Debug, PartialEq, Eq)]
pub struct NoImage {
    pub reason: &'static str,
    pub message: String,
}

/// What to do for a policy, given what is here.
#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Use,
    Pull,
    Refuse,
}

fn decide(policy: &str, is_present: bool) -> Decision {
    match (policy, is_present) {
        ("Always", _) | (_, false) if policy != "Never" => Decision::Pull,
        (_, true) => Decision::Use,
        (_, false) => Decision::Refuse,
    }
}

/// The policy of a container that names none: `Always` for `:latest` and for no tag at all.
fn policy(container: &Container) -> &str {
    let image = container.image.as_deref().unwrap_or_default();
    let last = image.rsplit('/').next().unwrap_or(image);
    let is_latest = !last.contains('@') && last.rsplit_once(':').is_none_or(|(_, tag)| tag == "latest");
    let default = if is_latest { "Always" } else { "IfNotPresent" };
    container.image_pull_policy.as_deref().filter(|policy| !policy.is_empty()).unwrap_or(default)
}

/// Finds or pulls the image; tells the pod's story on the way.
pub async fn find(
    context: &Arc<Context>,
    pod: &Pod,
    container: &Container,
    field_path: Option<String>,
) -> Result<Image, NoImage> {
    let name = container.image.clone().unwrap_or_default();
    let tell = |is_warning, reason, message| {
        context.api.record(pod, Note { is_warning, reason, message, field_path: field_path.clone() })
    };
    if let Err(error) = context.images.check(&name) {
        let message = format!("Failed to apply default image tag \"{name}\": {error}");
        tell(true, "InspectFailed", message.clone());
        return Err(NoImage { reason: "InvalidImageName", message });
    }
    let present = context.images.resolve(&name).await;
    match (decide(policy(container), present.is_some()), present) {
        (Decision::Use, Some(image)) => {
            tell(false, "Pulled", format!("Container image \"{name}\" already present on machine"));
            Ok(image)
        }
        (Decision::Use | Decision::Refuse, _) => {
            let message = format!("Container image \"{name}\" is not present with pull policy of Never");
            tell(true, "ErrImageNeverPull", message.clone());
            Err(NoImage { reason: "ErrImageNeverPull", message })
        }
        (Decision::Pull, present) => {
            tell(false, "Pulling", format!("Pulling image \"{name}\""));
            let begun = Timestamp::now();
            match pull(context, pod, &name, present).await {
                Ok((image, true)) => {
                    let took = short(Timestamp::now().duration_since(begun).as_secs_f64());
                    let size = image.size_bytes;
                    tell(
                        false,
                        "Pulled",
                        format!(
                            "Successfully pulled image \"{name}\" in {took} ({took} including waiting). Image size: {size} bytes."
                        ),
                    );
                    Ok(image)
                }
                Ok((image, false)) => {
                    tell(false, "Pulled", format!("Container image \"{name}\" already present on machine"));
                    Ok(image)
                }
                Err(error) => {
                    let message = format!("failed to pull image \"{name}\": {error}");
                    tell(true, "Failed", format!("Failed to pull image \"{name}\": {error}"));
                    Err(NoImage { reason: "ErrImagePull", message })
                }
            }
        }
    }
}

/// The image and whether the registry was heard.
async fn pull(
    context: &Arc<Context>,
    pod: &Pod,
    name: &str,
    present: Option<Image>,
) -> Result<(Image, bool), PullError> {
    let imported = present.filter(|image| image.origin == Origin::Imported);
    let credentials = pull_credentials(context, pod).await;
    let pulling = context.images.pull(name, &credentials);
    match imported {
        None => pulling.await.map(|image| (image, true)),
        Some(imported) => match tokio::time::timeout(IMPORTED_PATIENCE, pulling).await {
            Ok(Ok(image)) => Ok((image, true)),
            Err(_) | Ok(Err(PullError::Unreachable(_))) => Ok((imported, false)),
            Ok(Err(error)) => Err(error),
        },
    }
}

async fn pull_credentials(context: &Arc<Context>, pod: &Pod) -> Vec<Credential> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut found = Vec::new();
    for reference in pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten()) {
        match context.api.secret(namespace, &reference.name).await {
            Ok(Some(secret)) => found.extend(credentials::of(&secret)),
            Ok(None) | Err(_) => {
                let message = format!(
                    "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                    reference.name
                );
                context.api.record(
                    pod,
                    Note { is_warning: true, reason: "FailedToRetrieveImagePullSecret", message, field_path: None },
                );
            }
        }
    }
    found
}

/// The image as the status shows it.
pub fn image_ref(container: &Container, image: &Image) -> ImageRef {
    let name = image.repo_tags.first().cloned().or_else(|| container.image.clone()).unwrap_or_default();
    ImageRef { name, id: image.repo_digests.first().cloned().unwrap_or_else(|| image.id.clone()) }
}

fn short(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.0}ms", seconds * 1000.0) } else { format!("{seconds:.3}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_policies() {
        let cases = [
            ("Always", true, Decision::Pull),
            ("Always", false, Decision::Pull),
            ("IfNotPresent", true, Decision::Use),
            ("IfNotPresent", false, Decision::Pull),
            ("Never", true, Decision::Use),
            ("Never", false, Decision::Refuse),
        ];
        for (policy, is_present, expected) in cases {
            assert_eq!(decide(policy, is_present), expected, "{policy} {is_present}");
        }
    }

    #[test]
    fn the_default_policy_depends_on_the_tag() {
        let of = |image: &str| policy(&Container { image: Some(image.to_owned()), ..Container::default() }).to_owned();
        assert_eq!(of("debian"), "Always");
        assert_eq!(of("localhost:5000/debian"), "Always");
        assert_eq!(of("debian:latest"), "Always");
        assert_eq!(of("debian:12"), "IfNotPresent");
        assert_eq!(of("debian@sha256:0123"), "IfNotPresent");
    }
}
