//! The script: every option and every refusal of the key-value, lease and maintenance calls, in an order that matters.

use bytes::Bytes;
use kontiki_api::authpb;
use kontiki_api::etcdserverpb as pb;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::request_op::Request;

use super::ask::Ask;

pub fn steps() -> Vec<Ask> {
    [keys(), ranges(), refusals(), transactions(), leases(), compactions(), maintenance(), roles_and_users()].concat()
}

pub fn put(key: &'static str, value: &'static str) -> pb::PutRequest {
    pb::PutRequest { key: key.into(), value: value.into(), ..Default::default() }
}

pub fn range(key: &'static str, end: &'static str) -> pb::RangeRequest {
    pb::RangeRequest { key: key.into(), range_end: end.into(), ..Default::default() }
}

pub fn delete(key: &'static str, end: &'static str) -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest { key: key.into(), range_end: end.into(), prev_kv: true }
}

fn keys() -> Vec<Ask> {
    vec![
        Ask::Range(range("a", "")),
        Ask::DeleteRange(delete("a", "")),
        Ask::Put(put("a", "1")),
        Ask::Put(pb::PutRequest { prev_kv: true, ..put("a", "1") }),
        Ask::Put(put("a", "2")),
        Ask::Put(put("empty", "")),
        Ask::Put(put("ab", "3")),
        Ask::Put(put("b", "4")),
        Ask::Put(pb::PutRequest {
            key: Bytes::from_static(b"\xff\xfe\x00"),
            value: "bytes".into(),
            ..Default::default()
        }),
        Ask::Put(pb::PutRequest { ignore_value: true, prev_kv: true, ..put("a", "") }),
        Ask::Put(pb::PutRequest { ignore_lease: true, prev_kv: true, ..put("a", "5") }),
        Ask::Put(pb::PutRequest { ignore_value: true, ..put("missing", "") }),
        Ask::Put(pb::PutRequest { ignore_lease: true, ..put("missing", "x") }),
        Ask::Put(pb::PutRequest { ignore_value: true, ..put("a", "given") }),
        Ask::Put(pb::PutRequest { ignore_lease: true, lease: 1, ..put("a", "x") }),
        Ask::DeleteRange(delete("b", "")),
        Ask::DeleteRange(delete("b", "")),
        Ask::Put(put("b", "again")),
        Ask::Range(range("b", "")),
        Ask::DeleteRange(pb::DeleteRangeRequest { prev_kv: false, ..delete("a", "b") }),
        Ask::Range(range("\0", "\0")),
    ]
}

fn ranges() -> Vec<Ask> {
    let mut steps = Vec::new();
    for (key, value) in [("r/1", "d"), ("r/2", "c"), ("r/3", "b"), ("r/4", "a"), ("r/2", "z"), ("r/5", "e")] {
        steps.push(Ask::Put(put(key, value)));
    }
    steps.push(Ask::DeleteRange(delete("r/4", "")));
    let all = range("r/", "r0");
    for limit in [-1, 0, 1, 3, 4, 5] {
        steps.push(Ask::Range(pb::RangeRequest { limit, ..all.clone() }));
    }
    for revision in [-5, -1, 1, 2, 22, 25, 27, 28] {
        steps.push(Ask::Range(pb::RangeRequest { revision, ..all.clone() }));
        steps.push(Ask::Range(pb::RangeRequest { revision, limit: 2, ..all.clone() }));
    }
    for (sort_order, sort_target) in (0..3).flat_map(|order| (0..5).map(move |target| (order, target))) {
        steps.push(Ask::Range(pb::RangeRequest { sort_order, sort_target, ..all.clone() }));
        steps.push(Ask::Range(pb::RangeRequest { sort_order, sort_target, limit: 2, ..all.clone() }));
    }
    // Not asked: sort orders and targets that do not exist. 3.4 takes any number, 3.6 refuses ("invalid sort option").
    for request in [
        pb::RangeRequest { count_only: true, ..all.clone() },
        pb::RangeRequest { count_only: true, limit: 1, ..all.clone() },
        pb::RangeRequest { keys_only: true, ..all.clone() },
        pb::RangeRequest { serializable: true, ..all.clone() },
        pb::RangeRequest { min_mod_revision: 24, ..all.clone() },
        pb::RangeRequest { max_mod_revision: 24, ..all.clone() },
        pb::RangeRequest { min_create_revision: 23, limit: 1, ..all.clone() },
        pb::RangeRequest { max_create_revision: 23, limit: 1, count_only: true, ..all.clone() },
        pb::RangeRequest { max_create_revision: 23, limit: 1, ..all.clone() },
        range("r/3", "\0"),
        range("r0", "r/"),
        range("r/1", "r/1"),
        range("\0", "r/3"),
        range("", ""),
        range("", "\0"),
    ] {
        steps.push(Ask::Range(request));
    }
    steps
}

