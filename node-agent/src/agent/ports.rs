//! What the agent needs of the world, as traits, so that pods are tested without a kernel, a registry or a cluster.

use std::path::PathBuf;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use crate::runtime::plan::{ContainerKey, ContainerPlan, Sandbox, SandboxPlan, Started};
use crate::runtime::{Runtime, RuntimeError, StartError, User};

/// The runtime of one node; [`Runtime`] is the real one.
#[async_trait]
pub trait Containers: Send + Sync {
    async fn create_sandbox(&self, plan: SandboxPlan) -> Result<Sandbox, RuntimeError>;
    async fn start(&self, pod_uid: &str, plan: ContainerPlan) -> Result<Started, StartError>;
    /// The stop signal now, SIGKILL after `grace`. Returns at once; the end comes as an event.
    async fn stop(&self, pod_uid: &str, container: &str, grace: std::time::Duration) -> Result<(), RuntimeError>;
    async fn remove_container(&self, container: &ContainerKey) -> Result<(), RuntimeError>;
    async fn remove_sandbox(&self, pod_uid: &str) -> Result<(), RuntimeError>;
    async fn ack(&self, container: &ContainerKey) -> Result<(), RuntimeError>;
    /// Resolves `spec` (an image's `USER`, or a number) by the files of an image. Reads the disk.
    fn user(&self, layers: &[PathBuf], spec: &str) -> Result<User, String>;
}

#[async_trait]
impl Containers for Runtime {
    async fn create_sandbox(&self, plan: SandboxPlan) -> Result<Sandbox, RuntimeError> {
        Self::create_sandbox(self, plan).await
    }

    async fn start(&self, pod_uid: &str, plan: ContainerPlan) -> Result<Started, StartError> {
        self.start_container(pod_uid, plan).await
    }

    async fn stop(&self, pod_uid: &str, container: &str, grace: std::time::Duration) -> Result<(), RuntimeError> {
        Self::stop(self, pod_uid, container, grace).await
    }

    async fn remove_container(&self, container: &ContainerKey) -> Result<(), RuntimeError> {
        Self::remove_container(self, container).await
    }

    async fn remove_sandbox(&self, pod_uid: &str) -> Result<(), RuntimeError> {
        Self::remove_sandbox(self, pod_uid).await
    }

    async fn ack(&self, container: &ContainerKey) -> Result<(), RuntimeError> {
        Self::ack(self, container).await
    }

    fn user(&self, layers: &[PathBuf], spec: &str) -> Result<User, String> {
        crate::runtime::lookup_user(layers, spec).map_err(|error| error.to_string())
    }
}

/// What a call to the API came to, as far as a pod's worker cares.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiFailure {
    /// The object does not exist, or another one has its name.
    #[error("{0}")]
    Gone(String),
    /// The server understood and said no; asking again changes nothing.
    #[error("{0}")]
    Refused(String),
    /// Nobody answered, or not now: try again.
    #[error("{0}")]
    Unavailable(String),
}

/// The API as a pod's worker sees it.
#[async_trait]
pub trait PodApi: Send + Sync {
    async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<ConfigMap>, ApiFailure>;
    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Secret>, ApiFailure>;
    /// A token for the pod's service account, bound to the pod; with its expiry.
    async fn token(
        &self,
        pod: &Pod,
        audience: Option<&str>,
        expiration_s: i64,
    ) -> Result<(String, Option<Timestamp>), ApiFailure>;
    /// Merges `status` into the pod's, if the pod of that name still has this uid.
    async fn patch_status(&self, namespace: &str, name: &str, uid: &str, status: &Value) -> Result<(), ApiFailure>;
    /// Removes the object at once, if the pod of that name still has this uid.
    async fn delete(&self, namespace: &str, name: &str, uid: &str) -> Result<(), ApiFailure>;
    /// All Services of the cluster, once they have been read; waits for that.
    async fn services(&self) -> Vec<std::sync::Arc<Service>>;
    /// Tells a user what happened to a pod. Never waits, never fails.
    fn record(&self, pod: &Pod, note: crate::pod::machine::Note);
}
