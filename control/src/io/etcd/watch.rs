//! One watch on the store: a bidirectional stream with a single watcher on it.

use bytes::Bytes;
use kontiki_api::etcdserverpb as pb;
use kontiki_api::etcdserverpb::watch_client::WatchClient;
use kontiki_api::mvccpb;
use pb::watch_request::RequestUnion;
use tokio::sync::mpsc;

use super::{StoreFailure, Transport, prefix_end};
use crate::limits;

/// Everything one answer of the store says.
#[derive(Debug)]
pub struct WatchBatch {
    pub events: Vec<mvccpb::Event>,
    /// Everything up to this revision has been delivered. `None` while a revision is still in fragments.
    pub complete_to: Option<i64>,
    /// An answer to [`StoreWatch::request_progress`], or a periodic one.
    pub is_progress: bool,
    /// The watch is there now: the first answer.
    pub is_created: bool,
}

/// Why a watch ended.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The start revision is gone: list again. Carries the store's compaction revision.
    #[error("compacted at revision {0}")]
    Compacted(i64),
    /// The stream broke: open another from the revision after the last one seen.
    #[error("watch ended: {0}")]
    Ended(String),
}

/// Dropping it ends the watch.
pub struct StoreWatch {
    requests: mpsc::Sender<pb::WatchRequest>,
    responses: tonic::Streaming<pb::WatchResponse>,
}

impl StoreWatch {
    pub(super) async fn open(
        client: &mut WatchClient<Transport>,
        prefix: &str,
        start_revision: i64,
    ) -> Result<Self, StoreFailure> {
        let (requests, outgoing) = mpsc::channel(16);
        let create = pb::WatchCreateRequest {
            key: Bytes::from(prefix.to_owned()),
            range_end: prefix_end(prefix.as_bytes()),
            start_revision,
            progress_notify: true,
            prev_kv: true,
            ..Default::default()
        };
        let create = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        // The first request must be under way before the server answers with its headers.
        requests.try_send(create).expect("a new channel has room");
        let mut request = tonic::Request::new(tokio_stream::wrappers::ReceiverStream::new(outgoing));
        // A member that has lost its leader must end the watch instead of going silent.
        request.metadata_mut().insert("hasleader", tonic::metadata::MetadataValue::from_static("true"));
        let opening = tokio::time::timeout(limits::STORE_ATTEMPT_TIMEOUT, client.watch(request));
        let opened = opening.await.map_err(|_| StoreFailure::Unavailable("the watch was not opened in time".into()))?;
        Ok(Self { requests, responses: opened?.into_inner() })
    }

    /// Asks the store to say how far this watch is. A full queue means that an earlier question is still on its way.
    pub fn request_progress(&self) {
        let request = RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
        let _ = self.requests.try_send(pb::WatchRequest { request_union: Some(request) });
    }

    /// The next answer.
    ///
    /// # Errors
    /// When the watch has ended; it must be opened again.
    pub async fn next(&mut self) -> Result<WatchBatch, WatchError> {
        let response = match self.responses.message().await {
            Ok(Some(response)) => response,
            Ok(None) => return Err(WatchError::Ended("the stream was closed".into())),
            Err(status) => return Err(WatchError::Ended(status.message().to_owned())),
        };
        if response.canceled {
            if response.compact_revision > 0 {
                return Err(WatchError::Compacted(response.compact_revision));
            }
            return Err(WatchError::Ended(response.cancel_reason));
        }
        let revision = response.header.as_ref().map_or(0, |h| h.revision);
        if response.created {
            // Its header may run ahead of events that are still to be replayed.
            return Ok(WatchBatch { events: Vec::new(), complete_to: None, is_progress: false, is_created: true });
        }
        if response.events.is_empty() {
            let complete_to = Some(revision);
            return Ok(WatchBatch { events: Vec::new(), complete_to, is_progress: true, is_created: false });
        }
        // A batch of a replay ends at its last event, not at the header's revision.
        let last = response.events.last().and_then(|e| e.kv.as_ref()).map_or(0, |kv| kv.mod_revision);
        let complete_to = (!response.fragment).then_some(last);
        Ok(WatchBatch { events: response.events, complete_to, is_progress: false, is_created: false })
    }
}
