//! One watch a kind for all who follow it: what it says is shared and handed to each follower in order.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::core::{ApiResource, DynamicObject, PartialObjectMeta};
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::controllers::action::Resource;
use crate::controllers::cache::Feed;
use crate::controllers::cluster::{ROOT_CA, Watched, with_kinds};
use crate::controllers::limits;
use crate::controllers::meta::Partial;

/// Where what the watches say goes.
#[derive(Clone, Debug)]
pub struct Followers {
    /// Gets everything.
    pub controllers: mpsc::Sender<Watched>,
    /// Gets pods and nodes.
    pub scheduler: mpsc::Sender<Watched>,
}

impl Followers {
    /// False when nobody listens any more.
    async fn tell(&self, watched: Watched) -> bool {
        if matches!(watched, Watched::Pod(_) | Watched::Node(_)) && self.scheduler.send(watched.clone()).await.is_err()
        {
            return false;
        }
        self.controllers.send(watched).await.is_ok()
    }
}

/// Starts to follow all kinds: the built-in ones whole, `others` by their metadata.
pub fn follow(client: &Client, others: &[Resource], followers: &Followers, tasks: &mut JoinSet<()>) {
    macro_rules! start {
        ($($variant:ident, $field:ident, $type:ty, $resource:expr;)*) => {
            $(tasks.spawn(pump(
                watch(Api::<$type>::all(client.clone()), watcher::Config::default()),
                Watched::$variant,
                followers.clone(),
            ));)*
        };
    }
    use k8s_openapi::api::batch::v1::Job;
    use k8s_openapi::api::coordination::v1::Lease;
    use k8s_openapi::api::core::v1::{Endpoints, Namespace, Node, Pod, ReplicationController, Service, ServiceAccount};
    with_kinds!(start);
    let root_ca = watcher::Config::default().fields(&format!("metadata.name={ROOT_CA}"));
    tasks.spawn(pump(watch(Api::<ConfigMap>::all(client.clone()), root_ca), Watched::RootCa, followers.clone()));
    for resource in others {
        let kind = ApiResource {
            group: resource.group.to_string(),
            version: resource.version.to_string(),
            api_version: resource.api_version(),
            kind: resource.kind.to_string(),
            plural: resource.plural.to_string(),
        };
        let api = Api::<PartialObjectMeta<DynamicObject>>::all_with(client.clone(), &kind);
        let resource = resource.clone();
        let events = watch(api, watcher::Config::default()).map(|event| event.map(to_partial));
        tasks.spawn(pump_feed(events, move |feed| Watched::Other(resource.clone(), feed), followers.clone()));
    }
}

fn to_partial(event: Event<PartialObjectMeta<DynamicObject>>) -> Event<Partial> {
    let partial = |object: PartialObjectMeta<DynamicObject>| {
        let mut metadata = object.metadata;
        metadata.managed_fields = None;
        Partial { metadata }
    };
    match event {
        Event::Apply(object) => Event::Apply(partial(object)),
        Event::Delete(object) => Event::Delete(partial(object)),
        Event::Init => Event::Init,
        Event::InitApply(object) => Event::InitApply(partial(object)),
        Event::InitDone => Event::InitDone,
    }
}

async fn pump<K>(
    events: impl Stream<Item = watcher::Result<Event<K>>> + Send,
    wrap: impl Fn(Feed<K>) -> Watched + Send,
    followers: Followers,
) where
    K: ResourceExt + DeserializeOwned + Clone + Debug + Send + Sync + 'static,
{
    let events = events.map(|event| event.map(|e| e.modify(|object| object.managed_fields_mut().clear())));
    pump_feed(events, wrap, followers).await;
}

async fn pump_feed<K: Debug>(
    events: impl Stream<Item = watcher::Result<Event<K>>> + Send,
    wrap: impl Fn(Feed<K>) -> Watched + Send,
    followers: Followers,
) {
    let events = events.backoff(WatchBackoff::default());
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        let feed = match event {
            Ok(Event::Apply(object)) => Feed::Apply(Arc::new(object)),
            Ok(Event::Delete(object)) => Feed::Delete(Arc::new(object)),
            Ok(Event::Init) => Feed::Init,
            Ok(Event::InitApply(object)) => Feed::InitApply(Arc::new(object)),
            Ok(Event::InitDone) => Feed::InitDone,
            Err(error) => {
                tracing::debug!(kind = std::any::type_name::<K>(), %error, "watch broken, starting again");
                continue;
            }
        };
        if !followers.tell(wrap(feed)).await {
            return;
        }
    }
}

/// 50 ms doubling to 5 s: most breaks are a change of leader, over in a moment.
#[derive(Debug)]
struct WatchBackoff(Duration);

impl Default for WatchBackoff {
    fn default() -> Self {
        Self(limits::WATCH_RETRY_FIRST)
    }
}

impl Iterator for WatchBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let delay = self.0;
        self.0 = (delay * 2).min(limits::WATCH_RETRY_MAX);
        Some(delay)
    }
}

impl Backoff for WatchBackoff {
    fn reset(&mut self) {
        *self = Self::default();
    }
}
