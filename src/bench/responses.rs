//! The responses of a watch stream, read where they lie.
//!
//! The processors are the server's as well: what a layer spends on each of ten thousand responses to a put would be
//! measured as if the server had needed it.

use futures::{Stream, StreamExt as _};
use http::{HeaderValue, Request, header};
use http_body_util::BodyExt as _;
use kontiki_api::etcdserverpb as pb;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use tonic::body::Body;
use tonic::codec::{Codec as _, EncodeBody};
use tonic::{Code, Status};
use tonic_prost::ProstCodec;
use tower::ServiceExt as _;

use super::connection::Connection;
use super::operations::closed;

const WATCH: &str = "/etcdserverpb.Watch/Watch";
/// The flag of compression and the length, before every message of gRPC.
const PREFIX_BYTES: usize = 5;
/// Fields of a [`pb::WatchResponse`].
const CREATED: u32 = 3;
const CANCELED: u32 = 4;
const EVENTS: u32 = 11;

/// As much of a response as is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told<'a> {
    Created,
    /// An encoded [`kontiki_api::mvccpb::Event`].
    Event(&'a [u8]),
}

/// What comes on a watch stream.
pub struct Responses {
    body: Body,
    messages: Messages,
}

impl Responses {
    /// Opens a stream on which `requests` are sent.
    pub async fn open<R>(connection: Connection, requests: R) -> Result<Self, Status>
    where
        R: Stream<Item = pb::WatchRequest> + Send + 'static,
    {
        let encoder = ProstCodec::<_, pb::WatchResponse>::default().encoder();
        let messages = EncodeBody::new_client(encoder, requests.map(Ok), None, None);
        let request = Request::post(WATCH)
            .header(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"))
            .header(header::TE, HeaderValue::from_static("trailers"))
            .body(Body::new(messages))
            .expect("all its parts are valid");
        let answer = connection.oneshot(request).await.map_err(|error| Status::unavailable(error.to_string()))?;
        let (head, body) = answer.into_parts();
        match Status::from_header_map(&head.headers) {
            Some(status) => Err(ended(status)),
            None if head.status != http::StatusCode::OK => Err(Status::unknown(format!("HTTP {}", head.status))),
            None => Ok(Self { body, messages: Messages::default() }),
        }
    }

    /// Waits for what comes next, and hands over what is told in messages that are whole with it: maybe nothing.
    ///
    /// # Errors
    /// When the stream ends, a watcher is cancelled, or what comes cannot be understood; and what `told` says.
    pub async fn read(&mut self, told: impl FnMut(Told<'_>) -> Result<(), Status>) -> Result<(), Status> {
        let frame = self.body.frame().await.ok_or_else(closed)??;
        match frame.into_data() {
            Ok(data) => self.messages.read(&data, told),
            Err(frame) => Err(frame.trailers_ref().and_then(Status::from_header_map).map_or_else(closed, ended)),
        }
    }
}

/// Why there is nothing more to read, however well it ended.
fn ended(status: Status) -> Status {
    if status.code() == Code::Ok { closed() } else { status }
}

/// Messages of gRPC, in whatever parts they come.
#[derive(Default)]
struct Messages {
    /// The beginning of one, with its prefix.
    begun: Vec<u8>,
}

impl Messages {
    fn read(&mut self, mut part: &[u8], mut told: impl FnMut(Told<'_>) -> Result<(), Status>) -> Result<(), Status> {
        while !self.begun.is_empty() && !part.is_empty() {
            let wanted = length(&self.begun)?.unwrap_or(PREFIX_BYTES);
            let missing = wanted - self.begun.len();
            let (more, after) = part.split_at(missing.min(part.len()));
            self.begun.extend_from_slice(more);
            part = after;
            if length(&self.begun)? == Some(self.begun.len()) {
                look(&self.begun[PREFIX_BYTES..], &mut told)?;
                self.begun.clear();
            }
        }
        while let Some(length) = length(part)?.filter(|length| *length <= part.len()) {
            look(&part[PREFIX_BYTES..length], &mut told)?;
            part = &part[length..];
        }
        self.begun.extend_from_slice(part);
        Ok(())
    }
}

/// How long the message is that begins here, with its prefix. None when not all of the prefix is there.
fn length(begun: &[u8]) -> Result<Option<usize>, Status> {
    match begun {
        [0, a, b, c, d, ..] => Ok(Some(PREFIX_BYTES + u32::from_be_bytes([*a, *b, *c, *d]) as usize)),
        [compressed, ..] if *compressed != 0 => Err(Status::internal("a compressed response, which was not asked for")),
        _ => Ok(None),
    }
}

/// Looks through an encoded [`pb::WatchResponse`].
fn look(mut response: &[u8], mut told: impl FnMut(Told<'_>) -> Result<(), Status>) -> Result<(), Status> {
    while !response.is_empty() {
        match decode_key(&mut response).map_err(invalid)? {
            (CREATED, WireType::Varint) => {
                if decode_varint(&mut response).map_err(invalid)? != 0 {
                    told(Told::Created)?;
                }
            }
            (CANCELED, WireType::Varint) => {
                if decode_varint(&mut response).map_err(invalid)? != 0 {
                    return Err(Status::cancelled("the server has cancelled a watcher"));
                }
            }
            (EVENTS, WireType::LengthDelimited) => {
                let length = decode_varint(&mut response).map_err(invalid)?;
                let event = usize::try_from(length).ok().and_then(|length| response.split_at_checked(length));
                let (event, after) = event.ok_or_else(|| invalid("an event is cut off"))?;
                told(Told::Event(event))?;
                response = after;
            }
            (field, wire_type) => {
                skip_field(wire_type, field, &mut response, DecodeContext::default()).map_err(invalid)?;
            }
        }
    }
    Ok(())
}

pub fn invalid(error: impl std::fmt::Display) -> Status {
    Status::internal(format!("a response that cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use kontiki_api::mvccpb::{Event, KeyValue};
    use prost::Message as _;

    use super::*;

    fn message(response: &pb::WatchResponse) -> Vec<u8> {
        let mut message = vec![0];
        message.extend(u32::try_from(response.encoded_len()).unwrap().to_be_bytes());
        message.extend(response.encode_to_vec());
        message
    }

    fn event(key: &'static str) -> Event {
        Event { kv: Some(KeyValue { key: key.into(), ..Default::default() }), ..Default::default() }
    }

    /// The keys of the events, and `created` as a star.
    fn read(parts: &[&[u8]]) -> Result<String, Status> {
        let (mut messages, mut seen) = (Messages::default(), String::new());
        for part in parts {
            messages.read(part, |told| {
                match told {
                    Told::Created => seen.push('*'),
                    Told::Event(event) => {
                        let key = Event::decode(event).unwrap().kv.unwrap().key;
                        seen.push_str(str::from_utf8(&key).unwrap());
                    }
                }
                Ok(())
            })?;
        }
        Ok(seen)
    }

    #[test]
    fn messages_are_read_however_they_are_cut() {
        let header = Some(pb::ResponseHeader { revision: 300, ..Default::default() });
        let responses = [
            pb::WatchResponse { created: true, header, ..Default::default() },
            pb::WatchResponse { watch_id: 7, header, events: vec![event("a"), event("b")], ..Default::default() },
            // Progress, and nothing at all.
            pb::WatchResponse { watch_id: -1, header, ..Default::default() },
            pb::WatchResponse::default(),
            pb::WatchResponse { watch_id: 1 << 40, fragment: true, events: vec![event("c")], ..Default::default() },
        ];
        let bytes: Vec<u8> = responses.iter().flat_map(message).collect();
        assert_eq!(read(&[&bytes]).unwrap(), "*abc");
        for first in 0..bytes.len() {
            for second in first..bytes.len() {
                let parts = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                assert_eq!(read(&parts).unwrap(), "*abc", "cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        let canceled = message(&pb::WatchResponse { canceled: true, ..Default::default() });
        assert_eq!(read(&[&canceled]).unwrap_err().code(), Code::Cancelled);
        let mut cut = message(&pb::WatchResponse { events: vec![event("a")], ..Default::default() });
        cut.pop();
        cut[4] -= 1;
        assert!(read(&[&cut]).unwrap_err().message().contains("cut off"));
        cut[0] = 1;
        assert!(read(&[&cut]).unwrap_err().message().contains("compressed"));
    }
}
