//! The scheduler: a node for each pending pod.
//!
//! [`decide::schedule`] is the whole decision, a function of [`view::ClusterView`] and the pod; [`queue`] says which pod is next and when a failed one is
//! tried again; the driver binds. The filters, scores, messages and backoffs are those of Kubernetes' default profile as far as they
//! concern what is served here. A pod is decided on as its watch event comes: nothing is delayed to gather more.

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::controllers::cluster::Watched;
use crate::controllers::io::clock::Clock;
use crate::controllers::io::events::EventSink;

pub mod affinity;
pub mod decide;
mod driver;
pub mod filter;
pub mod limits;
pub mod queue;
pub mod resources;
pub mod score;
pub mod view;

/// `spec.schedulerName` of the pods it places.
pub const NAME: &str = "default-scheduler";

/// Places pods until `shutdown`; `watched` tells of pods and nodes.
pub(crate) async fn run(
    client: kube::Client,
    events: EventSink,
    clock: Clock,
    watched: mpsc::Receiver<Watched>,
    shutdown: CancellationToken,
) {
    driver::Driver::new(client, events, clock).run(watched, shutdown).await;
}
