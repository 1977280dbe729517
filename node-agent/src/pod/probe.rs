//! When a row of probe results becomes a verdict.

use k8s_openapi::api::core::v1::Probe;

/// Counts equal results in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counter {
    success_threshold: i32,
    failure_threshold: i32,
    last: Option<bool>,
    in_a_row: i32,
}

impl Counter {
    pub fn new(probe: &Probe) -> Self {
        let at_least_one = |threshold: Option<i32>, default: i32| threshold.unwrap_or(default).max(1);
        Self {
            success_threshold: at_least_one(probe.success_threshold, 1),
            failure_threshold: at_least_one(probe.failure_threshold, 3),
            last: None,
            in_a_row: 0,
        }
    }

    /// The verdict, once enough equal results came in a row.
    pub fn take(&mut self, is_success: bool) -> Option<bool> {
        self.in_a_row = if self.last == Some(is_success) { self.in_a_row.saturating_add(1) } else { 1 };
        self.last = Some(is_success);
        let threshold = if is_success { self.success_threshold } else { self.failure_threshold };
        (self.in_a_row >= threshold).then_some(is_success)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_count_results_in_a_row() {
        let mut counter =
            Counter::new(&Probe { success_threshold: Some(2), failure_threshold: Some(3), ..Probe::default() });
        let results = [true, true, false, false, true, false, false, false, true];
        let verdicts: Vec<_> = results.into_iter().map(|result| counter.take(result)).collect();
        assert_eq!(verdicts, [None, Some(true), None, None, None, None, None, Some(false), None]);
    }
}
