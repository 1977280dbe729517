//! Watch streams: what is asked on one stream, what is written meanwhile, and every response in order.

use std::time::Duration;

use kontiki_api::etcdserverpb as pb;
use kontiki_api::etcdserverpb::watch_client::WatchClient;
use pb::watch_request::RequestUnion;

use super::ask::{Ask, Server, strip};
use super::script::{delete, put, range};

/// One thing that happens in a case.
#[derive(Clone, Debug)]
pub enum Act {
    /// Sent on the stream.
    Send(RequestUnion),
    /// Nothing further is sent on the stream.
    HalfClose,
    /// Asked of the server beside it.
    Ask(Ask),
    /// Responses to await, whatever they are.
    Receive(usize),
}

pub struct Case {
    pub name: &'static str,
    pub requests: Vec<Act>,
}

/// After the last expected response nothing further may come for this long.
const QUIET: Duration = Duration::from_millis(300);

/// The responses as text.
pub async fn run(server: &Server, case: &Case) -> Vec<String> {
    let (sender, requests) = tokio::sync::mpsc::channel(16);
    let mut sender = Some(sender);
    let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
    let mut client = WatchClient::new(server.channel());
    // The server answers the call with its first response only, so both go on together.
    let opening = tokio::spawn(async move { client.watch(requests).await.unwrap().into_inner() });
    let mut opening = Some(opening);
    let mut stream: Option<tonic::Streaming<pb::WatchResponse>> = None;
    let mut responses = Vec::new();
    for act in &case.requests {
        match act {
            Act::Send(request) => {
                let sender = sender.as_ref().expect("the stream is half closed");
                sender.send(pb::WatchRequest { request_union: Some(request.clone()) }).await.unwrap();
            }
            Act::HalfClose => sender = None,
            Act::Ask(ask) => responses.push(server.answer(ask).await),
            Act::Receive(count) => {
                for _ in 0..*count {
                    if let Some(opening) = opening.take() {
                        stream = Some(opening.await.unwrap());
                    }
                    let next = stream.as_mut().unwrap().message();
                    let next = tokio::time::timeout(super::PATIENCE, next).await;
                    let next =
                        next.unwrap_or_else(|_| panic!("{}: {} sends no further response", case.name, server.name));
                    responses.push(response(next.unwrap()));
                }
            }
        }
    }
    let further = tokio::time::timeout(QUIET, stream.as_mut().unwrap().message()).await;
    responses.extend(further.ok().map(|further| format!("too much: {}", response(further.unwrap()))));
    responses
}

fn response(response: Option<pb::WatchResponse>) -> String {
    match response {
        Some(mut response) => {
            strip(&mut response.header);
            format!("{response:?}")
        }
        None => "the end".to_owned(),
    }
}

fn create(key: &'static str, end: &'static str) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest { key: key.into(), range_end: end.into(), ..Default::default() }
}

fn watch(request: pb::WatchCreateRequest) -> Act {
    Act::Send(RequestUnion::CreateRequest(request))
}

fn cancel(watch_id: i64) -> Act {
    Act::Send(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id }))
}

fn progress() -> Act {
    Act::Send(RequestUnion::ProgressRequest(pb::WatchProgressRequest {}))
}

fn write(key: &'static str, value: &'static str) -> Act {
    Act::Ask(Ask::Put(put(key, value)))
}

fn remove(key: &'static str, end: &'static str) -> Act {
    Act::Ask(Ask::DeleteRange(delete(key, end)))
}

/// Each case uses keys of its own; revisions go on from one to the next, on both servers alike.
pub fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "events of one key",
            requests: vec![
                watch(create("a", "")),
                Act::Receive(1),
                write("a", "1"),
                Act::Receive(1),
                write("b", "other"),
                write("a", "2"),
                Act::Receive(1),
                remove("a", ""),
                Act::Receive(1),
                remove("a", ""),
            ],
        },
        Case {
            name: "a client that sends no further request still watches",
            requests: vec![
                watch(create("half", "")),
                Act::Receive(1),
                Act::HalfClose,
                write("half", "1"),
                Act::Receive(1),
                remove("half", ""),
                Act::Receive(1),
            ],
        },
        Case {
            name: "ids are given or chosen",
            requests: vec![
                watch(pb::WatchCreateRequest { watch_id: 1, ..create("i", "") }),
                Act::Receive(1),
                watch(create("i", "")),
                watch(create("i", "")),
                watch(pb::WatchCreateRequest { watch_id: 1, ..create("i", "") }),
                watch(pb::WatchCreateRequest { watch_id: 7, ..create("i", "") }),
                Act::Receive(4),
                cancel(7),
                Act::Receive(1),
                cancel(7),
                cancel(99),
                watch(create("i", "")),
                Act::Receive(1),
            ],
        },
        Case {
            name: "refused at creation",
            // Not asked: a negative start. 3.4 takes it for none, 3.6 cancels.
            requests: vec![watch(create("z", "y")), watch(create("z", "z")), Act::Receive(2)],
        },
        Case {
            name: "filters and previous values",
            requests: vec![
                watch(pb::WatchCreateRequest { filters: vec![0], prev_kv: true, ..create("f", "") }),
                Act::Receive(1),
                watch(pb::WatchCreateRequest { filters: vec![1], prev_kv: true, ..create("f/other", "") }),
                Act::Receive(1),
                write("f", "1"),
                write("f", "2"),
                remove("f", ""),
                Act::Receive(1),
                write("f/other", "1"),
                Act::Receive(1),
                remove("f/other", ""),
                write("f/other", "2"),
                Act::Receive(1),
            ],
        },
        Case {
            name: "history first, then the present",
            requests: vec![
                write("h/1", "1"),
                write("h/2", "1"),
                write("h/1", "2"),
                remove("h/", "h0"),
                write("h/1", "3"),
                write("elsewhere", "2"),
                watch(pb::WatchCreateRequest { start_revision: 1, prev_kv: true, ..create("h/", "h0") }),
                Act::Receive(2),
                write("h/3", "1"),
                Act::Receive(1),
            ],
        },
        Case {
            name: "progress on demand",
            requests: vec![
                watch(create("p", "")),
                Act::Receive(1),
                progress(),
                Act::Receive(1),
                write("elsewhere", "1"),
                progress(),
                Act::Receive(1),
            ],
        },
        Case {
            name: "a start in the future waits",
            requests: vec![
                Act::Ask(Ask::Range(range("u", ""))),
                watch(pb::WatchCreateRequest { start_revision: 1_000_000, ..create("u", "") }),
                Act::Receive(1),
                write("u", "early"),
            ],
        },
        Case {
            name: "a start that was compacted",
            requests: vec![
                write("c", "1"),
                Act::Ask(Ask::Compact(pb::CompactionRequest { revision: 20, physical: true })),
                watch(pb::WatchCreateRequest { start_revision: 3, ..create("c", "") }),
                Act::Receive(2),
            ],
        },
    ]
}
