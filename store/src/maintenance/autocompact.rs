//! Automatic compaction: when, and down to which revision.
//!
//! etcd's two modes with etcd's timing. Every member keeps the samples, so that a new leader goes on where the old one
//! was; only the leader acts on them.

use std::collections::VecDeque;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);
/// How often the mode that counts revisions looks.
const REVISION_INTERVAL: Duration = Duration::from_secs(300);
/// Samples taken between two compactions.
const SAMPLES: u32 = 10;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AutoCompaction {
    #[default]
    Off,
    /// Keeps the history of this long.
    Periodic(Duration),
    /// Keeps this many revisions.
    Revision(i64),
}

/// The decisions of one mode over time.
#[derive(Debug)]
pub struct Schedule {
    mode: Mode,
    /// What was compacted last, by this schedule.
    last: i64,
}

#[derive(Debug)]
enum Mode {
    Periodic {
        /// Revisions by age, the oldest first: a sample every `sample_interval`.
        samples: VecDeque<i64>,
        samples_max: usize,
        sample_interval: Duration,
        /// How long after the last success the next attempt is due: at first the whole period.
        due_after: Duration,
        interval: Duration,
        last_at: Duration,
    },
    Revision(i64),
}

impl Schedule {
    /// `None` when nothing is to be done, ever. `revision` is the current one at `now`.
    #[must_use]
    pub fn new(setting: AutoCompaction, now: Duration, revision: i64) -> Option<Self> {
        let mode = match setting {
            AutoCompaction::Off => return None,
            AutoCompaction::Periodic(period) if period.is_zero() => return None,
            AutoCompaction::Revision(kept) if kept <= 0 => return None,
            AutoCompaction::Revision(kept) => Mode::Revision(kept),
            AutoCompaction::Periodic(period) => {
                let interval = period.min(HOUR);
                let sample_interval = interval / SAMPLES;
                let kept = period.as_nanos() / sample_interval.as_nanos().max(1);
                Mode::Periodic {
                    samples: VecDeque::from([revision]),
                    samples_max: usize::try_from(kept).unwrap_or(usize::MAX).saturating_add(1),
                    sample_interval,
                    due_after: period,
                    interval,
                    last_at: now,
                }
            }
        };
        Some(Self { mode, last: 0 })
    }

    /// How often [`Schedule::tick`] is to be called.
    #[must_use]
    pub fn interval(&self) -> Duration {
        match &self.mode {
            Mode::Periodic { sample_interval, .. } => *sample_interval,
            Mode::Revision(_) => REVISION_INTERVAL,
        }
    }

    /// The revision to compact now, if it is time. `leads`: whether this member is the one to act.
    pub fn tick(&mut self, now: Duration, revision: i64, leads: bool) -> Option<i64> {
        let last = self.last;
        match &mut self.mode {
            Mode::Revision(kept) => {
                let target = revision - *kept;
                (leads && target > 0 && target != last).then_some(target)
            }
            Mode::Periodic { samples, samples_max, due_after, interval, last_at, .. } => {
                let oldest = samples.front().copied();
                samples.push_back(revision);
                if samples.len() > *samples_max {
                    samples.pop_front();
                }
                let target = oldest.filter(|oldest| *oldest != last)?;
                if !leads || now.saturating_sub(*last_at) < *due_after {
                    return None;
                }
                *due_after = *interval;
                Some(target)
            }
        }
    }

    /// `revision` is compacted, by this schedule or by somebody before.
    pub fn done(&mut self, now: Duration, revision: i64) {
        self.last = revision;
        if let Mode::Periodic { last_at, .. } = &mut self.mode {
            *last_at = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a schedule in which the revision is one more than the minutes since the start; what it compacts, and when.
    fn run(setting: AutoCompaction, minutes: u64, leads: impl Fn(u64) -> bool) -> Vec<(u64, i64)> {
        let mut schedule = Schedule::new(setting, Duration::ZERO, 1).unwrap();
        let mut compacted = Vec::new();
        let mut now = schedule.interval();
        while now.as_secs() <= minutes * 60 {
            let minute = now.as_secs() / 60;
            if let Some(revision) = schedule.tick(now, minute as i64 + 1, leads(minute)) {
                schedule.done(now, revision);
                compacted.push((minute, revision));
            }
            now += schedule.interval();
        }
        compacted
    }

    fn minutes(count: u64) -> Duration {
        Duration::from_secs(count * 60)
    }

    #[test]
    fn a_short_period_is_kept_and_compacted_once_in_each() {
        // As etcd, it keeps a sample more than the period has.
        let compacted = run(AutoCompaction::Periodic(minutes(10)), 45, |_| true);
        assert_eq!(compacted, [(10, 1), (20, 10), (30, 20), (40, 30)]);
    }

    #[test]
    fn a_long_period_is_compacted_every_hour() {
        let compacted = run(AutoCompaction::Periodic(minutes(300)), 500, |_| true);
        assert_eq!(compacted, [(300, 1), (360, 55), (420, 115), (480, 175)]);
    }

    #[test]
    fn a_follower_only_keeps_the_samples() {
        assert_eq!(run(AutoCompaction::Periodic(minutes(10)), 50, |_| false), []);
        let later = run(AutoCompaction::Periodic(minutes(10)), 50, |minute| minute >= 25);
        assert_eq!(later[0], (25, 15), "a new leader knows what is ten minutes old");
    }

    #[test]
    fn the_newest_revisions_are_kept_by_number() {
        assert_eq!(run(AutoCompaction::Revision(12), 25, |_| true), [(15, 4), (20, 9), (25, 14)]);
        assert_eq!(run(AutoCompaction::Revision(12), 10, |_| true), []);
    }

    #[test]
    fn an_idle_store_is_not_compacted_again() {
        let mut schedule = Schedule::new(AutoCompaction::Revision(2), Duration::ZERO, 9).unwrap();
        assert_eq!(schedule.tick(minutes(5), 9, true), Some(7));
        schedule.done(minutes(5), 7);
        assert_eq!(schedule.tick(minutes(10), 9, true), None);
    }

    #[test]
    fn zero_is_off() {
        assert!(Schedule::new(AutoCompaction::Off, Duration::ZERO, 1).is_none());
        assert!(Schedule::new(AutoCompaction::Periodic(Duration::ZERO), Duration::ZERO, 1).is_none());
        assert!(Schedule::new(AutoCompaction::Revision(0), Duration::ZERO, 1).is_none());
    }
}
