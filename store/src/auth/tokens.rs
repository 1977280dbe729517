//! One member's table of simple tokens: who each belongs to, and when it was last used.
//!
//! A token lives for the time to live after its last use on this member. Assigning comes from the log, so every member
//! knows every token; time and use are the member's own, and a restart forgets them all.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::state::TokenChange;
use crate::limits;

/// When a token was last used, and a number that keeps equal moments apart.
type Place = (Duration, u64);

#[derive(Debug, Default)]
pub(crate) struct TokenTable {
    tokens: HashMap<String, Token>,
    by_use: BTreeMap<Place, String>,
    next: u64,
}

#[derive(Debug)]
struct Token {
    user: Arc<str>,
    place: Place,
}

impl TokenTable {
    pub(crate) fn change(&mut self, change: &TokenChange, now: Duration) {
        match change {
            TokenChange::Assigned { token, user } => self.assign(token, user, now),
            TokenChange::ForgetUser(user) => self.forget_user(user),
            TokenChange::ForgetAll => *self = Self { next: self.next, ..Self::default() },
        }
    }

    /// The user of a token, which this use keeps alive.
    pub(crate) fn user_of(&mut self, token: &str, now: Duration, ttl: Duration) -> Option<Arc<str>> {
        self.expire(now, ttl);
        self.next += 1;
        let found = self.tokens.get_mut(token)?;
        // A token in steady use is not moved for each request: an eighth of its life is fine enough, and a second at most.
        let step = (ttl / 8).min(Duration::from_secs(1));
        if now.saturating_sub(found.place.0) >= step {
            self.by_use.remove(&found.place);
            found.place = (now, self.next);
            self.by_use.insert(found.place, token.to_owned());
        }
        Some(found.user.clone())
    }

    /// Drops every token that was not used for `ttl`.
    pub(crate) fn expire(&mut self, now: Duration, ttl: Duration) {
        while let Some(first) = self.by_use.first_entry() {
            if now.saturating_sub(first.key().0) <= ttl {
                break;
            }
            self.tokens.remove(&first.remove());
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.tokens.len()
    }

    fn assign(&mut self, token: &str, user: &str, now: Duration) {
        if self.tokens.len() >= limits::AUTH_TOKENS_MAX
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.tokens.remove(&oldest);
        }
        self.next += 1;
        let place = (now, self.next);
        let before = self.tokens.insert(token.to_owned(), Token { user: user.into(), place });
        assert!(before.is_none(), "a token holds its log index, so it is assigned once");
        self.by_use.insert(place, token.to_owned());
    }

    fn forget_user(&mut self, user: &str) {
        self.tokens.retain(|_, token| {
            let keep = &*token.user != user;
            if !keep {
                self.by_use.remove(&token.place);
            }
            keep
        });
    }
}

/// The log index in a simple token, `letters.index`.
#[must_use]
pub fn index_of(token: &str) -> Option<u64> {
    let (letters, index) = token.split_once('.')?;
    if letters.is_empty() { None } else { index.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(300);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn assigned(token: &str, user: &str) -> TokenChange {
        TokenChange::Assigned { token: token.to_owned(), user: user.to_owned() }
    }

    #[test]
    fn a_token_lives_for_its_time_after_its_last_use() {
        let mut table = TokenTable::default();
        table.change(&assigned("a.1", "alice"), at(0));
        table.change(&assigned("b.2", "bob"), at(0));
        assert_eq!(table.user_of("a.1", at(300), TTL).as_deref(), Some("alice"));
        assert_eq!(table.user_of("a.1", at(600), TTL).as_deref(), Some("alice"));
        assert_eq!(table.user_of("b.2", at(600), TTL), None);
        assert_eq!(table.user_of("a.1", at(901), TTL), None);
        assert_eq!((table.len(), table.by_use.len()), (0, 0));
    }

    #[test]
    fn a_users_tokens_are_forgotten_together() {
        let mut table = TokenTable::default();
        for (token, user) in [("a.1", "alice"), ("b.2", "bob"), ("a.3", "alice")] {
            table.change(&assigned(token, user), at(0));
        }
        table.change(&TokenChange::ForgetUser("alice".to_owned()), at(1));
        assert_eq!(table.user_of("a.3", at(1), TTL), None);
        assert_eq!(table.user_of("b.2", at(1), TTL).as_deref(), Some("bob"));
        table.change(&TokenChange::ForgetAll, at(1));
        assert_eq!((table.len(), table.by_use.len()), (0, 0));
    }

    #[test]
    fn above_the_limit_the_token_longest_unused_goes() {
        let mut table = TokenTable::default();
        for number in 0..=limits::AUTH_TOKENS_MAX {
            table.change(&assigned(&format!("t.{number}"), "alice"), at(0));
        }
        assert_eq!(table.len(), limits::AUTH_TOKENS_MAX);
        assert_eq!(table.user_of("t.0", at(0), TTL), None);
        assert!(table.user_of("t.1", at(0), TTL).is_some());
    }

    #[test]
    fn only_letters_a_dot_and_an_index_are_a_simple_token() {
        assert_eq!(index_of("abc.17"), Some(17));
        for token in ["", ".", "abc", "abc.", ".5", "abc.x", "abc.1.2", "abc.-1"] {
            assert_eq!(index_of(token), None, "{token}");
        }
    }
}
