//! The gateway against a member of its own, without a socket; the mapping against literal texts.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt;
use kontiki_api::DESCRIPTORS;
use prost_reflect::DescriptorPool;
use tonic::Code;
use tower::ServiceExt;

use super::json::{self, Splitter};
use crate::edge::{Edge, EdgeConfig, HttpConfig};
use crate::member::testing::{Alone, run, within};

fn message(name: &str) -> prost_reflect::MessageDescriptor {
    DescriptorPool::decode(DESCRIPTORS).unwrap().get_message_by_name(name).unwrap()
}

/// What is printed after `input` was parsed.
fn check(name: &str, input: &str, expected: &str) {
    let parsed = json::parse(&message(name), input.as_bytes()).unwrap_or_else(|status| panic!("{input}: {status}"));
    let mut printed = Vec::new();
    json::print(&parsed, &mut printed);
    assert_eq!(String::from_utf8(printed).unwrap(), expected, "{name} from {input}");
}

#[test]
fn names_are_those_of_the_proto_files_and_camel_case_is_understood() {
    check("etcdserverpb.RangeRequest", r#"{"rangeEnd":"Yg=="}"#, r#"{"range_end":"Yg=="}"#);
    check("etcdserverpb.RangeRequest", r#"{"range_end":"Yg=="}"#, r#"{"range_end":"Yg=="}"#);
    check("etcdserverpb.StatusResponse", r#"{"dbSize":5,"raftIndex":"7"}"#, r#"{"dbSize":"5","raftIndex":"7"}"#);
    check("etcdserverpb.LeaseGrantRequest", r#"{"TTL":5,"ID":"7"}"#, r#"{"TTL":"5","ID":"7"}"#);
    check(
        "etcdserverpb.Member",
        r#"{"ID":"1","peerURLs":["http://a"],"clientURLs":["http://b"],"isLearner":true}"#,
        r#"{"ID":"1","peerURLs":["http://a"],"clientURLs":["http://b"],"isLearner":true}"#,
    );
    check("etcdserverpb.LeaseTimeToLiveResponse", r#"{"grantedTTL":"9"}"#, r#"{"grantedTTL":"9"}"#);
}

#[test]
fn numbers_of_64_bits_are_strings_and_those_of_32_are_not() {
    check("etcdserverpb.PutRequest", r#"{"lease":-5}"#, r#"{"lease":"-5"}"#);
    check("etcdserverpb.PutRequest", r#"{"lease":"9223372036854775807"}"#, r#"{"lease":"9223372036854775807"}"#);
    let hash = r#"{"hash":"4294967295","compact_revision":"-1","hash_revision":3}"#;
    let printed = r#"{"hash":4294967295,"compact_revision":"-1","hash_revision":"3"}"#;
    check("etcdserverpb.HashKVResponse", hash, printed);
    let id = r#"{"header":{"member_id":18446744073709551615}}"#;
    check("etcdserverpb.PutResponse", id, r#"{"header":{"member_id":"18446744073709551615"}}"#);
}

#[test]
fn bytes_are_base64_of_either_alphabet_with_or_without_padding() {
    for input in [r#"{"key":"+/8="}"#, r#"{"key":"-_8="}"#, r#"{"key":"+/8"}"#, r#"{"key":"-_8"}"#] {
        check("etcdserverpb.PutRequest", input, r#"{"key":"+/8="}"#);
    }
    assert!(json::parse(&message("etcdserverpb.PutRequest"), br#"{"key":"***"}"#).is_err());
}

#[test]
fn enums_are_names_or_numbers_and_zero_is_left_out() {
    for order in ["\"DESCEND\"", "2"] {
        let input = format!("{{\"sort_order\":{order},\"sort_target\":\"KEY\"}}");
        check("etcdserverpb.RangeRequest", &input, r#"{"sort_order":"DESCEND"}"#);
    }
    check("etcdserverpb.AlarmRequest", r#"{"action":"GET","memberID":0,"alarm":"NOSPACE"}"#, r#"{"alarm":"NOSPACE"}"#);
    check(
        "mvccpb.Event",
        r#"{"type":"DELETE","kv":{"key":"Zm9v","mod_revision":"3","version":0}}"#,
        r#"{"type":"DELETE","kv":{"key":"Zm9v","mod_revision":"3"}}"#,
    );
}

#[test]
fn what_is_unknown_is_ignored_and_fields_keep_their_order() {
    check(
        "etcdserverpb.PutRequest",
        r#"{ "value":"YmFy" , "nothing":{"a":[1,"}"]}, "key":"Zm9v", "prev_kv":false }"#,
        r#"{"key":"Zm9v","value":"YmFy"}"#,
    );
    check("etcdserverpb.PutRequest", r#"{"key":null,"lease":null}"#, "{}");
    let txn = concat!(
        r#"{"compare":[{"target":"CREATE","key":"Zm9v","create_revision":"2"}],"#,
        r#""success":[{"requestPut":{"key":"Zm9v","value":"YmFy"}}]}"#
    );
    let printed = concat!(
        r#"{"compare":[{"target":"CREATE","key":"Zm9v","create_revision":"2"}],"#,
        r#""success":[{"request_put":{"key":"Zm9v","value":"YmFy"}}]}"#
    );
    check("etcdserverpb.TxnRequest", txn, printed);
    // A choice that was made is a choice, even of zero.
    check("etcdserverpb.Compare", r#"{"version":"0"}"#, r#"{"version":"0"}"#);
}

#[test]
fn values_are_found_however_the_body_is_cut() {
    let body = br#" {"a":"}\"{"}  {"b":[{},{"c":1}]}{} "#;
    for piece in 1..body.len() {
        let mut splitter = Splitter::new(100);
        let mut found = Vec::new();
        for chunk in body.chunks(piece) {
            splitter.push(chunk);
            while let Some(value) = splitter.next().unwrap() {
                found.push(String::from_utf8(value.to_vec()).unwrap());
            }
        }
        splitter.end().unwrap();
        assert_eq!(found, [r#"{"a":"}\"{"}"#, r#"{"b":[{},{"c":1}]}"#, "{}"], "in pieces of {piece}");
    }
}

#[test]
fn a_body_that_is_no_object_or_too_large_is_refused() {
    let refused = |text: &[u8]| {
        let mut splitter = Splitter::new(20);
        splitter.push(text);
        splitter.next().and_then(|_| splitter.end()).unwrap_err().code()
    };
    assert_eq!(refused(b"[1]"), Code::InvalidArgument);
    assert_eq!(refused(b"{\"a\":"), Code::InvalidArgument);
    assert_eq!(refused(&[b'{'; 21]), Code::ResourceExhausted);
}

/// One request; the whole answer.
async fn post(router: &axum::Router, path: &str, body: &str) -> (StatusCode, String) {
    let request = Request::post(path).body(Body::from(body.to_owned())).unwrap();
    let response = within(router.clone().oneshot(request)).await.unwrap();
    let status = response.status();
    let body = within(response.into_body().collect()).await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

/// Without the header, whose contents differ from run to run.
fn bare(text: &str) -> String {
    let Some(start) = text.find("\"header\":{") else { return text.to_owned() };
    let end = start + text[start..].find('}').unwrap() + 1;
    let end = end + usize::from(text[end..].starts_with(','));
    format!("{}{}", &text[..start], &text[end..])
}

#[test]
fn keys_leases_and_members_are_served() {
    run(async {
        let alone = Alone::start().await;
        let router = Edge::new(alone.member.clone(), EdgeConfig::default()).router();
        let check = async |path: &str, body: &str, expected: &str| {
            let (status, text) = post(&router, path, body).await;
            assert_eq!((status, bare(&text).as_str()), (StatusCode::OK, expected), "{path} {body}: {text}");
        };
        check("/v3/kv/put", r#"{"key":"Zm9v","value":"YmFy"}"#, "{}").await;
        let (_, put) = post(&router, "/v3/kv/put", r#"{"key":"Zm9v","value":"YmF6","prev_kv":true}"#).await;
        let id = alone.member.status().id.0;
        let header =
            format!("{{\"header\":{{\"cluster_id\":\"12\",\"member_id\":\"{id}\",\"revision\":\"3\",\"raft_term\":\"");
        assert!(put.starts_with(&header), "{put}");
        let kv = r#""create_revision":"2","mod_revision":"3","version":"2","value":"YmF6"}"#;
        check("/v3/kv/range", r#"{"key":"Zm9v"}"#, &format!(r#"{{"kvs":[{{"key":"Zm9v",{kv}],"count":"1"}}"#)).await;
        check("/v3beta/kv/range", r#"{"key":"Zm9v","count_only":true}"#, r#"{"count":"1"}"#).await;
        let txn = r#"{"success":[{"requestDeleteRange":{"key":"Zm9v"}}]}"#;
        let (_, text) = post(&router, "/v3/kv/txn", txn).await;
        let deleted =
            r#""succeeded":true,"responses":[{"response_delete_range":{"header":{"revision":"4"},"deleted":"1"}}]}"#;
        assert!(text.ends_with(deleted), "{text}");
        check("/v3/kv/deleterange", r#"{"key":"Zm9v"}"#, "{}").await;
        check("/v3/kv/compaction", r#"{"revision":3}"#, "{}").await;
        check("/v3/lease/grant", r#"{"TTL":"100","ID":7}"#, r#"{"ID":"7","TTL":"100"}"#).await;
        for path in ["/v3/lease/leases", "/v3/kv/lease/leases"] {
            check(path, "", r#"{"leases":[{"ID":"7"}]}"#).await;
        }
        for path in ["/v3/lease/timetolive", "/v3/kv/lease/timetolive"] {
            let (_, text) = post(&router, path, r#"{"ID":7}"#).await;
            assert!(text.ends_with(r#","grantedTTL":"100"}"#), "{text}");
        }
        check("/v3/lease/keepalive", r#"{"ID":7}"#, "{\"result\":{\"ID\":\"7\",\"TTL\":\"100\"}}\n").await;
        check("/v3/kv/lease/revoke", r#"{"ID":7}"#, "{}").await;
        let (_, members) = post(&router, "/v3/cluster/member/list", "{}").await;
        assert!(members.contains(r#""members":[{"ID":""#) && members.contains(r#""peerURLs":["http://"#), "{members}");
        let (_, status) = post(&router, "/v3/maintenance/status", "").await;
        assert!(status.contains(r#","version":"3.6.14","dbSize":""#), "{status}");
        let answered = |text: &str| (StatusCode::OK, text.to_owned());
        assert_eq!(post(&router, "/v3/maintenance/defragment", "{}").await, answered("{}"));
        let move_leader = format!(r#"{{"targetID":"{id}"}}"#);
        assert_eq!(post(&router, "/v3/maintenance/transfer-leadership", &move_leader).await, answered("{}"));
        let (_, snapshot) = post(&router, "/v3/maintenance/snapshot", "").await;
        let last = snapshot.lines().last().unwrap();
        assert!(last.starts_with(r#"{"result":{"blob":""#), "no header before the checksum: {}", &last[..40]);
        alone.member.shutdown().await;
    });
}

#[test]
fn failures_have_the_codes_of_grpc_and_http() {
    run(async {
        let alone = Alone::start().await;
        let router = Edge::new(alone.member.clone(), EdgeConfig::default()).router();
        let check = async |path: &str, body: &str, status: u16, code: u8, message: &str| {
            let expected = format!(r#"{{"code":{code},"message":"{message}"}}"#);
            let got = post(&router, path, body).await;
            assert_eq!(got, (StatusCode::from_u16(status).unwrap(), expected), "{path} {body}");
        };
        check("/v3/kv/put", "", 400, 3, "etcdserver: key is not provided").await;
        check("/v3/kv/put", r#"{"key":"#, 400, 3, "unexpected EOF").await;
        check("/v3/kv/put", "key", 400, 3, "invalid character 'k' looking for an object").await;
        let future = "etcdserver: mvcc: required revision is a future revision";
        check("/v3/kv/range", r#"{"key":"Zm9v","revision":"99"}"#, 400, 11, future).await;
        check("/v3/lease/revoke", r#"{"ID":9}"#, 404, 5, "etcdserver: requested lease not found").await;
        check("/v3/kv/nothing", "{}", 404, 5, "Not Found").await;
        let wrong = post(&router, "/v3/kv/put", r#"{"key":5}"#).await;
        assert!(wrong.0 == StatusCode::BAD_REQUEST && wrong.1.contains(r#""code":3"#), "{wrong:?}");
        let get = Request::get("/v3/kv/range").body(Body::empty()).unwrap();
        let response = router.clone().oneshot(get).await.unwrap();
        assert_eq!(response.status(), StatusCode::NOT_IMPLEMENTED);
        let large = format!(r#"{{"key":"Zm9v","value":"{}"}}"#, "YWFh".repeat(700_000));
        let (status, text) = post(&router, "/v3/kv/put", &large).await;
        assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
        assert!(text.contains("\"code\":8,\"message\":\"grpc: received message larger than max (2100"), "{text}");
        let large = format!(r#"{{"key":"Zm9v","value":"{}"}}"#, "YWFh".repeat(600_000));
        check("/v3/kv/put", &large, 400, 3, "etcdserver: request is too large").await;
        // A stream that fails at once has the status of its failure, too.
        let (status, text) = post(&router, "/v3/lease/keepalive", "[]").await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        let expected = "{\"error\":{\"code\":3,\"message\":\"invalid character '[' looking for an object\"}}\n";
        assert_eq!(text, expected);
        alone.member.shutdown().await;
    });
}

#[test]
fn a_switched_off_gateway_is_not_there() {
    run(async {
        let alone = Alone::start().await;
        let http = HttpConfig { enable_grpc_gateway: false, ..HttpConfig::default() };
        let router = Edge::new(alone.member.clone(), EdgeConfig { http, ..EdgeConfig::default() }).router();
        let got = post(&router, "/v3/kv/range", r#"{"key":"Zm9v"}"#).await;
        assert_eq!(got, (StatusCode::NOT_FOUND, "404 page not found\n".to_owned()));
        alone.member.shutdown().await;
    });
}

#[test]
fn a_watch_is_a_line_for_each_answer_and_ends_with_its_client() {
    run(async {
        let alone = Alone::start().await;
        let router = Edge::new(alone.member.clone(), EdgeConfig::default()).router();
        let body = r#"{"create_request":{"key":"Zm9v"}} {"create_request":{"key":"YmFy","watch_id":"5"}}"#;
        let request = Request::post("/v3/watch").body(Body::from(body)).unwrap();
        let response = within(router.clone().oneshot(request)).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let mut body = response.into_body();
        let mut line = async || {
            let frame = within(body.frame()).await.unwrap().unwrap();
            String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()
        };
        let created = line().await;
        assert!(created.starts_with(r#"{"result":{"header":{"cluster_id":"12","#), "{created}");
        assert!(created.ends_with("\"created\":true}}\n") && !created.contains("watch_id"), "{created}");
        assert!(line().await.ends_with("\"watch_id\":\"5\",\"created\":true}}\n"));
        post(&router, "/v3/kv/put", r#"{"key":"Zm9v","value":"YmFy"}"#).await;
        let event = r#","events":[{"kv":{"key":"Zm9v","create_revision":"2","mod_revision":"2","version":"1","value":"YmFy"}}]}}"#;
        let put = line().await;
        assert!(put.ends_with(&format!("{event}\n")), "{put}");
        post(&router, "/v3/kv/deleterange", r#"{"key":"Zm9v"}"#).await;
        let deleted = line().await;
        let event = r#","events":[{"type":"DELETE","kv":{"key":"Zm9v","mod_revision":"3"}}]}}"#;
        assert!(deleted.ends_with(&format!("{event}\n")), "{deleted}");
        assert!(!alone.member.reader().nobody_watches());
        drop(body);
        assert!(alone.member.reader().nobody_watches());
        let metrics = alone.member.metrics();
        assert_eq!(metrics.rpc.handled("/etcdserverpb.Watch/Watch", Code::Cancelled), 1);
        alone.member.shutdown().await;
    });
}

#[test]
fn a_call_waits_while_as_many_streams_are_open_as_may_be() {
    run(async {
        let alone = Alone::start().await;
        let router =
            Edge::new(alone.member.clone(), EdgeConfig { concurrent_streams_max: 2, ..EdgeConfig::default() }).router();
        let open = async || {
            let body = Body::from(r#"{"create_request":{"key":"Zm9v"}}"#);
            within(router.clone().oneshot(Request::post("/v3/watch").body(body).unwrap())).await.unwrap()
        };
        let streams = [open().await, open().await];
        let waiting = post(&router, "/v3/kv/range", r#"{"key":"Zm9v"}"#);
        tokio::pin!(waiting);
        assert!(futures::poll!(&mut waiting).is_pending());
        // Anything that needs no stream is answered meanwhile, and the waiting call is not.
        assert_eq!(post(&router, "/v3/nothing", "").await.0, StatusCode::NOT_FOUND);
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(streams);
        assert_eq!(waiting.await.0, StatusCode::OK);
        alone.member.shutdown().await;
    });
}

#[test]
fn a_malformed_request_in_a_stream_ends_it_with_an_error() {
    run(async {
        let alone = Alone::start().await;
        let router = Edge::new(alone.member.clone(), EdgeConfig::default()).router();
        let (status, text) = post(&router, "/v3/watch", r#"{"create_request":{"key":"Zm9v"}} nonsense"#).await;
        assert_eq!(status, StatusCode::OK);
        let last = text.lines().last().unwrap();
        assert!(last.starts_with(r#"{"error":{"code":3,"message":"invalid character 'n'"#), "{text}");
        assert!(alone.member.reader().nobody_watches());
        alone.member.shutdown().await;
    });
}
