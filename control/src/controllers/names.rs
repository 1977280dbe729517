//! Names of created pods: five characters after the owner's name, as users know them, but not random.
//!
//! The suffix is a counter in disguise (an affine permutation of 27⁵ values, keyed by the owner's uid), and the counter goes on from
//! the highest among the pods that are seen. So two controllers that work from the same view, or one that works from an older
//! view than the other, choose the same names, and the API's "already exists" keeps them from creating twice. A random suffix
//! would make two leaders create twice as many pods as asked for.

use sha2::{Digest, Sha256};

/// Kubernetes' alphabet for names: no vowels, and nothing that looks like another.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
const LENGTH: usize = 5;
const VALUES: u64 = 27 * 27 * 27 * 27 * 27;
/// Names with a suffix fit a DNS label, because they become host names.
const LABEL_LENGTH_MAX: usize = 63;

/// The names of one owner's pods.
#[derive(Clone, Debug)]
pub struct Suffixes {
    prefix: String,
    multiplier: u64,
    offset: u64,
}

impl Suffixes {
    /// `prefix` is what the names start with, without the dash.
    #[must_use]
    pub fn new(prefix: &str, owner_uid: &str) -> Self {
        let digest = Sha256::new().chain_update(owner_uid).chain_update([0]).chain_update(prefix).finalize();
        let word = |at: usize| u64::from_be_bytes(digest[at..at + 8].try_into().expect("eight bytes"));
        // 27⁵ is a power of three: every multiplier that is not a multiple of three is invertible.
        let multiplier = (word(0) % (VALUES / 3)) * 3 + 1;
        let end = prefix.floor_char_boundary(LABEL_LENGTH_MAX - LENGTH - 1);
        Self {
            prefix: format!("{}-", prefix[..end].trim_end_matches(['-', '.'])),
            multiplier,
            offset: word(8) % VALUES,
        }
    }

    /// The name with this number.
    #[must_use]
    pub fn name(&self, number: u64) -> String {
        let mut value = (self.multiplier * (number % VALUES) + self.offset) % VALUES;
        let mut suffix = [0u8; LENGTH];
        for place in suffix.iter_mut().rev() {
            *place = ALPHABET[usize::try_from(value % 27).expect("below 27")];
            value /= 27;
        }
        let suffix = std::str::from_utf8(&suffix).expect("the alphabet is ASCII");
        format!("{}{suffix}", self.prefix)
    }

    /// The number of a name, if it is of this form.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u64> {
        let suffix = name.strip_prefix(&self.prefix)?;
        if suffix.len() != LENGTH {
            return None;
        }
        let mut value = 0;
        for byte in suffix.bytes() {
            value = value * 27 + ALPHABET.iter().position(|a| *a == byte)? as u64;
        }
        Some((value + VALUES - self.offset) % VALUES * inverse(self.multiplier) % VALUES)
    }

    /// `count` names that go on after the highest of the `seen` ones; `taken` says which are in use by anybody.
    pub fn fresh<'a>(
        &self,
        seen: impl Iterator<Item = &'a str>,
        count: usize,
        taken: impl Fn(&str) -> bool,
    ) -> Vec<String> {
        let next = seen.filter_map(|name| self.number(name)).max().map_or(0, |n| n + 1);
        (next..next + VALUES).map(|n| self.name(n)).filter(|name| !taken(name)).take(count).collect()
    }
}

/// Of a number that is not a multiple of three, modulo 27⁵: its power to φ(3¹⁵) − 1.
fn inverse(number: u64) -> u64 {
    let (mut base, mut exponent, mut result) = (number % VALUES, VALUES / 3 * 2 - 1, 1);
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = result * base % VALUES;
        }
        base = base * base % VALUES;
        exponent >>= 1;
    }
    result
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_look_as_users_know_them() {
        let name = Suffixes::new("web", "uid-1").name(0);
        assert!(name.starts_with("web-") && name.len() == 9, "{name}");
        let long = Suffixes::new(&"a".repeat(80), "uid-1").name(0);
        assert_eq!(long.len(), LABEL_LENGTH_MAX);
    }

    #[test]
    fn an_older_view_chooses_names_that_exist() {
        let suffixes = Suffixes::new("web", "uid-1");
        let first = suffixes.fresh(std::iter::empty(), 3, |_| false);
        let older_view = suffixes.fresh(first[..1].iter().map(String::as_str), 2, |_| false);
        assert_eq!(older_view, first[1..]);
        let next = suffixes.fresh(first.iter().map(String::as_str), 2, |_| false);
        assert!(next.iter().all(|n| !first.contains(n)));
    }

    #[test]
    fn names_in_use_and_names_of_others_are_passed_over() {
        let suffixes = Suffixes::new("web", "uid-1");
        let taken = suffixes.name(0);
        let names = suffixes.fresh(["web-not-ours", "other"].into_iter(), 1, |n| n == taken);
        assert_eq!(names, [suffixes.name(1)]);
    }

    proptest! {
        #[test]
        fn a_name_tells_its_number(uid in "[a-f0-9]{8}", number in 0..VALUES) {
            let suffixes = Suffixes::new("web", &uid);
            prop_assert_eq!(suffixes.number(&suffixes.name(number)), Some(number));
        }
    }
}
