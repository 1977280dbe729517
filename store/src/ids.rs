//! Newtypes for the numbers that travel, so that a revision is never taken for a log index.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $inner:ty, $format:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }
    };
}

number! {
    /// An MVCC revision. A fresh store is at 1; the first write makes it 2.
    Revision, i64, "{}"
}
number! {
    /// A position in the Raft log.
    LogIndex, u64, "{}"
}
number! {
    /// A Raft term.
    Term, u64, "{}"
}
number! {
    /// A member's identity; printed as etcd prints it: lower-case hexadecimal. 0 is "none".
    MemberId, u64, "{:x}"
}
number! {
    /// The cluster's identity; printed like a member's.
    ClusterId, u64, "{:x}"
}
number! {
    /// An etcd lease. 0 is "none".
    LeaseId, i64, "{:x}"
}

impl From<u64> for MemberId {
    fn from(number: u64) -> Self {
        Self(number)
    }
}
