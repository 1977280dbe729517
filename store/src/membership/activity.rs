//! Since when the leader has heard from each member without a break: etcd's checks ask for members that have been
//! connected for five seconds.
//!
//! A new leader has no past with the others. Whoever answers it in its first moments is taken to have been there for as
//! long as this process: a moved leadership must not make a healthy cluster look sick.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ids::MemberId;
use crate::limits::{MEMBER_SILENT, MEMBER_STABLE};

/// What this leader has of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sign {
    /// When it was last heard of.
    pub last: Option<Duration>,
    /// Whether a connection to it is open. One that has ended says at once what silence says after a while.
    pub is_linked: bool,
}

/// Times are since the start of this process.
#[derive(Clone, Debug, Default)]
pub struct Activity {
    /// When this member began to lead.
    leading_since: Option<Duration>,
    active_since: BTreeMap<MemberId, Duration>,
}

impl Activity {
    /// This member does not lead: it hears from nobody.
    pub fn rest(&mut self) {
        *self = Self::default();
    }

    /// Takes in what there is of each member.
    pub fn observe(&mut self, now: Duration, signs: impl IntoIterator<Item = (MemberId, Sign)>) {
        let leading_since = *self.leading_since.get_or_insert(now);
        for (member, Sign { last, is_linked }) in signs {
            let fresh = is_linked && last.is_some_and(|last| now.saturating_sub(last) < MEMBER_SILENT);
            if !fresh {
                self.active_since.remove(&member);
            } else if now.saturating_sub(leading_since) < MEMBER_SILENT {
                self.active_since.entry(member).or_insert(Duration::ZERO);
            } else {
                self.active_since.entry(member).or_insert(now);
            }
        }
    }

    /// How long this member has led.
    #[must_use]
    pub fn led_for(&self, now: Duration) -> Duration {
        self.leading_since.map_or(Duration::ZERO, |since| now.saturating_sub(since))
    }

    #[must_use]
    pub fn is_active(&self, member: MemberId) -> bool {
        self.active_since.contains_key(&member)
    }

    /// Whether `member` has been there for long enough to be relied on.
    #[must_use]
    pub fn is_stable(&self, member: MemberId, now: Duration) -> bool {
        self.active_since.get(&member).is_some_and(|since| now.saturating_sub(*since) >= MEMBER_STABLE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: MemberId = MemberId(1);
    const B: MemberId = MemberId(2);

    fn heard(last: Duration) -> Sign {
        Sign { last: Some(last), is_linked: true }
    }

    const NEVER: Sign = Sign { last: None, is_linked: true };

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_member_is_stable_after_five_seconds_without_a_break() {
        let mut activity = Activity::default();
        activity.observe(s(1), [(A, heard(s(1))), (B, NEVER)]);
        assert!(activity.is_active(A) && !activity.is_active(B));
        assert!(!activity.is_stable(A, s(4)), "the process itself is young");
        assert!(activity.is_stable(A, s(5)));
        activity.observe(s(10), [(A, heard(s(10))), (B, heard(s(10)))]);
        assert!(activity.is_stable(A, s(10)));
        assert!(activity.is_active(B) && !activity.is_stable(B, s(14)), "it came at 10 s");
        assert!(activity.is_stable(B, s(15)));
        activity.observe(s(20), [(A, heard(s(10))), (B, heard(s(20)))]);
        assert!(!activity.is_active(A));
        activity.observe(s(21), [(A, heard(s(21)))]);
        assert!(!activity.is_stable(A, s(25)) && activity.is_stable(A, s(26)));
    }

    #[test]
    fn a_new_leader_trusts_whoever_answers_at_once() {
        let mut activity = Activity::default();
        activity.observe(s(100), [(A, NEVER), (B, NEVER)]);
        activity.observe(s(100) + MEMBER_SILENT / 2, [(A, heard(s(100)))]);
        assert!(activity.is_stable(A, s(101)));
        activity.observe(s(103), [(A, heard(s(103))), (B, heard(s(103)))]);
        assert!(activity.is_stable(A, s(103)) && !activity.is_stable(B, s(103)));
        activity.rest();
        assert!(!activity.is_active(A));
    }

    #[test]
    fn a_member_whose_connections_have_ended_is_gone_at_once() {
        let mut activity = Activity::default();
        activity.observe(s(10), [(A, heard(s(10)))]);
        assert!(activity.is_stable(A, s(10)));
        let cut = Sign { is_linked: false, ..heard(s(10)) };
        activity.observe(s(10), [(A, cut)]);
        assert!(!activity.is_active(A) && !activity.is_stable(A, s(10)));
        activity.observe(s(12), [(A, heard(s(12)))]);
        assert!(activity.is_active(A) && !activity.is_stable(A, s(16)) && activity.is_stable(A, s(17)));
    }
}
