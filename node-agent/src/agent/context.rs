//! What all pods of the node share.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use parking_lot::RwLock;
use tokio::sync::watch;

use super::ports::{Containers, PodApi};
use crate::image::Images;
use crate::io::files::Files;
use crate::pod::fields::{Allocatable, Facts};
use crate::pod::hostname::NodeNames;

pub struct Context {
    pub api: Arc<dyn PodApi>,
    pub images: Arc<dyn Images>,
    pub containers: Arc<dyn Containers>,
    pub files: Files,
    pub names: NodeNames,
    pub host_ips: Vec<String>,
    pub allocatable: Allocatable,
    pub board: Arc<Board>,
}

impl Context {
    /// What a pod may know of its node and itself.
    pub fn facts(&self, pod_ips: &[String]) -> Facts {
        Facts { host_ips: self.host_ips.clone(), pod_ips: pod_ips.to_vec(), allocatable: self.allocatable }
    }
}

/// The pods of this node as their workers see them now: what the log server reads.
#[derive(Debug, Default)]
pub struct Board {
    /// By namespace and name; a newer pod of the same name takes the older one's place.
    pods: RwLock<HashMap<(String, String), Entry>>,
}

#[derive(Debug, Clone)]
struct Entry {
    pod: Arc<Pod>,
    status: watch::Receiver<PodStatus>,
}

impl Board {
    /// Shows a pod; the sender is for its worker.
    pub fn show(&self, pod: Arc<Pod>) -> watch::Sender<PodStatus> {
        let (sender, status) = watch::channel(pod.status.clone().unwrap_or_default());
        self.pods.write().insert(key(&pod), Entry { pod, status });
        sender
    }

    /// Takes a pod away, unless another one has its place.
    pub fn remove(&self, pod: &Pod) {
        let mut pods = self.pods.write();
        if pods.get(&key(pod)).is_some_and(|entry| entry.pod.metadata.uid == pod.metadata.uid) {
            pods.remove(&key(pod));
        }
    }

    pub fn find(&self, namespace: &str, name: &str) -> Option<(Arc<Pod>, watch::Receiver<PodStatus>)> {
        let pods = self.pods.read();
        pods.get(&(namespace.to_owned(), name.to_owned())).map(|entry| (entry.pod.clone(), entry.status.clone()))
    }

    /// Every pod with its current status.
    pub fn all(&self) -> Vec<Pod> {
        let pods = self.pods.read();
        let current = |entry: &Entry| Pod { status: Some(entry.status.borrow().clone()), ..(*entry.pod).clone() };
        pods.values().map(current).collect()
    }
}

fn key(pod: &Pod) -> (String, String) {
    (pod.metadata.namespace.clone().unwrap_or_default(), pod.metadata.name.clone().unwrap_or_default())
}