fn refusals() -> Vec<Ask> {
    let many = |count: usize| pb::TxnRequest {
        success: (0..count)
            .map(|i| op(Request::RequestPut(pb::PutRequest { key: format!("many/{i}").into(), ..Default::default() })))
            .collect(),
        ..Default::default()
    };
    vec![
        Ask::Put(put("", "x")),
        Ask::DeleteRange(delete("", "")),
        Ask::DeleteRange(delete("", "\0")),
        Ask::Put(pb::PutRequest { lease: 12345, ..put("k", "v") }),
        Ask::Put(pb::PutRequest { lease: -1, ..put("k", "v") }),
        Ask::Range(pb::RangeRequest { revision: 1_000_000, ..range("a", "") }),
        Ask::Txn(many(128)),
        Ask::Txn(many(129)),
        Ask::Txn(pb::TxnRequest { compare: vec![compare("c", TargetUnion::Version(0)); 129], ..Default::default() }),
        Ask::Compact(pb::CompactionRequest { revision: 1_000_000, physical: false }),
        Ask::LeaseRevoke(pb::LeaseRevokeRequest { id: 99 }),
        Ask::LeaseRevoke(pb::LeaseRevokeRequest { id: 0 }),
        Ask::LeaseTimeToLive(pb::LeaseTimeToLiveRequest { id: 99, keys: true }),
        Ask::LeaseKeepAlive(pb::LeaseKeepAliveRequest { id: 99 }),
        Ask::HashKv(pb::HashKvRequest { revision: 1_000_000 }),
        Ask::MoveLeader(pb::MoveLeaderRequest { target_id: 1 }),
    ]
}

fn op(request: Request) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

fn compare(key: &'static str, target: TargetUnion) -> pb::Compare {
    let kind = match &target {
        TargetUnion::Version(_) => CompareTarget::Version,
        TargetUnion::CreateRevision(_) => CompareTarget::Create,
        TargetUnion::ModRevision(_) => CompareTarget::Mod,
        TargetUnion::Value(_) => CompareTarget::Value,
        TargetUnion::Lease(_) => CompareTarget::Lease,
    };
    pb::Compare {
        result: CompareResult::Equal.into(),
        target: kind.into(),
        key: key.into(),
        range_end: Bytes::new(),
        target_union: Some(target),
    }
}

fn txn(compare: Vec<pb::Compare>, success: Vec<Request>, failure: Vec<Request>) -> pb::TxnRequest {
    let ops = |requests: Vec<Request>| requests.into_iter().map(op).collect();
    pb::TxnRequest { compare, success: ops(success), failure: ops(failure) }
}

