//! The shapes of watch responses, and how a large one is cut into parts.

use std::collections::VecDeque;

use kontiki_api::etcdserverpb as pb;
use kontiki_api::mvccpb::Event;

use super::ring::event_bytes;

/// What stands for "no watcher": in refusals and in the answer to a progress request.
pub(crate) const NO_WATCH_ID: i64 = -1;

fn response(revision: i64, watch_id: i64) -> pb::WatchResponse {
    let header = Some(pb::ResponseHeader { revision, ..pb::ResponseHeader::default() });
    pb::WatchResponse { header, watch_id, ..pb::WatchResponse::default() }
}

pub(crate) fn created(revision: i64, watch_id: i64) -> pb::WatchResponse {
    pb::WatchResponse { created: true, ..response(revision, watch_id) }
}

/// Created and cancelled in one, as etcd refuses.
pub(crate) fn refused(revision: i64, reason: &str) -> pb::WatchResponse {
    pb::WatchResponse {
        created: true,
        canceled: true,
        cancel_reason: reason.to_owned(),
        ..response(revision, NO_WATCH_ID)
    }
}

pub(crate) fn cancelled(revision: i64, watch_id: i64) -> pb::WatchResponse {
    pb::WatchResponse { canceled: true, ..response(revision, watch_id) }
}

/// The header's revision is 0 here, and the reason is empty: clients go by `compact_revision`.
pub(crate) fn compacted(watch_id: i64, floor: i64) -> pb::WatchResponse {
    pb::WatchResponse { canceled: true, compact_revision: floor, ..response(0, watch_id) }
}

pub(crate) fn progress(revision: i64, watch_id: i64) -> pb::WatchResponse {
    response(revision, watch_id)
}

pub(crate) fn events(revision: i64, watch_id: i64, events: Vec<Event>) -> pb::WatchResponse {
    pb::WatchResponse { events, ..response(revision, watch_id) }
}

/// Cut by events into parts of at most `bytes_max`; a larger event is a part of its own. All but the last are marked.
pub(crate) fn fragments(
    revision: i64,
    watch_id: i64,
    events: Vec<Event>,
    bytes_max: usize,
) -> VecDeque<pb::WatchResponse> {
    let mut parts = VecDeque::from([response(revision, watch_id)]);
    let mut bytes = 0;
    for event in events {
        let size = event_bytes(&event);
        let part = parts.back_mut().expect("never empty");
        if bytes + size > bytes_max && !part.events.is_empty() {
            part.fragment = true;
            parts.push_back(response(revision, watch_id));
            bytes = 0;
        }
        bytes += size;
        parts.back_mut().expect("never empty").events.push(event);
    }
    parts
}
