//! Places pods on nodes.
pub async fn run(
    client: kube::Client,
    events: crate::controllers::io::events::EventSink,
    clock: crate::controllers::io::clock::Clock,
    watched: tokio::sync::mpsc::Receiver<crate::controllers::cluster::Watched>,
    shutdown: tokio_util::sync::CancellationToken,
) {
    let _ = (client, events, clock, watched);
    shutdown.cancelled().await;
}
