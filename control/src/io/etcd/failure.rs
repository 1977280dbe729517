//! What can go wrong at the store, and what a client of the API is told about it.

use crate::status::ApiError;

/// A failure of the store itself (a lost race is not one: see [`super::Written`]).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreFailure {
    /// No quorum, no connection, no answer: worth another try.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// The revision asked for is no longer held.
    #[error("the revision has been compacted")]
    Compacted,
    #[error("the revision is in the future")]
    Future,
    #[error("the store refuses a request of {0} bytes")]
    TooLarge(String),
    #[error("{0}")]
    Internal(String),
}

impl From<tonic::Status> for StoreFailure {
    fn from(status: tonic::Status) -> Self {
        use tonic::Code;
        let message = status.message();
        match status.code() {
            Code::OutOfRange if message.contains("compacted") => Self::Compacted,
            Code::OutOfRange if message.contains("future") => Self::Future,
            Code::InvalidArgument if message.contains("too large") => Self::TooLarge(message.to_owned()),
            // A broken connection surfaces as Unknown or Cancelled, depending on when it broke.
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown | Code::Aborted => {
                Self::Unavailable(message.to_owned())
            }
            code => Self::Internal(format!("store: {code}: {message}")),
        }
    }
}

impl From<StoreFailure> for ApiError {
    fn from(failure: StoreFailure) -> Self {
        match failure {
            StoreFailure::Unavailable(why) => Self::unavailable(format!("the store is unavailable: {why}"), 1),
            StoreFailure::Compacted => Self::expired("The provided resourceVersion is too old: it has been compacted"),
            StoreFailure::Future => Self::too_large_resource_version(),
            StoreFailure::TooLarge(why) => Self::new(413, "RequestEntityTooLarge", why),
            StoreFailure::Internal(why) => Self::internal(why),
        }
    }
}
