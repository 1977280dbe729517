//! Ages as kubectl shows them, and the RFC 3339 arithmetic they need.
//!
//! Times stay strings in objects; only cells and sorting look inside. Nothing here asks for the time: callers pass it.

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
    let bytes = text.as_bytes();
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if bytes.len() < 20 || separators.iter().any(|&(at, byte)| bytes[at].to_ascii_uppercase() != byte) {
        return None;
    }
    let number = |from: usize, to: usize| -> Option<i64> { digits(text.get(from..to)?) };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (fraction_us, zone) = fraction(text.get(19..)?)?;
    let seconds = days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset_s(zone)?;
    Some(seconds * 1_000_000 + fraction_us)
}

fn digits(text: &str) -> Option<i64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) { None } else { text.parse().ok() }
}

/// `.25Z` → 250 000 µs and `Z`.
fn fraction(rest: &str) -> Option<(i64, &str)> {
    let Some(after) = rest.strip_prefix('.') else { return Some((0, rest)) };
    let end = after.find(|c: char| !c.is_ascii_digit())?;
    let (digits_text, zone) = after.split_at(end);
    if digits_text.is_empty() {
        return None;
    }
    let micros: String = digits_text.chars().chain("000000".chars()).take(6).collect();
    Some((digits(&micros)?, zone))
}

/// Seconds east of UTC of `Z`, `+01:00`, `-08:00`.
fn offset_s(zone: &str) -> Option<i64> {
    if zone.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let sign = match zone.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, minutes) = zone.get(1..)?.split_once(':')?;
    Some(sign * (digits(hours)? * 3600 + digits(minutes)? * 60))
}

/// Days since 1970-01-01 of a date of the proleptic Gregorian calendar (Howard Hinnant's algorithm).
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
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
        for wrong in ["", "2026-11-23", "2026-13-23T21:00:00Z", "2026-11-23T21:00:00", "2026-11-23 21:00:00Z"] {
            assert_eq!(parse_us(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_missing_time_is_unknown() {
        assert_eq!(since("", "2026-01-31T12:00:00Z"), "<unknown>");
        assert_eq!(since("2026-01-31T11:58:00Z", "2026-01-31T12:00:00Z"), "2m");
    }
}
