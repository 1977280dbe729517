//! A real server behind the adapter, and clients whose frames are written by hand.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::frames::{Frames, Verdict};
use super::tolerant;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
const WHOLE: u8 = END_HEADERS | END_STREAM;

const URL: &str = "http://127.0.0.1:21001";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A connection's bytes: the preface, settings, and `frames`.
fn connection(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    bytes.extend(frames.concat());
    bytes
}

/// A literal that goes to the dynamic table; an empty name stands for the static entry `index`.
fn indexed_literal(index: u8, name: &str, value: &str) -> Vec<u8> {
    let mut literal = vec![0x40 | index];
    for string in [name, value].iter().skip(usize::from(name.is_empty())) {
        match string.len() {
            length @ ..127 => literal.push(length as u8),
            length => literal.extend([0x7f, (length - 127) as u8 & 0x7f | 0x80, ((length - 127) >> 7) as u8]),
        }
        literal.extend(string.bytes());
    }
    literal
}

/// `POST http <path> <authority> x-tag: one`; leaves the last three in the table, as 64, 63 and 62.
fn first_block(authority: &str) -> Vec<u8> {
    let fields =
        [indexed_literal(4, "", "/first"), indexed_literal(1, "", authority), indexed_literal(0, "x-tag", "one")];
    [vec![0x83, 0x86], fields.concat()].concat()
}

/// The same fields as [`first_block`], from the table.
const AGAIN: &[u8] = &[0x83, 0x86, 0xc0, 0xbf, 0xbe];

/// Says what the server saw.
async fn describe(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let tags: Vec<u8> = parts.headers.get_all("x-tag").iter().flat_map(|tag| tag.as_bytes().to_vec()).collect();
    let tags = if tags.len() < 100 { tags.escape_ascii().to_string() } else { format!("({})", tags.len()) };
    let body = body.collect().await.unwrap();
    let trailers = body.trailers().map_or(String::new(), |trailers| format!(" trailers {}", trailers.len()));
    let seen = format!("{} {} {tags} body {}{trailers}", parts.method, parts.uri, body.to_bytes().len());
    Ok(Response::new(Full::new(seen.into())))
}

async fn serve<I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static>(io: I) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http2().max_header_list_size(64 << 10);
    let service = hyper::service::service_fn(describe);
    // A client that goes away is no failure of these tests.
    let _ = builder.serve_connection_with_upgrades(TokioIo::new(io), service).await;
}

/// What each stream was answered, of so many; a reset or a refused connection (stream 0) with its code.
async fn answers(mut server: DuplexStream, sent: Vec<u8>, streams: usize) -> BTreeMap<u32, String> {
    let mut bodies: BTreeMap<u32, String> = BTreeMap::new();
    let mut ended = BTreeMap::new();
    let (mut read, mut write) = tokio::io::split(&mut server);
    let receive = async {
        while ended.len() < streams {
            let mut head = [0; 9];
            read.read_exact(&mut head).await.unwrap();
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            read.read_exact(&mut payload).await.unwrap();
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            match head[3] {
                DATA => bodies.entry(stream).or_default().push_str(std::str::from_utf8(&payload).unwrap()),
                RST_STREAM => drop(ended.insert(stream, format!("reset {}", payload[3]))),
                GOAWAY => {
                    ended.insert(0, format!("go away {}", payload[7]));
                    break;
                }
                _ => {}
            }
            if matches!(head[3], DATA | HEADERS) && head[4] & END_STREAM != 0 {
                ended.insert(stream, bodies.remove(&stream).unwrap_or_default());
            }
        }
    };
    // The server may close without reading everything.
    let send = async { drop(write.write_all(&sent).await) };
    let both = async { tokio::join!(receive, send) };
    tokio::time::timeout(Duration::from_secs(20), both).await.expect("the server answers");
    ended
}

/// Checks what a server behind the adapter answers to `frames`, sent at once and byte by byte.
async fn check(frames: &[Vec<u8>], expected: &[(u32, &str)]) {
    for capacity in [1 << 16, 1] {
        let (client, server) = duplex(capacity);
        let serving = tokio::spawn(serve(tolerant(server)));
        let answers = answers(client, connection(frames), expected.len()).await;
        let answers: Vec<_> = answers.iter().map(|(stream, answer)| (*stream, answer.as_str())).collect();
        assert_eq!(answers, expected, "delivered in pieces of {capacity}");
        serving.abort();
    }
}

/// What the server gets for `sent`, taken at once; the same must come out of single bytes.
fn taken(sent: &[u8]) -> (Vec<u8>, Verdict) {
    let (mut frames, mut output) = (Frames::new(), Vec::new());
    frames.take(sent, &mut output);
    let verdict = frames.verdict();
    frames.end(&mut output);
    let (mut frames, mut single) = (Frames::new(), Vec::new());
    for byte in sent {
        frames.take(&[*byte], &mut single);
    }
    assert_eq!(frames.verdict(), verdict);
    frames.end(&mut single);
    assert_eq!(single, output);
    (output, verdict)
}

