//! The way in from a client port.
//!
//! The calls of the KV service go straight to it. A router costs each of them a dozen allocations and as many virtual
//! calls, which is a tenth of what a put takes; all else is rare enough to be found by one.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::Router;
use http_body_util::Either;
use hyper::body::Incoming;
use kontiki_api::etcdserverpb::kv_server::KvServer;
use tower::Service;

use super::Edge;
use super::access::Guard;
use super::metrics::body::Metered;
use super::metrics::layer::{Call, Counted};

type Kv = Counted<Guard<KvServer<Edge>>>;

/// Everything that a client port serves.
#[derive(Clone)]
pub struct Surface {
    kv: Kv,
    rest: Router,
}

impl Surface {
    /// `rest` serves KV too, to callers in this process.
    pub(super) fn new(kv: Kv, rest: Router) -> Self {
        Self { kv, rest }
    }
}

type Body = Either<Metered<tonic::body::Body, Call>, axum::body::Body>;

impl Service<http::Request<Incoming>> for Surface {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Neither of the two is ever busy.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Incoming>) -> Answering {
        match request.uri().path().starts_with("/etcdserverpb.KV/") {
            true => Answering::Kv(self.kv.call(request)),
            false => Answering::Rest(self.rest.call(request)),
        }
    }
}

/// A call under way.
pub enum Answering {
    Kv(<Kv as Service<http::Request<Incoming>>>::Future),
    Rest(<Router as Service<http::Request<Incoming>>>::Future),
}

impl Future for Answering {
    type Output = Result<http::Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Self::Kv(call) => Pin::new(call).poll(context).map_ok(|response| response.map(Either::Left)),
            Self::Rest(call) => Pin::new(call).poll(context).map_ok(|response| response.map(Either::Right)),
        }
    }
}
