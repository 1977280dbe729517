//! Ages as kubectl shows them, and the RFC 3339 arithmetic they need.
//!
//! Times stay strings in objects; only cells and sorting look inside. Nothing here asks for the time: callers pass it.

use k8s_openapi::jiff::Timestamp;

/// `5s`, `2m30s`, `3h`, `2d5h` between two RFC 3339 times; `<unknown>` when either is missing or malformed.
#[must_use]
pub fn since(then: &str, now: &str) -> String {
    match (parse_us(then), parse_us(now)) {
        (Some(then), Some(now)) => human(now - then),
        _ => "<unknown>".to_owned(),
    }
}

/// The duration in Kubernetes' short human form (`duration.HumanDuration`): at most two units, coarser with length.
#[must_use]
pub fn human(duration_us: i64) -> String {
    let seconds = duration_us / 1_000_000;
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let (days, years) = (hours / 24, hours / 24 / 365);
    if seconds < -1 {
        "<invalid>".to_owned()
    } else if seconds < 0 {
        "0s".to_owned()
    } else if seconds < 120 {
        format!("{seconds}s")
    } else if minutes < 10 {
        pair(minutes, 'm', seconds % 60, 's')
    } else if minutes < 180 {
        format!("{minutes}m")
    } else if hours < 8 {
        pair(hours, 'h', minutes % 60, 'm')
    } else if hours < 48 {
        format!("{hours}h")
    } else if hours < 24 * 8 {
        pair(days, 'd', hours % 24, 'h')
    } else if years < 2 {
        format!("{days}d")
    } else if years < 8 {
        pair(years, 'y', days % 365, 'd')
    } else {
        format!("{years}y")
    }
}

fn pair(large: i64, large_unit: char, small: i64, small_unit: char) -> String {
    if small == 0 { format!("{large}{large_unit}") } else { format!("{large}{large_unit}{small}{small_unit}") }
}

/// Microseconds since the Unix epoch of an RFC 3339 time (`2026-01-31T12:00:00.5+01:00`), `None` when it is not one.
#[must_use]
pub fn parse_us(text: &str) -> Option<i64> {
    text.parse::<Timestamp>().ok().map(Timestamp::as_microsecond)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_get_coarser_as_they_grow() {
        let minute = 60;
        let hour = 60 * minute;
        let day = 24 * hour;
        let table = [
            (-5, "<invalid>"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (150, "2m30s"),
            (10 * minute + 1, "10m"),
            (179 * minute, "179m"),
            (3 * hour, "3h"),
            (3 * hour + 5 * minute, "3h5m"),
            (47 * hour, "47h"),
            (2 * day + 5 * hour, "2d5h"),
            (9 * day + 5 * hour, "9d"),
            (730 * day, "2y"),
            (800 * day, "2y70d"),
            (3650 * day, "10y"),
        ];
        for (seconds, expected) in table {
            assert_eq!(human(seconds * 1_000_000), expected, "{seconds} s");
        }
    }

    #[test]
    fn times_with_fractions_and_zones_are_read() {
        assert_eq!(parse_us("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(parse_us("2026-11-23T21:00:00Z"), Some(1_795_467_600_000_000));
        assert_eq!(parse_us("2026-11-23T22:00:00.250000+01:00"), Some(1_795_467_600_250_000));
        for wrong in ["", "2026-11-23", "2026-13-23T21:00:00Z", "2026-11-23T21:00:00"] {
            assert_eq!(parse_us(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_missing_time_is_unknown() {
        assert_eq!(since("", "2026-01-31T12:00:00Z"), "<unknown>");
        assert_eq!(since("2026-01-31T11:58:00Z", "2026-01-31T12:00:00Z"), "2m");
    }
}