fn transactions() -> Vec<Ask> {
    let put = |key, value| Request::RequestPut(put(key, value));
    let get = |key, end| Request::RequestRange(range(key, end));
    let del = |key, end| Request::RequestDeleteRange(delete(key, end));
    let nested = |inner| Request::RequestTxn(inner);
    let absent = compare("t/new", TargetUnion::CreateRevision(0));
    let requests = vec![
        txn(vec![], vec![], vec![]),
        txn(vec![absent.clone()], vec![put("t/new", "1")], vec![get("t/new", "")]),
        txn(vec![absent.clone()], vec![put("t/new", "1")], vec![get("t/new", "")]),
        txn(vec![], vec![put("t/a", "1"), get("t/a", ""), put("t/b", "2"), get("t/", "t0")], vec![]),
        txn(vec![], vec![del("t/a", ""), get("t/a", ""), put("t/c", "3")], vec![]),
        txn(vec![], vec![put("t/x", "1"), put("t/x", "2")], vec![]),
        txn(vec![], vec![put("t/x", "1"), del("t/", "t0")], vec![]),
        txn(vec![], vec![del("t/", "t0"), del("t/b", "")], vec![]),
        txn(vec![], vec![del("nothing", "")], vec![]),
        txn(vec![compare("t/none", TargetUnion::Value("x".into()))], vec![put("t/y", "yes")], vec![put("t/n", "no")]),
        txn(vec![compare("t/none", TargetUnion::Version(0))], vec![put("t/y", "yes")], vec![put("t/n", "no")]),
        txn(vec![compare("t/none", TargetUnion::Lease(0))], vec![put("t/y", "yes")], vec![put("t/n", "no")]),
        txn(
            vec![pb::Compare { range_end: "u".into(), ..compare("t/", TargetUnion::ModRevision(0)) }],
            vec![],
            vec![get("t/", "t0")],
        ),
        txn(
            vec![pb::Compare { range_end: "zz".into(), ..compare("z", TargetUnion::Version(5)) }],
            vec![get("t/y", "")],
            vec![],
        ),
        txn(
            vec![],
            vec![
                put("t/o", "outer"),
                nested(txn(
                    vec![compare("t/o", TargetUnion::Version(0))],
                    vec![put("t/i", "inner"), get("t/o", "")],
                    vec![],
                )),
            ],
            vec![],
        ),
        txn(vec![], vec![put("t/o", "1"), nested(txn(vec![], vec![put("t/o", "2")], vec![]))], vec![]),
        txn(vec![], vec![nested(txn(vec![], vec![], vec![])), get("t/o", "")], vec![]),
        txn(
            vec![],
            vec![put("t/p", "1"), Request::RequestRange(pb::RangeRequest { revision: 1_000_000, ..range("t/p", "") })],
            vec![],
        ),
        txn(
            vec![],
            vec![put("t/q", "1"), Request::RequestPut(pb::PutRequest { lease: 4242, ..Default::default() })],
            vec![],
        ),
        txn(
            vec![],
            vec![
                put("t/q", "1"),
                Request::RequestPut(pb::PutRequest { key: "t/r".into(), lease: 4242, ..Default::default() }),
            ],
            vec![],
        ),
        txn(
            vec![],
            vec![Request::RequestPut(pb::PutRequest {
                key: "t/none".into(),
                ignore_value: true,
                ..Default::default()
            })],
            vec![],
        ),
        txn(vec![], vec![get("", "")], vec![]),
        pb::TxnRequest { success: vec![pb::RequestOp { request: None }], ..Default::default() },
        pb::TxnRequest { compare: vec![compare("", TargetUnion::Version(0))], ..Default::default() },
        txn(vec![], vec![get("t/", "t0"), get("nothing", "")], vec![]),
    ];
    let mut steps: Vec<Ask> = requests.into_iter().map(Ask::Txn).collect();
    for result in 0..4 {
        for target in [TargetUnion::Version(1), TargetUnion::Value("yes".into()), TargetUnion::Lease(0)] {
            let compare = pb::Compare { result, ..compare("t/y", target) };
            steps.push(Ask::Txn(txn(vec![compare], vec![get("t/y", "")], vec![])));
        }
    }
    steps.push(Ask::Range(range("t/", "t0")));
    steps
}

fn leases() -> Vec<Ask> {
    let grant = |id, ttl| Ask::LeaseGrant(pb::LeaseGrantRequest { id, ttl });
    let leased = |key, lease| Ask::Put(pb::PutRequest { lease, prev_kv: true, ..put(key, "v") });
    vec![
        grant(501, 600),
        grant(501, 600),
        grant(502, 600),
        grant(503, 0),
        grant(504, -10),
        grant(505, 9_000_000_001),
        grant(506, 9_000_000_000),
        leased("l/b", 501),
        leased("l/a", 501),
        leased("l/c", 501),
        leased("l/c", 502),
        leased("l/a", 0),
        leased("l/a", 501),
        Ask::Put(pb::PutRequest { ignore_lease: true, prev_kv: true, ..put("l/a", "kept") }),
        Ask::LeaseTimeToLive(pb::LeaseTimeToLiveRequest { id: 501, keys: true }),
        Ask::LeaseKeepAlive(pb::LeaseKeepAliveRequest { id: 501 }),
        Ask::LeaseRevoke(pb::LeaseRevokeRequest { id: 501 }),
        Ask::LeaseRevoke(pb::LeaseRevokeRequest { id: 501 }),
        Ask::Range(range("l/", "l0")),
        Ask::DeleteRange(delete("l/c", "")),
        Ask::LeaseRevoke(pb::LeaseRevokeRequest { id: 502 }),
        Ask::LeaseRevoke(pb::LeaseRevokeRequest { id: 506 }),
        Ask::Range(range("\0", "\0")),
    ]
}

