//! A member alone, for the tests of the edges.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use super::{Member, MemberConfig, Peer};
use crate::ids::{ClusterId, MemberId};

pub(crate) const LONG: Duration = Duration::from_secs(60);

/// A one-member cluster that takes writes, in a directory of its own.
pub(crate) struct Alone {
    pub(crate) member: Member,
    _dir: tempfile::TempDir,
}

impl Alone {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let id = MemberId(1);
        let peer = Peer { name: "alone".to_owned(), peer_urls: vec!["http://127.0.0.1:1".to_owned()] };
        // Nobody calls it.
        let config = MemberConfig {
            client_urls: vec!["http://127.0.0.1:2".to_owned()],
            fsync: false,
            ..MemberConfig::new(id, ClusterId(12), dir.path().to_owned(), BTreeMap::from([(id, peer)]))
        };
        let member = Member::start(config).await.unwrap();
        within(member.read_barrier()).await.unwrap();
        let mut agreed = member.reader().agreed_version();
        while member.cluster_version().is_none() {
            within(agreed.changed()).await.unwrap();
        }
        Self { member, _dir: dir }
    }
}

pub(crate) async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, work).await.expect("within a minute")
}

pub(crate) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(test);
}
