//! Envelopes as kubectl 1.32 sends them (`kubectl create …`, base64), and made ones for what kubectl does not send.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::*;

fn check(body: &str, api_version: &str, expected: Value) {
    let (gvk, value) = decode(&STANDARD.decode(body).unwrap()).unwrap_or_else(|e| panic!("{body}: {e}"));
    assert_eq!(gvk.api_version(), api_version);
    assert_eq!(value, expected);
}

/// `kubectl create configmap settings --from-literal=color=blue --from-literal=empty=`
#[test]
fn a_config_map_of_kubectl() {
    let body =
        "azhzAAoPCgJ2MRIJQ29uZmlnTWFwEjQKGAoIc2V0dGluZ3MSABoAIgAqADIAOABCABINCgVjb2xvchIEYmx1ZRIJCgVlbXB0eRIAGgAiAA==";
    let expected = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"},
        "data": {"color": "blue", "empty": ""}});
    check(body, "v1", expected);
}

/// `kubectl create secret generic token --from-literal=password=hunter2`
#[test]
fn bytes_of_a_secret_become_base64() {
    let body = "azhzAAoMCgJ2MRIGU2VjcmV0Ei4KFQoFdG9rZW4SABoAIgAqADIAOABCABITCghwYXNzd29yZBIHaHVudGVyMhoAGgAiAA==";
    let expected = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "token"},
        "data": {"password": "aHVudGVyMg=="}});
    check(body, "v1", expected);
}

/// `kubectl create job pi --image=perl -- perl -e 'print 1'`
#[test]
fn a_job_of_kubectl() {
    let body = "azhzAAoPCghiYXRjaC92MRIDSm9iEooBChIKAnBpEgAaACIAKgAyADgAQgASajJoChAKABIAGgAiACoAMgA4AEIAElQSMQoCcGkSBHBlcmwa\
        BHBlcmwaAi1lGgdwcmludCAxKgBCAGoAcgCAAQCIAQCQAQCiAQAaBU5ldmVyMgBCAEoAUgBYAGAAaACCAQCKAQCaAQDCAQAaCCAAKAAwADoAGgAi\
        AA==";
    let container = json!({"name": "pi", "image": "perl", "command": ["perl", "-e", "print 1"], "resources": {}});
    let expected = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "pi"}, "status": {},
        "spec": {"template": {"metadata": {}, "spec": {"containers": [container], "restartPolicy": "Never"}}}});
    check(body, "batch/v1", expected);
}

/// `kubectl create service nodeport web --tcp=80:8080 --node-port=30080`
#[test]
fn a_target_port_becomes_a_number() {
    let body = "azhzAAoNCgJ2MRIHU2VydmljZRJqCh8KA3dlYhIAGgAiACoAMgA4AEIAWgoKA2FwcBIDd2ViEkMKHQoHODAtODA4MBIDVENQGFAiBwgA\
        EJA/GgAogOsBEgoKA2FwcBIDd2ViGgAiCE5vZGVQb3J0OgBCAFIAWgBgAGgAGgIKABoAIgA=";
    let expected = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {"type": "NodePort", "selector": {"app": "web"},
            "ports": [{"name": "80-8080", "protocol": "TCP", "port": 80, "targetPort": 8080, "nodePort": 30080}]},
        "status": {"loadBalancer": {}}});
    check(body, "v1", expected);
}

/// `kubectl create deployment web --image=nginx --replicas=0 --port=80`
#[test]
fn a_zero_behind_a_pointer_stays() {
    let body = "azhzAAoVCgdhcHBzL3YxEgpEZXBsb3ltZW50ErgBCh8KA3dlYhIAGgAiACoAMgA4AEIAWgoKA2FwcBIDd2ViEoYBCAASDAoKCgNhcHAS\
        A3dlYhpsChwKABIAGgAiACoAMgA4AEIAWgoKA2FwcBIDd2ViEkwSLgoFbmdpbngSBW5naW54KgAyCgoAEAAYUCIAKgBCAGoAcgCAAQCIAQCQAQCi\
        AQAaADIAQgBKAFIAWABgAGgAggEAigEAmgEAwgEAIgIKACgAOAAaDAgAEAAYACAAKAA4ABoAIgA=";
    let (_, value) = decode(&STANDARD.decode(body).unwrap()).unwrap();
    assert_eq!(value["spec"]["replicas"], json!(0));
    assert_eq!(value["spec"]["minReadySeconds"], Value::Null, "a zero without a pointer is absence");
    assert_eq!(value["spec"]["template"]["spec"]["containers"][0]["ports"], json!([{"containerPort": 80}]));
    assert_eq!(value["spec"]["selector"], json!({"matchLabels": {"app": "web"}}));
}

/// `kubectl create token robot --duration=20m`
#[test]
fn a_token_request_of_kubectl() {
    let body =
        "azhzAAooChhhdXRoZW50aWNhdGlvbi5rOHMuaW8vdjESDFRva2VuUmVxdWVzdBIdChAKABIAGgAiACoAMgA4AEIAEgMgsAkaBAoAEgAaACIA";
    let (gvk, value) = decode(&STANDARD.decode(body).unwrap()).unwrap();
    assert_eq!(gvk, Gvk::new("authentication.k8s.io", "v1", "TokenRequest"));
    assert_eq!(value["spec"]["expirationSeconds"], json!(1200));
}

