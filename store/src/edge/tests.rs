//! The client port as a socket: HTTP/1.1 by hand, beside gRPC.

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tower::Service;

use super::{EdgeConfig, HttpConfig, grpc_surface, http_router, metrics_router, surface};
use crate::io::serve::{ServeOptions, Socket};
use crate::io::tls::Doorman;
use crate::member::testing::{Alone, run, within};

async fn serve<S, B>(service: S) -> (SocketAddr, CancellationToken)
where
    S: Service<http::Request<Incoming>, Response = http::Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
    let (doorman, options) = (Doorman::plaintext(), ServeOptions::default());
    tokio::spawn(crate::io::serve::serve(Socket::Tcp(listener), doorman, service, options, stop.clone()));
    (address, stop)
}

/// One request on a connection of its own; status line with headers in lower case, and body.
async fn ask(address: SocketAddr, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.replace('\n', "\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    within(stream.read_to_end(&mut answer)).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a whole answer");
    (head.to_lowercase(), body.to_owned())
}

async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let (head, body) = ask(address, &format!("GET {path} HTTP/1.1\nHost: x\nConnection: close\n\n")).await;
    (head[9..12].parse().unwrap(), body)
}

/// Waits for what the server notices on its own.
async fn until(mut holds: impl FnMut() -> bool) {
    within(async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

#[test]
fn http_is_served_beside_grpc() {
    run(async {
        let alone = Alone::start().await;
        let (address, stop) = serve(surface(alone.member.clone(), EdgeConfig::default())).await;
        let check = async |path: &str, status: u16, body: &str| {
            assert_eq!(get(address, path).await, (status, body.to_owned()), "{path}");
        };
        check("/health", 200, r#"{"health":"true","reason":""}"#).await;
        check("/health?serializable=true&exclude=NOSPACE", 200, r#"{"health":"true","reason":""}"#).await;
        check("/livez", 200, "ok\n").await;
        check("/livez/serializable_read?verbose", 200, "[+]serializable_read ok\nok\n").await;
        let all = "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n[+]non_learner ok\nok\n";
        check("/readyz?verbose=1", 200, all).await;
        let some = "[+]data_corruption ok\n[+]serializable_read ok\nok\n";
        check("/readyz?verbose&exclude=linearizable_read&exclude=non_learner", 200, some).await;
        for check_name in ["data_corruption", "serializable_read", "linearizable_read", "non_learner"] {
            check(&format!("/readyz/{check_name}"), 200, "ok\n").await;
        }
        check("/livez/linearizable_read", 404, "404 page not found\n").await;
        check("/version", 200, r#"{"etcdserver":"3.6.14","etcdcluster":"3.6.0","storage":"3.6.0"}"#).await;
        check("/nothing", 404, "404 page not found\n").await;
        check("/v3alpha/kv/range", 404, "404 page not found\n").await;
        let (head, body) =
            ask(address, "POST /health HTTP/1.1\nHost: x\nConnection: close\nContent-Length: 0\n\n").await;
        assert!(head.starts_with("http/1.1 405") && head.contains("allow: get"), "{head}");
        assert_eq!(body, "Method Not Allowed\n");
        let metrics = get(address, "/metrics").await.1;
        assert!(metrics.contains("\netcd_server_health_success 2\n"), "{metrics}");
        assert!(metrics.contains("\netcd_server_healthcheck{name=\"linearizable_read\",type=\"readyz\"} 1\n"));
        let counted =
            "\netcd_server_healthchecks_total{name=\"serializable_read\",status=\"success\",type=\"livez\"} 2\n";
        assert!(metrics.contains(counted), "{metrics}");
        stop.cancel();
        alone.member.shutdown().await;
    });
}

#[test]
fn each_port_serves_only_what_it_is_for() {
    run(async {
        let alone = Alone::start().await;
        let config = EdgeConfig::default();
        let (metrics, _) = serve(metrics_router(alone.member.clone(), config.clone())).await;
        assert_eq!(get(metrics, "/readyz").await.0, 200);
        assert_eq!(get(metrics, "/metrics").await.0, 200);
        assert_eq!(get(metrics, "/version").await.0, 404);
        let (http, _) = serve(http_router(alone.member.clone(), config.clone())).await;
        assert_eq!(get(http, "/version").await.0, 200);
        let (rpc, _) = serve(grpc_surface(alone.member.clone(), config)).await;
        let (_, body) = get(rpc, "/version").await;
        assert!(!body.contains("etcdserver"), "{body}");
        alone.member.shutdown().await;
    });
}

#[test]
fn browsers_are_let_in_by_origin_and_hosts_by_name() {
    run(async {
        let alone = Alone::start().await;
        let preflight = |origin: &str, host: &str| {
            format!("OPTIONS /v3/kv/range HTTP/1.1\nHost: {host}\nOrigin: {origin}\nConnection: close\n\n")
        };
        let (open, _) = serve(surface(alone.member.clone(), EdgeConfig::default())).await;
        let (head, _) = ask(open, &preflight("http://a", "anything:1")).await;
        assert!(head.starts_with("http/1.1 200") && head.contains("access-control-allow-origin: *"), "{head}");
        assert!(head.contains("access-control-allow-methods: post, get, options, put, delete"), "{head}");
        let http = HttpConfig {
            cors: vec!["http://a".to_owned()],
            host_whitelist: vec!["good.example".to_owned()],
            ..HttpConfig::default()
        };
        let (closed, _) = serve(surface(alone.member.clone(), EdgeConfig { http, ..EdgeConfig::default() })).await;
        let (head, _) = ask(closed, &preflight("http://a", "good.example:2379")).await;
        assert!(head.contains("access-control-allow-origin: http://a"), "{head}");
        let (head, _) = ask(closed, &preflight("http://b", "good.example")).await;
        assert!(head.starts_with("http/1.1 200") && !head.contains("access-control-allow-origin"), "{head}");
        let (head, body) = ask(closed, "GET /version HTTP/1.1\nHost: bad.example\nConnection: close\n\n").await;
        assert!(head.starts_with("http/1.1 421"), "{head}");
        assert!(body.contains("e.g. etcd --host-whitelist \"bad.example\""), "{body}");
        alone.member.shutdown().await;
    });
}

#[test]
fn a_watch_over_http_ends_when_its_client_leaves() {
    run(async {
        let alone = Alone::start().await;
        let (address, _) = serve(surface(alone.member.clone(), EdgeConfig::default())).await;
        let mut stream = BufReader::new(TcpStream::connect(address).await.unwrap());
        let body = r#"{"create_request":{"key":"Zm9v"}}"#;
        let request = format!("POST /v3/watch HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        stream.get_mut().write_all(request.as_bytes()).await.unwrap();
        let mut line = String::new();
        while !line.contains("\"created\":true}}") {
            assert!(within(stream.read_line(&mut line)).await.unwrap() > 0, "{line}");
        }
        assert!(!alone.member.reader().nobody_watches());
        drop(stream);
        until(|| alone.member.reader().nobody_watches()).await;
        let metrics = alone.member.metrics();
        until(|| metrics.rpc.handled("/etcdserverpb.Watch/Watch", Code::Cancelled) == 1).await;
        alone.member.shutdown().await;
    });
}

/// A text frame of a client: masked, and short.
fn text_frame(text: &str) -> Vec<u8> {
    let mut frame = vec![0x81, 0x80 | u8::try_from(text.len()).unwrap(), 0, 0, 0, 0];
    assert!(text.len() < 126, "longer frames have another form");
    frame.extend_from_slice(text.as_bytes());
    frame
}

/// The text of one frame of the server.
async fn read_frame(stream: &mut BufReader<TcpStream>) -> String {
    let mut head = [0; 2];
    within(stream.read_exact(&mut head)).await.unwrap();
    assert_eq!(head[0], 0x81, "a whole text");
    let length = match head[1] {
        126 => within(stream.read_u16()).await.unwrap(),
        short => u16::from(short),
    };
    let mut text = vec![0; usize::from(length)];
    within(stream.read_exact(&mut text)).await.unwrap();
    String::from_utf8(text).unwrap()
}

#[test]
fn a_watch_runs_over_a_websocket() {
    run(async {
        let alone = Alone::start().await;
        let (address, _) = serve(surface(alone.member.clone(), EdgeConfig::default())).await;
        let mut stream = BufReader::new(TcpStream::connect(address).await.unwrap());
        let request = "GET /v3/watch HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.get_mut().write_all(request.as_bytes()).await.unwrap();
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(within(stream.read_line(&mut head)).await.unwrap() > 0, "{head}");
        }
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        stream.get_mut().write_all(&text_frame(r#"{"create_request":{"key":"Zm9v"}}"#)).await.unwrap();
        let created = read_frame(&mut stream).await;
        assert!(created.ends_with("\"created\":true}}"), "{created}");
        stream.get_mut().write_all(&text_frame(r#"{"cancel_request":{}}"#)).await.unwrap();
        assert!(read_frame(&mut stream).await.contains("\"canceled\":true"));
        stream.get_mut().write_all(&text_frame(r#"{"create_request":{"key":"Zm9v"}}"#)).await.unwrap();
        read_frame(&mut stream).await;
        drop(stream);
        until(|| alone.member.reader().nobody_watches()).await;
        alone.member.shutdown().await;
    });
}
