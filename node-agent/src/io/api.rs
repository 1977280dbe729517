//! The API as a pod's worker sees it, over a `kube` client.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::reflector::Store;
use kube::{Api, Client};
use serde_json::Value;

use super::recorder::Recorder;
use crate::agent::ports::{ApiFailure, PodApi};
use crate::pod::machine::Note;
use crate::pod::status::patch_body;

pub struct KubeApi {
    client: Client,
    services: Store<Service>,
    recorder: Recorder,
}

impl KubeApi {
    pub fn new(client: Client, services: Store<Service>, recorder: Recorder) -> Self {
        Self { client, services, recorder }
    }

    /// Whether the pod of that name is another one, or none.
    async fn is_gone(&self, namespace: &str, name: &str, uid: &str) -> Result<bool, ApiFailure> {
        let found = Api::<Pod>::namespaced(self.client.clone(), namespace).get_opt(name).await.map_err(failure)?;
        Ok(found.is_none_or(|pod| pod.metadata.uid.as_deref() != Some(uid)))
    }

    /// A conflict means "another pod" only if it is another pod.
    async fn settle(&self, namespace: &str, name: &str, uid: &str, error: kube::Error) -> ApiFailure {
        let is_conflict = matches!(&error, kube::Error::Api(status) if status.code == 409);
        match (is_conflict, failure(error)) {
            (false, failure) => failure,
            (true, failure) => match self.is_gone(namespace, name, uid).await {
                Ok(true) => ApiFailure::Gone(failure.to_string()),
                Ok(false) => ApiFailure::Unavailable(failure.to_string()),
                Err(failure) => failure,
            },
        }
    }
}

#[async_trait]
impl PodApi for KubeApi {
    async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<ConfigMap>, ApiFailure> {
        Api::namespaced(self.client.clone(), namespace).get_opt(name).await.map_err(failure)
    }

    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Secret>, ApiFailure> {
        Api::namespaced(self.client.clone(), namespace).get_opt(name).await.map_err(failure)
    }

    async fn token(
        &self,
        pod: &Pod,
        audience: Option<&str>,
        expiration_s: i64,
    ) -> Result<(String, Option<Timestamp>), ApiFailure> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let account = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.service_account_name.as_deref())
            .filter(|name| !name.is_empty())
            .unwrap_or("default");
        let bound = BoundObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
        };
        let spec = TokenRequestSpec {
            audiences: audience.map(str::to_owned).into_iter().collect(),
            bound_object_ref: Some(bound),
            expiration_seconds: Some(expiration_s),
        };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let accounts = Api::<ServiceAccount>::namespaced(self.client.clone(), namespace);
        let answer: TokenRequest =
            accounts.create_subresource("token", account, &PostParams::default(), &request).await.map_err(failure)?;
        let status = answer.status.ok_or_else(|| ApiFailure::Refused("the API gave no token".to_owned()))?;
        Ok((status.token, Some(status.expiration_timestamp.0)))
    }

    async fn patch_status(&self, namespace: &str, name: &str, uid: &str, status: &Value) -> Result<(), ApiFailure> {
        let pods = Api::<Pod>::namespaced(self.client.clone(), namespace);
        let body = Patch::Merge(patch_body(uid, status));
        match pods.patch_status(name, &PatchParams::default(), &body).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.settle(namespace, name, uid, error).await),
        }
    }

    async fn delete(&self, namespace: &str, name: &str, uid: &str) -> Result<(), ApiFailure> {
        let pods = Api::<Pod>::namespaced(self.client.clone(), namespace);
        let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(preconditions),
            ..DeleteParams::default()
        };
        match pods.delete(name, &params).await {
            Ok(_) => Ok(()),
            Err(error) => match self.settle(namespace, name, uid, error).await {
                ApiFailure::Gone(_) => Ok(()),
                failure => Err(failure),
            },
        }
    }

    async fn services(&self) -> Vec<Arc<Service>> {
        // Without its writer nothing is read any more and the agent is ending: what is known must do.
        let _ = self.services.wait_until_ready().await;
        self.services.state()
    }

    fn record(&self, pod: &Pod, note: Note) {
        self.recorder.record(pod, note);
    }
}

/// What an error of the client means for a caller.
pub fn failure(error: kube::Error) -> ApiFailure {
    match error {
        kube::Error::Api(status) => match status.code {
            404 | 410 => ApiFailure::Gone(status.message.clone()),
            400 | 403 | 405 | 413 | 415 | 422 => ApiFailure::Refused(status.message.clone()),
            _ => ApiFailure::Unavailable(status.message.clone()),
        },
        other => ApiFailure::Unavailable(other.to_string()),
    }
}