/// `kubectl create poddisruptionbudget p --selector=app=x --min-available=50%` and `… quota q --hard=cpu=1,memory=1Gi`
#[test]
fn percentages_and_quantities_are_text() {
    let budget = "azhzAAogCglwb2xpY3kvdjESE1BvZERpc3J1cHRpb25CdWRnZXQSOAoRCgFwEgAaACIAKgAyADgAQgASFwoJCAEQABoDNTAlEgoKCAoD\
        YXBwEgF4GgoIABgAIAAoADAAGgAiAA==";
    let (_, value) = decode(&STANDARD.decode(budget).unwrap()).unwrap();
    assert_eq!(value["spec"]["minAvailable"], json!("50%"));
    let quota = "azhzAAoTCgJ2MRINUmVzb3VyY2VRdW90YRI0ChEKAXESABoAIgAqADIAOABCABIdCgoKA2NwdRIDCgExCg8KBm1lbW9yeRIFCgMxR2kaABoA\
        IgA=";
    let (_, value) = decode(&STANDARD.decode(quota).unwrap()).unwrap();
    assert_eq!(value["spec"]["hard"], json!({"cpu": "1", "memory": "1Gi"}));
}

/// {tag: bytes}, with lengths below 128.
fn field(tag: u16, bytes: &[u8]) -> Vec<u8> {
    let mut out = key(tag, 2);
    out.push(u8::try_from(bytes.len()).unwrap());
    out.extend(bytes);
    out
}

fn number(tag: u16, number: u8) -> Vec<u8> {
    let mut out = key(tag, 0);
    out.push(number);
    out
}

fn key(tag: u16, wire_type: u16) -> Vec<u8> {
    let key = tag << 3 | wire_type;
    if key < 128 { vec![key as u8] } else { vec![(key & 127) as u8 | 128, (key >> 7) as u8] }
}

fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let type_meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
    [b"k8s\0".to_vec(), field(1, &type_meta), field(2, raw)].concat()
}

#[test]
fn delete_options_are_known_in_every_group() {
    // gracePeriodSeconds 0, propagationPolicy, preconditions {uid}
    let raw = [number(1, 0), field(4, b"Orphan"), field(2, &field(1, b"u-1"))].concat();
    let (_, value) = decode(&envelope("apps/v1", "DeleteOptions", &raw)).unwrap();
    let expected = json!({"apiVersion": "apps/v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0,
        "propagationPolicy": "Orphan", "preconditions": {"uid": "u-1"}});
    assert_eq!(value, expected);
}

#[test]
fn inlined_messages_are_flattened() {
    // Volume {name, volumeSource {configMap {localObjectReference {name}, optional: false}}}
    let config_map = [field(1, &field(1, b"settings")), number(4, 0)].concat();
    let volume = [field(1, b"v"), field(2, &field(19, &config_map))].concat();
    let raw = field(2, &field(1, &volume));
    let (_, value) = decode(&envelope("v1", "Pod", &raw)).unwrap();
    let expected = json!([{"name": "v", "configMap": {"name": "settings", "optional": false}}]);
    assert_eq!(value["spec"]["volumes"], expected);
}

/// `userInfo.extra` is a map of lists, each a message of its own.
#[test]
fn wrapped_lists_and_negative_numbers() {
    let entry = [field(1, b"scopes"), field(2, &[field(1, b"a"), field(1, b"b")].concat())].concat();
    let raw = field(3, &field(2, &field(4, &entry)));
    let (_, value) = decode(&envelope("authentication.k8s.io/v1", "TokenReview", &raw)).unwrap();
    assert_eq!(value["status"]["user"]["extra"], json!({"scopes": ["a", "b"]}));
    let minus_one = [vec![1 << 3], vec![0xff; 9], vec![1]].concat();
    let (_, value) = decode(&envelope("v1", "DeleteOptions", &minus_one)).unwrap();
    assert_eq!(value["gracePeriodSeconds"], json!(-1));
}

#[test]
fn times_are_rfc_3339_and_the_zero_time_is_absence() {
    let seconds = [1 << 3, 0x90, 0xe7, 0xed, 0xcb, 0x06];
    let times = |bytes: &[u8], digits| special::time(bytes, digits).unwrap();
    assert_eq!(times(&seconds, 0), Some(json!("2026-01-29T14:49:52Z")));
    assert_eq!(times(&[&seconds[..], &[2 << 3, 0xe8, 0x07]].concat(), 6), Some(json!("2026-01-29T14:49:52.000001Z")));
    assert_eq!(times(&[], 0), None);
}

#[test]
fn malformed_bodies_are_refused() {
    let refused = |body: &[u8]| decode(body).unwrap_err().code;
    assert_eq!(refused(b"{}"), 400);
    assert_eq!(refused(b"k8s\0\x0a\x7f"), 400);
    assert_eq!(refused(&envelope("v1", "Gadget", b"")), 400);
    assert_eq!(refused(&envelope("v1", "Pod", &[1 << 3 | 2, 5, 1])), 400);
    assert_eq!(refused(&envelope("v1", "Pod", &number(1, 5))), 400);
    assert_eq!(refused(&envelope("v1", "ConfigMap", &field(2, &field(1, &[0xff])))), 400);
}

proptest::proptest! {
    /// Bodies come from the network: whatever they are, the answer is an object or a refusal.
    #[test]
    fn no_bytes_stop_the_decoder(raw: Vec<u8>, kind in 0..4_usize) {
        let (api_version, kind) =
            [("v1", "Pod"), ("batch/v1", "Job"), ("v1", "DeleteOptions"), ("v1", "Secret")][kind];
        let type_meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
        let length = u8::try_from(raw.len() % 128).unwrap();
        let body = [&b"k8s\0"[..], &field(1, &type_meta), &[2 << 3 | 2, length], &raw].concat();
        let _ = decode(&body);
    }
}