fn check_passes(sent: &[u8]) {
    let (output, verdict) = taken(sent);
    assert_eq!(verdict, Verdict::Pass);
    assert!(output == sent, "{} bytes became others", sent.len());
}

#[tokio::test]
async fn without_the_adapter_a_url_as_authority_is_reset() {
    let (client, server) = duplex(1 << 16);
    let serving = tokio::spawn(serve(server));
    let sent = connection(&[frame(HEADERS, WHOLE, 1, &first_block(URL))]);
    assert_eq!(answers(client, sent, 1).await, BTreeMap::from([(1, "reset 1".to_string())]));
    serving.abort();
}

#[tokio::test]
async fn a_url_as_authority_is_answered_on_every_stream() {
    let second = [AGAIN, &indexed_literal(0, "x-tag", "two")].concat();
    // The table has one entry more now: everything moved by one.
    let third = [0x83, 0x86, 0xc1, 0xc0, 0xbe];
    let frames = [
        frame(HEADERS, WHOLE, 1, &first_block(URL)),
        frame(HEADERS, WHOLE, 3, &second),
        frame(HEADERS, WHOLE, 5, &third),
    ];
    let seen = "POST http://127.0.0.1:21001/first";
    let expected = [format!("{seen} one body 0"), format!("{seen} onetwo body 0"), format!("{seen} two body 0")];
    check(&frames, &[(1, &expected[0]), (3, &expected[1]), (5, &expected[2])]).await;
}

#[tokio::test]
async fn bodies_and_trailers_between_header_blocks_arrive() {
    let frames = [
        frame(HEADERS, END_HEADERS, 1, &first_block(URL)),
        frame(DATA, 0, 1, &[b'd'; 5000]),
        frame(HEADERS, END_HEADERS, 3, AGAIN),
        frame(DATA, 0, 1, &[]),
        // A body that looks like a frame of headers.
        frame(DATA, END_STREAM, 3, &frame(HEADERS, WHOLE, 9, AGAIN)),
        frame(DATA, 0, 1, b"end"),
        frame(HEADERS, WHOLE, 1, &indexed_literal(0, "x-checksum", "5")),
    ];
    let seen = "POST http://127.0.0.1:21001/first one body";
    check(&frames, &[(1, &format!("{seen} 5003 trailers 1")), (3, &format!("{seen} 14"))]).await;
}

#[tokio::test]
async fn padding_priority_and_continuations_are_understood() {
    let block = first_block(URL);
    let (start, rest) = block.split_at(10);
    let (middle, end) = rest.split_at(3);
    let payload = [&[4][..], &[0, 0, 0, 0, 15], start, &[0; 4]].concat();
    let frames = [
        frame(HEADERS, PADDED | PRIORITY | END_STREAM, 1, &payload),
        frame(CONTINUATION, 0, 1, middle),
        frame(CONTINUATION, 0, 1, &[]),
        frame(CONTINUATION, END_HEADERS, 1, end),
        frame(HEADERS, PADDED | WHOLE, 3, &[&[0], AGAIN].concat()),
    ];
    let seen = "POST http://127.0.0.1:21001/first one body 0";
    check(&frames, &[(1, seen), (3, seen)]).await;
}

#[tokio::test]
async fn a_block_that_grows_beyond_a_frame_is_continued() {
    let long = [AGAIN, &indexed_literal(0, "x-tag", &"t".repeat(3000)), &[0xbe; 11]].concat();
    let frames = [frame(HEADERS, WHOLE, 1, &first_block(URL)), frame(HEADERS, WHOLE, 3, &long)];
    let (output, _) = taken(&connection(&frames));
    assert!(output.len() > 36_000 && output.windows(5).any(|head| head == [0, 0x40, 0, CONTINUATION, 0]));
    let seen = "POST http://127.0.0.1:21001/first";
    check(&frames, &[(1, &format!("{seen} one body 0")), (3, &format!("{seen} (36003) body 0"))]).await;
}

#[tokio::test]
async fn the_client_may_change_the_size_of_its_table() {
    // Emptied, then of 4,096 again (31 + 97 + 31 * 128), as RFC 7541 §4.2 lets both stand before the fields.
    let block = [&[0x20, 0x3f, 0xe1, 0x1f][..], &first_block(URL)].concat();
    let frames = [
        frame(HEADERS, WHOLE, 1, &first_block(URL)),
        frame(HEADERS, WHOLE, 3, &block),
        frame(HEADERS, WHOLE, 5, AGAIN),
    ];
    let seen = "POST http://127.0.0.1:21001/first one body 0";
    check(&frames, &[(1, seen), (3, seen), (5, seen)]).await;
}

