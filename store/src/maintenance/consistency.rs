//! Comparing the members' contents: who is right when they differ, and when to look.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ids::MemberId;
use crate::limits;

/// What a comparison found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everyone who answered has the same contents.
    Consistent,
    /// More than half of the cluster agree, and these members have something else.
    Differ(Vec<MemberId>),
    /// There is a difference, and no majority for either side.
    NoMajority,
}

/// Judges the digests of members at one revision above one floor, in a cluster of `size` members.
#[must_use]
pub fn judge(size: usize, digests: &[(MemberId, u32)]) -> Verdict {
    let mut votes: BTreeMap<u32, usize> = BTreeMap::new();
    for (_, digest) in digests {
        *votes.entry(*digest).or_default() += 1;
    }
    if votes.len() <= 1 {
        return Verdict::Consistent;
    }
    match votes.into_iter().find(|(_, votes)| *votes * 2 > size) {
        Some((right, _)) => {
            Verdict::Differ(digests.iter().filter(|(_, digest)| *digest != right).map(|(member, _)| *member).collect())
        }
        None => Verdict::NoMajority,
    }
}

/// When the leader compares: soon after a compaction, and otherwise now and then.
#[derive(Clone, Copy, Debug)]
pub struct Rhythm {
    /// Zero: never. None: [`limits::LEISURELY_CHECK_INTERVAL`], or longer if a comparison takes long.
    pub interval: Option<Duration>,
    /// Zero: a compaction is no occasion.
    pub after_compaction: Duration,
}

/// What the last comparison was like.
#[derive(Clone, Copy, Debug)]
pub struct Last {
    pub ended: Duration,
    /// How long it took: a large store is not read all the time.
    pub took: Duration,
    pub floor: i64,
}

impl Rhythm {
    /// Whether to compare at `now`, with the floor where it is now.
    #[must_use]
    pub fn is_due(&self, now: Duration, floor: i64, last: Last) -> bool {
        let idle = now.saturating_sub(last.ended);
        let leisurely = || limits::LEISURELY_CHECK_INTERVAL.max(last.took * limits::CHECK_IDLE_FACTOR);
        let interval = self.interval.unwrap_or_else(leisurely);
        let compacted = floor > last.floor && !self.after_compaction.is_zero() && idle >= self.after_compaction;
        compacted || (!interval.is_zero() && idle >= interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(size: usize, digests: &[u32]) -> Verdict {
        let digests: Vec<(MemberId, u32)> = (1..).map(MemberId).zip(digests.iter().copied()).collect();
        judge(size, &digests)
    }

    #[test]
    fn the_majority_is_right() {
        assert_eq!(judged(3, &[7, 7, 7]), Verdict::Consistent);
        assert_eq!(judged(3, &[7, 8, 7]), Verdict::Differ(vec![MemberId(2)]));
        assert_eq!(judged(3, &[8, 7, 7]), Verdict::Differ(vec![MemberId(1)]));
        assert_eq!(judged(5, &[8, 7, 7, 9, 7]), Verdict::Differ(vec![MemberId(1), MemberId(4)]));
    }

    #[test]
    fn without_a_majority_of_the_whole_cluster_nobody_is_right() {
        assert_eq!(judged(3, &[7, 8, 9]), Verdict::NoMajority);
        assert_eq!(judged(2, &[7, 8]), Verdict::NoMajority);
        assert_eq!(judged(3, &[7, 8]), Verdict::NoMajority, "the third is away");
        assert_eq!(judged(5, &[7, 7, 8]), Verdict::NoMajority);
    }

    #[test]
    fn who_does_not_answer_is_not_suspected() {
        assert_eq!(judged(3, &[7]), Verdict::Consistent);
        assert_eq!(judged(3, &[]), Verdict::Consistent);
    }

    #[test]
    fn a_compaction_is_an_occasion_and_time_is_another() {
        let seconds = Duration::from_secs;
        let last = Last { ended: seconds(1000), took: seconds(1), floor: 5 };
        let leisurely = Rhythm { interval: None, after_compaction: seconds(60) };
        assert!(!leisurely.is_due(seconds(1061), 5, last));
        assert!(!leisurely.is_due(seconds(1059), 6, last));
        assert!(leisurely.is_due(seconds(1060), 6, last));
        assert!(leisurely.is_due(seconds(1000) + limits::LEISURELY_CHECK_INTERVAL, 5, last));
        let slow = Last { took: limits::LEISURELY_CHECK_INTERVAL, ..last };
        assert!(!leisurely.is_due(seconds(1000) + limits::LEISURELY_CHECK_INTERVAL, 5, slow));
        let often = Rhythm { interval: Some(seconds(5)), after_compaction: Duration::ZERO };
        assert!(often.is_due(seconds(1005), 5, slow) && !often.is_due(seconds(1004), 6, slow));
        let never = Rhythm { interval: Some(Duration::ZERO), after_compaction: seconds(60) };
        assert!(!never.is_due(seconds(1_000_000), 5, last) && never.is_due(seconds(1060), 6, last));
    }
}
