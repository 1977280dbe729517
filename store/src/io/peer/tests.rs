//! Calls between members over loopback.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::client::{Client, Clients};
use super::{Answer, Identity, Kind, Lane, Later, PeerError, Service, server};
use crate::consensus::types::Address;
use crate::ids::{ClusterId, MemberId};
use crate::io::network::{Network, Tcp};

const SERVER: Identity = Identity { cluster: ClusterId(1), member: MemberId(0xb) };
const SECOND: Duration = Duration::from_secs(1);

/// Answers proposals with their body, refuses votes, and never answers appends until it is told to.
#[derive(Default)]
struct Echo {
    release: Arc<Notify>,
    lost: Arc<Notify>,
}

impl Service for Echo {
    fn call(&self, _from: MemberId, kind: Kind, body: Bytes, _later: Later) -> BoxFuture<'static, Option<Answer>> {
        let release = self.release.clone();
        async move {
            Some(match kind {
                Kind::Append => {
                    release.notified().await;
                    Ok(body)
                }
                Kind::Vote => Err("no".to_owned()),
                _ => Ok(body),
            })
        }
        .boxed()
    }

    fn connected(&self, _member: MemberId) {}

    fn lost(&self, _member: MemberId) {
        self.lost.notify_one();
    }

    fn is_removed(&self, member: MemberId) -> bool {
        member == MemberId(0xc)
    }
}

struct Setup {
    address: Address,
    echo: Arc<Echo>,
    stop: CancellationToken,
}

async fn setup() -> Setup {
    let listener = Tcp.listen(([127, 0, 0, 1], 0).into()).await.unwrap();
    let address = Address { peer_urls: vec![format!("http://{}", listener.address().unwrap())] };
    let echo = Arc::new(Echo::default());
    let stop = CancellationToken::new();
    tokio::spawn(server::serve(listener, SERVER, echo.clone(), stop.clone()));
    Setup { address, echo, stop }
}

fn client(setup: &Setup, member: u64) -> (Arc<Clients>, Arc<Client>) {
    let me = Identity { cluster: ClusterId(1), member: MemberId(member) };
    let clients = Clients::new(Tcp::shared(), me);
    let client = clients.get(SERVER.member, &setup.address, Lane::Bulk);
    (clients, client)
}

#[tokio::test]
async fn calls_are_answered_out_of_order_and_refusals_say_why() {
    let setup = setup().await;
    let (_clients, client) = client(&setup, 0xa);
    let slow = tokio::spawn({
        let client = client.clone();
        async move { client.call(Kind::Append, Bytes::from_static(b"slow"), 10 * SECOND).await }
    });
    let large = Bytes::from(vec![7; 3 << 20]);
    assert_eq!(client.call(Kind::Propose, large.clone(), 10 * SECOND).await, Ok(large));
    let refused = client.call(Kind::Vote, Bytes::new(), 10 * SECOND).await;
    assert_eq!(refused, Err(PeerError::Refused("no".to_owned())));
    setup.echo.release.notify_one();
    assert_eq!(slow.await.unwrap(), Ok(Bytes::from_static(b"slow")));
}

#[tokio::test]
async fn a_lost_connection_fails_what_waits_and_the_next_call_connects_again() {
    let setup = setup().await;
    let (clients, client) = client(&setup, 0xa);
    let call = client.ordered().await.unwrap().call(Kind::Append, Bytes::new()).unwrap();
    assert_eq!(client.call(Kind::Propose, Bytes::new(), SECOND).await, Ok(Bytes::new()));
    setup.stop.cancel();
    assert!(matches!(call.await, Err(PeerError::Lost(_))));
    tokio::time::timeout(10 * SECOND, async {
        while !clients.is_gone(&setup.address).await {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("nothing listens any more");
    let refused = client.call(Kind::Propose, Bytes::new(), SECOND).await;
    assert!(matches!(refused, Err(PeerError::NotSent(_))), "{refused:?}");
}

#[tokio::test]
async fn the_receiver_notices_that_a_member_went_away() {
    let setup = setup().await;
    let (clients, client) = client(&setup, 0xa);
    client.call(Kind::Propose, Bytes::new(), SECOND).await.unwrap();
    drop((clients, client));
    tokio::time::timeout(10 * SECOND, setup.echo.lost.notified()).await.expect("noticed");
}

#[tokio::test]
async fn a_removed_member_is_refused_and_hears_of_it() {
    let setup = setup().await;
    let (clients, client) = client(&setup, 0xc);
    let refused = client.call(Kind::Propose, Bytes::new(), SECOND).await;
    assert_eq!(refused, Err(PeerError::NotSent("this member has been removed from the cluster".to_owned())));
    assert!(clients.removed().is_cancelled());
}

#[tokio::test]
async fn a_visitor_may_ask_who_the_members_are_and_nothing_else() {
    let setup = setup().await;
    let url = &setup.address.peer_urls[0];
    assert_eq!(super::client::visit(&Tcp, url, Kind::Roster, 10 * SECOND).await, Ok(Bytes::new()));
    let refused = super::client::visit(&Tcp, url, Kind::Propose, 10 * SECOND).await;
    assert!(matches!(refused, Err(PeerError::Lost(_))), "{refused:?}");
}
