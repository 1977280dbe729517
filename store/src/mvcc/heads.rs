//! The sorted keys of one node, condensed for searching.
//!
//! A key lies behind a pointer, so a binary search over keys misses the processor's cache at nearly every step. The keys of
//! a node share a prefix; the eight bytes after it, side by side as numbers, decide most searches within a few cache
//! lines. Only keys that agree in those too are looked at themselves.

use std::ops::Range;

const HEAD_BYTES: usize = 8;

#[derive(Debug, Default)]
pub(super) struct Heads {
    /// What all keys begin with.
    prefix: Box<[u8]>,
    /// For each key, what follows: big-endian, filled up with zeros.
    heads: Vec<u64>,
}

impl Heads {
    /// Of `count` keys in order.
    pub(super) fn of<'k>(count: usize, key: impl Fn(usize) -> &'k [u8]) -> Self {
        let Some(last) = count.checked_sub(1) else { return Self::default() };
        // In order, so that the first and the last agree in no more than all of them do.
        let prefix = &key(0)[..shared(key(0), key(last))];
        let mut heads = Vec::with_capacity(count);
        heads.extend((0..count).map(|index| head(&key(index)[prefix.len()..])));
        Self { prefix: prefix.into(), heads }
    }

    /// Where `key` is among the keys, or where it would have to be put.
    pub(super) fn search<'k>(&self, key: &[u8], at: impl Fn(usize) -> &'k [u8]) -> Result<usize, usize> {
        let known = self.candidates(key);
        let (mut low, mut high) = (known.start, known.end);
        while low < high {
            let middle = low.midpoint(high);
            match at(middle).cmp(key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Ok(middle),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    /// The places among which the keys themselves must decide: all before are less than `key`, all after are greater.
    fn candidates(&self, key: &[u8]) -> Range<usize> {
        let common = key.len().min(self.prefix.len());
        match key[..common].cmp(&self.prefix) {
            std::cmp::Ordering::Less => 0..0,
            std::cmp::Ordering::Greater => self.heads.len()..self.heads.len(),
            std::cmp::Ordering::Equal => {
                let head = head(&key[common..]);
                let first = self.heads.partition_point(|other| *other < head);
                let same = self.heads[first..].iter().take_while(|other| **other == head).count();
                first..first + same
            }
        }
    }

    /// Takes in the key that was put at `index`; `at` and `count` know it already.
    pub(super) fn insert<'k>(&mut self, index: usize, count: usize, growth: usize, at: impl Fn(usize) -> &'k [u8]) {
        let key = at(index);
        if self.heads.is_empty() || !key.starts_with(&self.prefix) {
            *self = Self::of(count, at);
            return;
        }
        if self.heads.len() == self.heads.capacity() {
            self.heads.reserve_exact(growth);
        }
        self.heads.insert(index, head(&key[self.prefix.len()..]));
    }

    pub(super) fn remove(&mut self, index: usize) {
        self.heads.remove(index);
    }
}

fn head(rest: &[u8]) -> u64 {
    if let Some(bytes) = rest.first_chunk::<HEAD_BYTES>() {
        return u64::from_be_bytes(*bytes);
    }
    let mut bytes = [0; HEAD_BYTES];
    bytes[..rest.len()].copy_from_slice(rest);
    u64::from_be_bytes(bytes)
}

/// In how many bytes two keys agree.
fn shared(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Keys over few letters, so that prefixes, heads and ends coincide often; zero bytes, because heads are filled up
    /// with them.
    fn key() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop::sample::select(vec![0_u8, 1, b'a', 255]), 0..14)
    }

    proptest! {
        #[test]
        fn a_search_finds_what_a_search_over_the_keys_finds(
            start in prop::collection::vec(prop::sample::select(vec![0_u8, b'a']), 0..12),
            ends in prop::collection::btree_set(key(), 0..60),
            inserted in prop::collection::vec(key(), 0..20),
            asked in prop::collection::vec(key(), 1..40),
        ) {
            let prefixed = |end: Vec<u8>| [start.clone(), end].concat();
            let mut keys: Vec<Vec<u8>> = ends.into_iter().map(prefixed).collect();
            let mut heads = Heads::of(keys.len(), |index| keys[index].as_slice());
            for key in inserted.into_iter().map(prefixed) {
                if let Err(index) = keys.binary_search(&key) {
                    keys.insert(index, key);
                    heads.insert(index, keys.len(), 6, |index| keys[index].as_slice());
                }
            }
            for key in asked.iter().cloned().chain(asked.iter().cloned().map(prefixed)).chain(keys.iter().cloned()) {
                prop_assert_eq!(heads.search(&key, |index| keys[index].as_slice()), keys.binary_search(&key));
            }
        }
    }
}
