//! One client's watch stream: its watchers, and the order in which responses leave.

use std::time::Duration;

use kontiki_api::etcdserverpb as pb;

/// Where streams are made; cheap to clone.
#[derive(Clone)]
pub struct WatchHub {}

/// What differs between streams.
#[derive(Clone, Debug)]
pub struct WatchStreamOptions {
    /// How often a quiet, synced watcher with `progress_notify` hears where the store is.
    pub progress_interval: Duration,
    /// Responses of watchers with `fragment` are split by events above this many bytes.
    pub fragment_bytes: usize,
}

pub struct WatchStream {}

impl WatchHub {
    #[must_use]
    pub fn stream(&self) -> WatchStream {
        todo!()
    }

    #[must_use]
    pub fn stream_with(&self, options: WatchStreamOptions) -> WatchStream {
        let _ = options;
        todo!()
    }
}

impl WatchStream {
    pub fn create(&mut self, request: pb::WatchCreateRequest) {
        let _ = request;
        todo!()
    }

    /// Responses to requests that wait for [`WatchStream::next`]. The edge stops reading requests above
    /// [`crate::limits::WATCH_REPLIES_WAITING`].
    #[must_use]
    pub fn replies_waiting(&self) -> usize {
        todo!()
    }

    /// Ends a watcher; unknown ids are ignored.
    pub fn cancel(&mut self, watch_id: i64) {
        let _ = watch_id;
        todo!()
    }

    /// Asks for a progress response with watch id -1. None is given while any watcher lags behind.
    pub fn progress(&mut self) {
        todo!()
    }

    /// The next response; cancel-safe. `header.revision` is set, the rest of the header is the edge's.
    pub async fn next(&mut self) -> pb::WatchResponse {
        todo!()
    }
}
