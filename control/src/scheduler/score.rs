//! Which of the possible nodes is best: the default plugins of Kubernetes that apply here, with their weights.
//!
//! Each scores 0 to 100: least allocated (1), balanced allocation (1), preferred node affinity (2), untolerated PreferNoSchedule taints (3).

use k8s_openapi::api::core::v1::Node;

use super::affinity;
use super::filter::{Wanted, untolerated};
use super::view::NodeView;

const MAX: i64 = 100;

/// The score of each candidate, in their order.
#[must_use]
pub fn scores(wanted: &Wanted<'_>, candidates: &[(&Node, &NodeView)]) -> Vec<i64> {
    let preferences: Vec<i64> = candidates.iter().map(|(node, _)| affinity::preference(wanted.pod, node)).collect();
    let taints: Vec<i64> = candidates
        .iter()
        .map(|(node, _)| i64::try_from(untolerated(wanted, node, &["PreferNoSchedule"]).count()).unwrap_or(MAX))
        .collect();
    let most_preferred = preferences.iter().copied().max().unwrap_or(0);
    let most_taints = taints.iter().copied().max().unwrap_or(0);
    candidates
        .iter()
        .zip(preferences.iter().zip(&taints))
        .map(|((_, view), (preference, taints))| {
            let preferred = if most_preferred == 0 { 0 } else { MAX * preference / most_preferred };
            let untainted = if most_taints == 0 { MAX } else { MAX - MAX * taints / most_taints };
            allocation(wanted, view) + 2 * preferred + 3 * untainted
        })
        .collect()
}

/// Room that would be left, and how evenly cpu and memory would be taken.
fn allocation(wanted: &Wanted<'_>, view: &NodeView) -> i64 {
    let share = |name: &str| {
        let has = view.allocatable.get(name);
        let takes = view.taken_scored.get(name) + wanted.request.scored.get(name);
        (has > 0).then(|| takes.min(has) * 1000 / has)
    };
    let shares: Vec<i64> = ["cpu", "memory"].into_iter().filter_map(share).collect();
    let count = i64::try_from(shares.len()).unwrap_or(0);
    if count == 0 {
        return 0;
    }
    let free = shares.iter().map(|s| 1000 - s).sum::<i64>() * MAX / (1000 * count);
    // The standard deviation of two numbers is half their distance.
    let spread = if let [a, b] = shares.as_slice() { (a - b).abs() / 2 } else { 0 };
    free + (1000 - spread) * MAX / 1000
}
