//! Takes the place of the crate `base2histogram`, which openraft keeps its statistics in.
//!
//! That one builds tables for every precision it offers when the first histogram is made: 26 MB that a member holds from
//! then on and never looks at again, half of what it needs when it is idle. This one has the part of its interface that
//! openraft uses and the same buckets, four to each power of two, without tables. It can go as soon as the other builds
//! a table only when it is asked for it.

use std::fmt;
use std::marker::PhantomData;

/// Values below this have a bucket each; from there on each power of two has as many.
const BUCKETS_PER_POWER: u64 = 4;
const BUCKETS: usize = 252;

/// Counts values, each within a quarter of its own size.
#[derive(Clone, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    counts: Box<[u64; BUCKETS]>,
    data: PhantomData<T>,
}

impl<T> Histogram<T> {
    #[must_use]
    pub fn new() -> Self {
        Self { counts: Box::new([0; BUCKETS]), data: PhantomData }
    }

    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    pub fn record_n(&mut self, value: u64, count: u64) {
        let bucket = &mut self.counts[bucket(value)];
        *bucket = bucket.saturating_add(count);
    }

    /// How many values were recorded.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// A value that the share `rank` (0 to 1) of all values does not exceed, to a bucket; 0 where there are none.
    #[must_use]
    pub fn percentile(&self, rank: f64) -> u64 {
        let total = self.total();
        let wanted = (total as f64 * rank).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return least(index);
            }
        }
        0
    }

    #[must_use]
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.total(),
            p0_1: self.percentile(0.001),
            p1: self.percentile(0.01),
            p5: self.percentile(0.05),
            p10: self.percentile(0.1),
            p50: self.percentile(0.5),
            p90: self.percentile(0.9),
            p99: self.percentile(0.99),
            p99_9: self.percentile(0.999),
        }
    }
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for Histogram<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.percentile_stats(), f)
    }
}

fn bucket(value: u64) -> usize {
    if value < BUCKETS_PER_POWER {
        return value as usize;
    }
    let power = u64::from(value.ilog2());
    // The two bits below the highest one.
    let quarter = (value >> (power - 2)) & (BUCKETS_PER_POWER - 1);
    ((power - 1) * BUCKETS_PER_POWER + quarter) as usize
}

/// The least value of a bucket.
fn least(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < BUCKETS_PER_POWER {
        return bucket;
    }
    let (power, quarter) = (bucket / BUCKETS_PER_POWER + 1, bucket % BUCKETS_PER_POWER);
    (BUCKETS_PER_POWER + quarter) << (power - 2)
}

/// How recorded values are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PercentileStats {
    pub samples: u64,
    pub p0_1: u64,
    pub p1: u64,
    pub p5: u64,
    pub p10: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { samples, p50, p90, p99, p99_9, .. } = self;
        write!(f, "[samples: {samples}, P50: {p50}, P90: {p90}, P99: {p99}, P99.9: {p99_9}]")
    }
}

/// Several histograms, one line each.
pub struct AsciiChart<T = ()> {
    series: Vec<(String, Histogram<T>)>,
}

impl<T> AsciiChart<T> {
    #[must_use]
    pub fn new() -> Self {
        Self { series: Vec::new() }
    }

    #[must_use]
    pub fn add(mut self, name: &str, histogram: Histogram<T>) -> Self {
        self.series.push((name.to_owned(), histogram));
        self
    }

    #[must_use]
    pub fn compact(&self) -> &Self {
        self
    }

    #[must_use]
    pub fn detailed(&self) -> &Self {
        self
    }
}

impl<T> Default for AsciiChart<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Display for AsciiChart<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, histogram) in &self.series {
            writeln!(f, "{name}: {}", histogram.percentile_stats())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_the_bucket_that_begins_at_or_below_it() {
        let around = |value: u64| [value.saturating_sub(1), value, value.saturating_add(1)];
        for value in (0..64).flat_map(|power| around(1 << power)).chain([5, 100, 1000, u64::MAX]) {
            let index = bucket(value);
            assert!(index < BUCKETS && least(index) <= value, "{value}");
            assert!(index + 1 == BUCKETS || least(index + 1) > value, "{value}");
        }
    }

    #[test]
    fn percentiles_are_those_of_the_values_to_a_bucket() {
        let mut histogram = Histogram::<()>::new();
        assert_eq!(histogram.percentile(0.5), 0);
        (1..=1000).for_each(|value| histogram.record(value));
        let PercentileStats { samples, p50, p99, .. } = histogram.percentile_stats();
        assert_eq!((samples, p50, p99), (1000, 448, 896));
    }
}
