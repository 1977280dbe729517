//! Whether one server is better than another: ratios within pairs of runs, and what can be said of them.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde::Serialize;

use super::measure::Sample;

/// One load on two servers.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    pub load: String,
    /// Whose figures come first; the ratios are its own over the other's.
    pub first: String,
    pub second: String,
    pub rows: Vec<Row>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub measure: &'static str,
    pub unit: &'static str,
    /// Medians.
    pub first: f64,
    pub second: f64,
    /// The median of the pairs' ratios, and its interval of 95 %.
    pub ratio: f64,
    pub low: f64,
    pub high: f64,
    pub verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Better,
    Worse,
    /// The interval holds one, or there are too few pairs.
    NotShown,
}

/// A figure of a run, and whether more of it is better.
struct Figure {
    measure: &'static str,
    unit: &'static str,
    more_is_better: bool,
    of: fn(&Sample) -> Option<f64>,
}

const FIGURES: &[Figure] = &[
    Figure { measure: "operations", unit: "/s", more_is_better: true, of: |run| Some(run.per_second) },
    Figure { measure: "p50", unit: "µs", more_is_better: false, of: |run| Some(run.latency_us.p50 as f64) },
    Figure { measure: "p90", unit: "µs", more_is_better: false, of: |run| Some(run.latency_us.p90 as f64) },
    Figure { measure: "p99", unit: "µs", more_is_better: false, of: |run| Some(run.latency_us.p99 as f64) },
    Figure { measure: "p99.9", unit: "µs", more_is_better: false, of: |run| Some(run.latency_us.p999 as f64) },
    Figure { measure: "max", unit: "µs", more_is_better: false, of: |run| Some(run.latency_us.max as f64) },
    Figure {
        measure: "processor",
        unit: "µs/op",
        more_is_better: false,
        of: |run| run.cost.map(|cost| cost.cpu_us_per_operation),
    },
    Figure {
        measure: "written",
        unit: "B/op",
        more_is_better: false,
        of: |run| run.cost.map(|cost| cost.written_bytes_per_operation),
    },
    Figure {
        measure: "memory",
        unit: "MB",
        more_is_better: false,
        of: |run| run.cost.map(|cost| cost.resident_bytes as f64 / 1e6),
    },
];

/// Fewer pairs show nothing.
const PAIRS_MIN: usize = 3;
const RESAMPLES: usize = 2000;

impl Comparison {
    /// Of the runs of one load, of two servers each in every round.
    pub fn of(samples: &[Sample]) -> Self {
        let first = samples[0].server.clone();
        let (mut own, mut other): (Vec<&Sample>, Vec<&Sample>) = samples.iter().partition(|run| run.server == first);
        own.sort_by_key(|run| run.round);
        other.sort_by_key(|run| run.round);
        let second = other.first().map_or_else(String::new, |run| run.server.clone());
        let rows = FIGURES.iter().filter_map(|figure| figure.row(&own, &other)).collect();
        Self { load: samples[0].load.clone(), first, second, rows }
    }
}

impl Figure {
    fn row(&self, own: &[&Sample], other: &[&Sample]) -> Option<Row> {
        let figures = |runs: &[&Sample]| runs.iter().map(|run| (self.of)(run)).collect::<Option<Vec<f64>>>();
        let (own, other) = (figures(own)?, figures(other)?);
        let ratios: Vec<f64> = own.iter().zip(&other).filter(|(_, b)| **b > 0.0).map(|(a, b)| a / b).collect();
        if ratios.is_empty() {
            return None;
        }
        let (low, high) = interval(&ratios);
        let verdict = match (ratios.len() >= PAIRS_MIN, low > 1.0, high < 1.0) {
            (true, true, _) if self.more_is_better => Verdict::Better,
            (true, true, _) => Verdict::Worse,
            (true, _, true) if self.more_is_better => Verdict::Worse,
            (true, _, true) => Verdict::Better,
            _ => Verdict::NotShown,
        };
        let (measure, unit, ratio) = (self.measure, self.unit, median(&ratios));
        Some(Row { measure, unit, first: median(&own), second: median(&other), ratio, low, high, verdict })
    }
}

pub fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        0 => f64::midpoint(values[middle - 1], values[middle]),
        _ => values[middle],
    }
}

/// Of the median, by resampling; the same for the same ratios.
fn interval(ratios: &[f64]) -> (f64, f64) {
    let mut random = StdRng::seed_from_u64(1);
    let mut medians: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let drawn: Vec<f64> = (0..ratios.len()).map(|_| ratios[random.random_range(0..ratios.len())]).collect();
            median(&drawn)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    (medians[RESAMPLES * 25 / 1000], medians[RESAMPLES * 975 / 1000 - 1])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::measure::{Latency, histogram};

    fn run(server: &str, round: u32, per_second: f64, p50: u64) -> Sample {
        let mut latency = histogram();
        latency.record(p50).unwrap();
        Sample {
            load: "put:1".to_owned(),
            server: server.to_owned(),
            round,
            operations: 1,
            errors: 0,
            error: None,
            seconds: 1.0,
            per_second,
            latency_us: Latency::of(&latency),
            curve: Vec::new(),
            cost: None,
            fdatasync_us: None,
            load_average: 0.0,
        }
    }

    fn verdicts(pairs: &[(f64, f64)]) -> Vec<(&'static str, Verdict)> {
        let mut samples = Vec::new();
        for (round, (own, other)) in (0..).zip(pairs) {
            samples.push(run("a", round, *own, 1_000_000 / *own as u64));
            samples.push(run("b", round, *other, 1_000_000 / *other as u64));
        }
        let rows = Comparison::of(&samples).rows;
        rows.iter().filter(|row| ["operations", "p50"].contains(&row.measure)).map(|r| (r.measure, r.verdict)).collect()
    }

    #[test]
    fn a_difference_is_claimed_only_outside_the_noise() {
        let faster = [(200.0, 100.0), (210.0, 100.0), (190.0, 100.0), (205.0, 101.0), (195.0, 99.0)];
        assert_eq!(verdicts(&faster), [("operations", Verdict::Better), ("p50", Verdict::Better)]);
        let slower = faster.map(|(a, b)| (b, a));
        assert_eq!(verdicts(&slower), [("operations", Verdict::Worse), ("p50", Verdict::Worse)]);
        let same = [(100.0, 110.0), (110.0, 100.0), (105.0, 100.0), (95.0, 100.0), (100.0, 101.0)];
        assert_eq!(verdicts(&same), [("operations", Verdict::NotShown), ("p50", Verdict::NotShown)]);
        assert_eq!(verdicts(&faster[..2])[0].1, Verdict::NotShown, "two pairs show nothing");
    }

    #[test]
    fn the_ratio_is_within_pairs_and_not_of_the_medians() {
        // The machine was twice as fast in the second half, for both.
        let pairs: Vec<Sample> = [(100.0, 50.0), (100.0, 50.0), (200.0, 100.0), (200.0, 100.0)]
            .iter()
            .zip(0..)
            .flat_map(|((a, b), round)| [run("a", round, *a, 1), run("b", round, *b, 1)])
            .collect();
        let row = Comparison::of(&pairs).rows.remove(0);
        assert_eq!((row.ratio, row.low, row.high), (2.0, 2.0, 2.0));
    }
}
