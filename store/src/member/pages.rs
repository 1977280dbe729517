//! What the peer port says over HTTP, in etcd's words.

use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderValue, Response};
use kontiki_api::etcdserverpb as pb;
use serde::Serialize;

use super::inner::Inner;
use crate::edge::version_json;

const CLUSTER_ID: HeaderName = HeaderName::from_static("x-etcd-cluster-id");

/// A member as etcd's `/members` lists it; what is empty is left out but for the peer URLs.
#[derive(Serialize)]
struct Listed<'a> {
    id: u64,
    #[serde(rename = "peerURLs")]
    peer_urls: &'a [String],
    #[serde(rename = "isLearner", skip_serializing_if = "std::ops::Not::not")]
    is_learner: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(rename = "clientURLs", skip_serializing_if = "<[String]>::is_empty")]
    client_urls: &'a [String],
}

impl<'a> Listed<'a> {
    fn of(member: &'a pb::Member) -> Self {
        let pb::Member { id, name, peer_ur_ls, client_ur_ls, is_learner } = member;
        Self { id: *id, peer_urls: peer_ur_ls, is_learner: *is_learner, name, client_urls: client_ur_ls }
    }
}

impl Inner {
    pub(super) fn page(&self, path: &str) -> Option<Response<String>> {
        let mut page = Response::new(match path {
            "/members" => self.members_json(),
            "/version" => version_json(self.reader.agreed().cluster_version.map(|version| version.to_string())),
            _ => return None,
        });
        let headers = page.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if path == "/members" {
            let cluster = HeaderValue::from_str(&self.config.cluster_id.to_string());
            headers.insert(CLUSTER_ID, cluster.expect("an id is hexadecimal"));
        }
        Some(page)
    }

    fn members_json(&self) -> String {
        let table = self.reader.members();
        let members: Vec<Listed<'_>> = table.iter().map(|(_, member)| Listed::of(member)).collect();
        let mut json = serde_json::to_string(&members).expect("plain data always encodes");
        json.push('\n');
        json
    }
}
