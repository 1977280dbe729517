//! What a request costs around the state machine: from the wire to a command, from there to the log, and back again on
//! the members that follow.

#![allow(clippy::disallowed_methods, reason = "benchmarks make the world they need")]

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use kontiki_api::etcdserverpb as pb;
use kontiki_store::command::Command;
use prost::Message;

const KEY: &str = "/registry/pods/default/nginx-7c5ddbdf54-8x2lq";

fn put() -> pb::PutRequest {
    pb::PutRequest { key: KEY.into(), value: Bytes::from_static(&[b'v'; 256]), ..pb::PutRequest::default() }
}

/// As Kubernetes updates an object: put it if its revision is the known one, else get it.
fn update() -> pb::TxnRequest {
    let unchanged = pb::Compare {
        result: pb::compare::CompareResult::Equal.into(),
        target: pb::compare::CompareTarget::Mod.into(),
        key: KEY.into(),
        target_union: Some(pb::compare::TargetUnion::ModRevision(1_234_567)),
        ..pb::Compare::default()
    };
    let get = pb::RangeRequest { key: KEY.into(), ..pb::RangeRequest::default() };
    let op = |request| vec![pb::RequestOp { request: Some(request) }];
    pb::TxnRequest {
        compare: vec![unchanged],
        success: op(pb::request_op::Request::RequestPut(put())),
        failure: op(pb::request_op::Request::RequestRange(get)),
    }
}

fn requests(criterion: &mut Criterion) {
    request(criterion, "put_256_bytes", &put(), Command::Put);
    request(criterion, "update_256_bytes", &update(), Command::Txn);
}

fn request<R: Message + Default>(criterion: &mut Criterion, name: &str, request: &R, command: impl Fn(R) -> Command) {
    let wire = Bytes::from(request.encode_to_vec());
    let from_wire = || command(R::decode(black_box(&wire).clone()).expect("just encoded"));
    let log = from_wire().encode();
    let mut group = criterion.benchmark_group("request");
    group.bench_function(format!("{name}/wire_to_command"), |bencher| bencher.iter(from_wire));
    let command = from_wire();
    group.bench_function(format!("{name}/command_to_log"), |bencher| bencher.iter(|| command.encode()));
    group.bench_function(format!("{name}/log_to_command"), |bencher| {
        bencher.iter(|| Command::decode(black_box(&log).clone()).expect("just encoded"));
    });
    group.finish();
}

criterion_group!(benches, requests);
criterion_main!(benches);