#[tokio::test]
async fn an_authority_without_any_host_is_left_out() {
    for authority in ["unix:///run/kontiki.sock", "", "/run/kontiki.sock"] {
        check(&[frame(HEADERS, WHOLE, 1, &first_block(authority))], &[(1, "POST /first one body 0")]).await;
    }
    check(
        &[frame(HEADERS, WHOLE, 1, &first_block("https://[::1]:2379/path?query"))],
        &[(1, "POST http://[::1]:2379/first one body 0")],
    )
    .await;
}

#[tokio::test]
async fn what_cannot_be_decoded_is_left_to_the_server() {
    // As `h2` answers without the adapter: a connection error, PROTOCOL_ERROR.
    check(&[frame(HEADERS, WHOLE, 1, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff])], &[(0, "go away 1")]).await;
    // Also in a connection whose blocks are written anew.
    let unknown = [AGAIN, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff]].concat();
    let (output, verdict) =
        taken(&connection(&[frame(HEADERS, WHOLE, 1, &first_block(URL)), frame(HEADERS, WHOLE, 3, &unknown)]));
    assert_eq!(verdict, Verdict::Pass);
    assert!(output.ends_with(&frame(HEADERS, WHOLE, 3, &unknown)));
}

#[test]
fn a_valid_authority_passes_and_so_does_all_after_it() {
    let valid = first_block("127.0.0.1:21001");
    check_passes(&connection(&[frame(HEADERS, WHOLE, 1, &valid), frame(HEADERS, WHOLE, 3, AGAIN), vec![0xff; 40]]));
    let absent = [&[0x83, 0x86][..], &indexed_literal(4, "", "/first")].concat();
    check_passes(&connection(&[frame(HEADERS, WHOLE, 1, &absent)]));
}

#[test]
fn before_the_first_header_block_nothing_is_held_back_but_heads() {
    let (mut frames, mut output) = (Frames::new(), Vec::new());
    frames.take(&connection(&[]), &mut output);
    assert_eq!((output, frames.verdict()), (connection(&[]), Verdict::Undecided));
}

#[test]
fn frames_against_the_rules_pass_unchanged() {
    let block = first_block(URL);
    let open = frame(HEADERS, 0, 1, &block);
    check_passes(&connection(&[open.clone(), frame(DATA, 0, 1, b"between"), frame(CONTINUATION, 4, 1, &[])]));
    check_passes(&connection(&[open.clone(), frame(CONTINUATION, 4, 3, &block)]));
    check_passes(&connection(&[open, frame(HEADERS, WHOLE, 1, &block)]));
    check_passes(&connection(&[frame(HEADERS, WHOLE | PADDED, 1, &[9, 1, 2])]));
    check_passes(&connection(&[frame(HEADERS, WHOLE | PRIORITY, 1, &[0; 4])]));
}

#[test]
fn header_blocks_beyond_the_limit_pass_unchanged() {
    check_passes(&connection(&[frame(HEADERS, WHOLE, 1, &vec![b'x'; 70_000])]));
    let mut frames = vec![frame(HEADERS, 0, 1, &first_block(URL))];
    frames.extend((0..8_000).map(|_| frame(CONTINUATION, 0, 1, &[])));
    check_passes(&connection(&frames));
}

#[test]
fn other_protocols_pass_unchanged() {
    check_passes(b"GET / HTTP/1.1\r\nhost: http://127.0.0.1\r\n\r\n");
    check_passes(b"PRI * HTTP/2.0\r\n\r\nSX");
    check_passes(&[0x16, 3, 1, 2, 0]);
}

#[tokio::test]
async fn http_1_is_answered() {
    for capacity in [1 << 16, 1] {
        let (mut client, server) = duplex(capacity);
        let serving = tokio::spawn(serve(tolerant(server)));
        client.write_all(b"PUT /one HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("PUT /one  body 0"), "{answer}");
        serving.await.unwrap();
    }
}

#[tokio::test]
async fn a_connection_that_passes_is_no_longer_inspected() {
    let (mut client, server) = duplex(1 << 16);
    let mut server = tolerant(server);
    let sent = connection(&[frame(HEADERS, WHOLE, 1, &first_block("kontiki:2379"))]);
    client.write_all(&sent).await.unwrap();
    let mut received = vec![0; sent.len()];
    server.read_exact(&mut received[..7]).await.unwrap();
    assert!(server.inspection.is_some(), "output is left");
    server.read_exact(&mut received[7..]).await.unwrap();
    assert!(server.inspection.is_none());
    assert_eq!(received, sent);
    client.write_all(b"anything").await.unwrap();
    server.read_exact(&mut received[..8]).await.unwrap();
    assert_eq!(&received[..8], b"anything");
}

#[tokio::test]
async fn bytes_held_at_the_end_of_the_connection_arrive() {
    let (mut client, server) = duplex(1 << 16);
    let sent = [connection(&[]), b"\0\0".to_vec()].concat();
    client.write_all(&sent).await.unwrap();
    client.shutdown().await.unwrap();
    let mut received = Vec::new();
    tolerant(server).read_to_end(&mut received).await.unwrap();
    assert_eq!(received, sent);
}