fn compactions() -> Vec<Ask> {
    let compact = |revision, physical| Ask::Compact(pb::CompactionRequest { revision, physical });
    let at = |revision| Ask::Range(pb::RangeRequest { revision, ..range("r/", "r0") });
    let get_at = |revision| Request::RequestRange(pb::RangeRequest { revision, ..range("r/1", "") });
    let put_new = || Request::RequestPut(put("c/new", "x"));
    vec![
        compact(0, false),
        compact(-1, false),
        compact(27, true),
        compact(27, false),
        compact(5, false),
        at(26),
        at(27),
        at(28),
        Ask::Txn(txn(vec![], vec![get_at(26)], vec![])),
        Ask::Txn(txn(vec![], vec![put_new(), get_at(26)], vec![])),
        Ask::Txn(txn(vec![], vec![put_new(), get_at(27)], vec![])),
        Ask::Txn(txn(vec![], vec![get_at(-1)], vec![])),
        Ask::HashKv(pb::HashKvRequest { revision: 26 }),
        Ask::HashKv(pb::HashKvRequest { revision: 0 }),
    ]
}

fn maintenance() -> Vec<Ask> {
    vec![Ask::Alarms]
}

/// Users and roles while authentication is off.
fn roles_and_users() -> Vec<Ask> {
    let permission = |kind: authpb::permission::Type, key: &'static str, end: &'static str| {
        Some(authpb::Permission { perm_type: kind.into(), key: key.into(), range_end: end.into() })
    };
    use authpb::permission::Type::{Read, Readwrite, Write};
    let grant = |name: &str, perm| Ask::RoleGrant(pb::AuthRoleGrantPermissionRequest { name: name.into(), perm });
    let revoke = |role: &str, key: &'static str, end: &'static str| {
        Ask::RoleRevoke(pb::AuthRoleRevokePermissionRequest {
            role: role.into(),
            key: key.into(),
            range_end: end.into(),
        })
    };
    let user = |name: &str, password: &str| {
        Ask::UserAdd(pb::AuthUserAddRequest { name: name.into(), password: password.into(), ..Default::default() })
    };
    let role_get = |role: &str| Ask::RoleGet(pb::AuthRoleGetRequest { role: role.into() });
    let user_get = |name: &str| Ask::UserGet(pb::AuthUserGetRequest { name: name.into() });
    vec![
        Ask::AuthEnable,
        Ask::Authenticate(pb::AuthenticateRequest { name: "root".into(), password: "x".into() }),
        Ask::RoleAdd(pb::AuthRoleAddRequest { name: String::new() }),
        Ask::RoleAdd(pb::AuthRoleAddRequest { name: "reader".into() }),
        Ask::RoleAdd(pb::AuthRoleAddRequest { name: "reader".into() }),
        role_get("none"),
        role_get("reader"),
        role_get("root"),
        grant("none", permission(Read, "a", "")),
        grant("reader", permission(Read, "b", "c")),
        grant("reader", permission(Readwrite, "a", "")),
        grant("reader", permission(Write, "b", "c")),
        grant("reader", permission(Read, "x", "\0")),
        // Not asked: a range that ends before it begins. 3.4 grants it, 3.6 refuses ("invalid auth management").
        role_get("reader"),
        revoke("reader", "nothing", ""),
        revoke("reader", "a", ""),
        role_get("reader"),
        user("", "x"),
        user("u", "x"),
        user("u", "x"),
        user_get("none"),
        user_get("u"),
        Ask::UserGrant(pb::AuthUserGrantRoleRequest { user: "u".into(), role: "none".into() }),
        Ask::UserGrant(pb::AuthUserGrantRoleRequest { user: "none".into(), role: "reader".into() }),
        Ask::UserGrant(pb::AuthUserGrantRoleRequest { user: "u".into(), role: "reader".into() }),
        user_get("u"),
        Ask::UserRevoke(pb::AuthUserRevokeRoleRequest { name: "u".into(), role: "other".into() }),
        Ask::UserChangePassword(pb::AuthUserChangePasswordRequest { name: "none".into(), ..Default::default() }),
        Ask::RoleList,
        Ask::UserList,
        Ask::RoleDelete(pb::AuthRoleDeleteRequest { role: "none".into() }),
        Ask::RoleDelete(pb::AuthRoleDeleteRequest { role: "reader".into() }),
        user_get("u"),
        user("root", "pw"),
        Ask::AuthEnable,
        Ask::UserDelete(pb::AuthUserDeleteRequest { name: "none".into() }),
        Ask::UserDelete(pb::AuthUserDeleteRequest { name: "u".into() }),
        Ask::UserList,
    ]
}
