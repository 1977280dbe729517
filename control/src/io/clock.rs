//! The clock and the randomness of a request.

use k8s_openapi::jiff::Timestamp;
use rand::Rng;

use crate::registry::{Context, User};

/// Characters of generated names: no vowels, so that no words appear.
const SUFFIX_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// `2026-01-31T12:00:00Z`.
#[must_use]
pub fn now() -> String {
    crate::time::format(Timestamp::now())
}

/// Unix time in seconds.
#[must_use]
pub fn unix_s() -> u64 {
    u64::try_from(Timestamp::now().as_second()).unwrap_or(0)
}

#[must_use]
pub fn new_uid() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// What the verbs are told about one request.
#[must_use]
pub fn context(user: &User) -> Context {
    let mut random = rand::rng();
    let name_suffix =
        (0..5).map(|_| char::from(SUFFIX_ALPHABET[random.random_range(0..SUFFIX_ALPHABET.len())])).collect();
    Context { now: now(), uid: new_uid(), name_suffix, user: user.clone() }
}
