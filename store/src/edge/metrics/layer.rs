//! Counts every RPC that passes: started, handled by code, messages and bytes each way, slow ones by name.
//!
//! The code of a call is in its trailers, or in its headers when there is nothing else. A call whose body is dropped
//! before them was cancelled by its client, which is how most watches end.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::body::{Metered, Requests};
use crate::io::clock::Stopwatch;
use crate::metrics::RpcMetrics;
use crate::metrics::rpc::Method;

/// What is counted beside the plain numbers.
#[derive(Clone)]
pub(in crate::edge) struct Counting {
    pub(in crate::edge) metrics: Arc<RpcMetrics>,
    /// A histogram for each method.
    pub(in crate::edge) extensive: bool,
    /// A slower unary call is logged.
    pub(in crate::edge) warn_unary: Duration,
}

impl<S> Layer<S> for Counting {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, counting: self.clone() }
    }
}

#[derive(Clone)]
pub struct Counted<S> {
    inner: S,
    counting: Counting,
}

impl<S, B, R> Service<Request<B>> for Counted<S>
where
    S: Service<Request<Metered<B, Requests>>, Response = Response<R>, Error = Infallible>,
    S::Future: Unpin,
    R: Default,
{
    type Response = Response<Metered<R, Call>>;
    type Error = Infallible;
    type Future = Calling<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Some(place) = self.counting.metrics.find(request.uri().path()) else {
            return Calling::Counted(self.inner.call(request.map(|body| Metered::new(body, None))), None);
        };
        let call = Call::start(&self.counting, place);
        let version = request.headers().get("client-api-version").map_or(&b"unknown"[..], |value| value.as_bytes());
        if self.counting.metrics.count_client(call.method().is_unary(), version).is_err() {
            let status = Status::invalid_argument("etcdserver: invalid client api version");
            return Calling::Refused(Some((status, call)));
        }
        let requests = Requests { metrics: self.counting.metrics.clone(), place, broken: call.broken.clone() };
        let request = request.map(|body| Metered::new(body, Some(requests)));
        Calling::Counted(self.inner.call(request), Some(call))
    }
}

/// A call under way, until its answer begins.
pub enum Calling<F> {
    /// What is no RPC passes uncounted.
    Counted(F, Option<Call>),
    Refused(Option<(Status, Call)>),
}

impl<F, R> Future for Calling<F>
where
    F: Future<Output = Result<Response<R>, Infallible>> + Unpin,
    R: Default,
{
    type Output = Result<Response<Metered<R, Call>>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Self::Counted(inner, call) => {
                let Ok(response) = ready!(Pin::new(inner).poll(context));
                let Some(mut call) = call.take() else {
                    return Poll::Ready(Ok(response.map(|body| Metered::new(body, None))));
                };
                let response = in_gos_words(response);
                let call = match code(response.headers()) {
                    Some(code) => {
                        call.finish(code);
                        None
                    }
                    None => Some(call),
                };
                Poll::Ready(Ok(response.map(|body| Metered::new(body, call))))
            }
            Self::Refused(refused) => {
                let (status, mut call) = refused.take().expect("a future is not polled after it is ready");
                call.finish(status.code());
                Poll::Ready(Ok(status.into_http::<R>().map(|body| Metered::new(body, None))))
            }
        }
    }
}

/// The code in trailers, or in headers that stand for them.
pub(super) fn code(headers: &HeaderMap) -> Option<Code> {
    headers.get("grpc-status").map(|value| Code::from_bytes(value.as_bytes()))
}

/// A request above the limit is refused by the framework before any of this program's code sees it. Clients know the code
/// and the text of Go's framework.
fn in_gos_words<R: Default>(response: Response<R>) -> Response<R> {
    if code(response.headers()) != Some(Code::OutOfRange) {
        return response;
    }
    let Some(status) = Status::from_header_map(response.headers()) else { return response };
    let Some(sizes) = status.message().strip_prefix("Error, decoded message length too large: found ") else {
        return response;
    };
    let mut sizes = sizes.split(|c: char| !c.is_ascii_digit()).filter(|number| !number.is_empty());
    let (Some(size), Some(limit)) = (sizes.next(), sizes.next()) else { return response };
    Status::resource_exhausted(format!("grpc: received message larger than max ({size} vs. {limit})")).into_http()
}

/// One call; cancelled if it is dropped before it is finished.
pub struct Call {
    metrics: Arc<RpcMetrics>,
    place: usize,
    extensive: bool,
    warn_unary: Duration,
    since: Stopwatch,
    finished: bool,
    /// Set when the requests of a stream broke off: whatever the call then ends with, its client is gone.
    broken: Option<Arc<AtomicBool>>,
}

impl Call {
    fn start(counting: &Counting, place: usize) -> Self {
        let metrics = counting.metrics.clone();
        let method = metrics.method(place);
        method.start();
        let broken = (!method.is_unary()).then(Arc::default);
        if method.path() == DEFRAGMENT {
            metrics.defragmenting.inc();
        }
        let Counting { extensive, warn_unary, .. } = *counting;
        Self { metrics, place, extensive, warn_unary, since: Stopwatch::start(), finished: false, broken }
    }

    fn method(&self) -> &Method {
        self.metrics.method(self.place)
    }

    pub(super) fn sent(&self, messages: u64, bytes: u64) {
        self.method().send(messages);
        self.metrics.sent_bytes.inc_by(bytes);
    }

    pub(super) fn finish(&mut self, code: Code) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        let broken = self.broken.as_ref().is_some_and(|broken| broken.load(Ordering::Relaxed));
        let code = if broken { Code::Cancelled } else { code };
        let took = self.since.elapsed();
        let method = self.method();
        method.finish(code, took, self.extensive);
        if method.path() == DEFRAGMENT {
            self.metrics.defragmenting.dec();
        }
        if method.is_unary() && took > self.warn_unary {
            tracing::warn!(method = method.path(), took = ?took, code = ?code, "request stats");
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.finish(Code::Cancelled);
    }
}

const DEFRAGMENT: &str = "/etcdserverpb.Maintenance/Defragment";
