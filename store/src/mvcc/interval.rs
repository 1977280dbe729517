//! What `key` and `range_end` of a request mean.

use std::ops::Bound;

use bytes::Bytes;

/// The keys that a request names. etcd's rules: no end is one key, an end of one zero byte is unbounded, and an end that
/// is not above the key is an empty range, which is no error.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interval {
    start: Bytes,
    end: End,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum End {
    /// Only `start` itself.
    Single,
    Before(Bytes),
    Unbounded,
}

impl Interval {
    #[must_use]
    pub fn of(key: &Bytes, range_end: &Bytes) -> Self {
        let end = match range_end.as_ref() {
            [] => End::Single,
            [0] => End::Unbounded,
            _ => End::Before(range_end.clone()),
        };
        // A key of one zero byte with an unbounded end means the whole keyspace, and no key sorts below it but the empty
        // one, which cannot exist.
        Self { start: key.clone(), end }
    }

    #[must_use]
    pub fn single(key: Bytes) -> Self {
        Self { start: key, end: End::Single }
    }

    /// The one key this names, if it is of that form.
    #[must_use]
    pub fn as_single(&self) -> Option<&Bytes> {
        matches!(self.end, End::Single).then_some(&self.start)
    }

    #[must_use]
    pub fn start(&self) -> &Bytes {
        &self.start
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(&self.end, End::Before(end) if *end <= self.start)
    }

    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        match &self.end {
            End::Single => key == self.start.as_ref(),
            End::Before(end) => self.start.as_ref() <= key && key < end.as_ref(),
            End::Unbounded => self.start.as_ref() <= key,
        }
    }

    /// The first key and the bound above the last one; nothing when the range is empty.
    #[must_use]
    pub fn bounds(&self) -> Option<(&[u8], Bound<&[u8]>)> {
        if self.is_empty() {
            return None;
        }
        let end = match &self.end {
            End::Single => Bound::Included(self.start.as_ref()),
            End::Before(end) => Bound::Excluded(end.as_ref()),
            End::Unbounded => Bound::Unbounded,
        };
        Some((self.start.as_ref(), end))
    }
}
