//! What a user may read and write: unions of key ranges.
//!
//! All roles of a user are merged into sorted ranges that neither overlap nor touch, so that one search answers whether a
//! request's whole range is covered, however many grants it is made of. They are rebuilt when a role or user changes.

use bytes::Bytes;

/// The keys from `start` on and before `end`; without an end, all from `start` on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    start: Bytes,
    end: Option<Bytes>,
}

impl Span {
    /// `key` and `range_end` as in a range request: no end is the one key, an end of one zero byte is unbounded.
    #[must_use]
    pub fn of(key: &[u8], range_end: &[u8]) -> Self {
        let end = match range_end {
            [] => {
                let mut next = Vec::with_capacity(key.len() + 1);
                next.extend_from_slice(key);
                next.push(0);
                Some(Bytes::from(next))
            }
            [0] => None,
            _ => Some(Bytes::copy_from_slice(range_end)),
        };
        Self { start: Bytes::copy_from_slice(key), end }
    }
}

/// Whether a permission may be granted on these: a key, and an end above it if any.
#[must_use]
pub fn is_valid(key: &[u8], range_end: &[u8]) -> bool {
    !key.is_empty() && (range_end.is_empty() || range_end == [0] || key < range_end)
}

/// A set of keys as disjoint ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Union(Vec<Span>);

impl Union {
    #[must_use]
    pub fn of(mut spans: Vec<Span>) -> Self {
        spans.sort();
        let mut merged: Vec<Span> = Vec::with_capacity(spans.len());
        for span in spans {
            let Some(last) = merged.last_mut() else {
                merged.push(span);
                continue;
            };
            let Some(end) = &last.end else { break };
            if span.start > *end {
                merged.push(span);
            } else if span.end.as_ref().is_none_or(|other| other > end) {
                last.end = span.end;
            }
        }
        Self(merged)
    }

    /// Whether every key that the two name is in here. A range that is empty counts as its first key.
    #[must_use]
    pub fn covers(&self, key: &[u8], range_end: &[u8]) -> bool {
        let after = self.0.partition_point(|span| span.start.as_ref() <= key);
        let Some(span) = after.checked_sub(1).map(|place| &self.0[place]) else { return false };
        let Some(end) = &span.end else { return true };
        match range_end {
            [0] => false,
            range_end if range_end <= key => end.as_ref() > key,
            range_end => end.as_ref() >= range_end,
        }
    }
}

/// Everything a user's roles grant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    pub read: Union,
    pub write: Union,
}
