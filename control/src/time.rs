//! Times as the API writes them: RFC 3339, UTC, whole seconds. Reading the clock is the edge's business.

use k8s_openapi::jiff;

/// `time` moved by whole seconds; `None` when it is not RFC 3339.
#[must_use]
pub fn add_s(time: &str, seconds: i64) -> Option<String> {
    let timestamp: jiff::Timestamp = time.parse().ok()?;
    let moved = timestamp.checked_add(jiff::SignedDuration::from_secs(seconds)).ok()?;
    Some(format(moved))
}

/// `2026-01-31T12:00:00Z`.
#[must_use]
pub fn format(timestamp: jiff::Timestamp) -> String {
    timestamp.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_added_over_midnight() {
        assert_eq!(add_s("2026-01-31T23:59:50Z", 30).as_deref(), Some("2026-02-01T00:00:20Z"));
        assert_eq!(add_s("yesterday", 1), None);
    }
}
