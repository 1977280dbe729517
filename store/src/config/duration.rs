//! Durations as Go reads and writes them: `1h2m3.5s`, `250ms`.

use std::fmt::Write;
use std::time::Duration;

const UNITS: &[(&str, u64)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Negative durations are refused: no flag has a use for one.
///
/// # Errors
/// A sentence about what is wrong with it.
pub fn parse(text: &str) -> Result<Duration, String> {
    let invalid = || format!("invalid duration {text:?}");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: f64 = 0.0;
    let mut whole: u64 = 0;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(|| format!("missing unit in duration {text:?}"))?;
        let (number, after) = rest.split_at(digits);
        let letters = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let factor = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
        let factor = factor.ok_or_else(|| format!("unknown unit {unit:?} in duration {text:?}"))?;
        match number.parse::<u64>() {
            Ok(number) => {
                let part = number.checked_mul(factor).ok_or_else(invalid)?;
                whole = whole.checked_add(part).ok_or_else(invalid)?;
            }
            Err(_) => total += number.parse::<f64>().map_err(|_| invalid())? * factor as f64,
        }
        rest = after;
    }
    let nanoseconds = whole.checked_add(total as u64).filter(|n| i64::try_from(*n).is_ok()).ok_or_else(invalid)?;
    Ok(Duration::from_nanos(nanoseconds))
}

/// `10m0s`, `1.5s`, `250ms`, `0s`.
#[must_use]
pub fn format(duration: Duration) -> String {
    let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let fraction = |unit: u64, name: &str| format!("{}{name}", nanoseconds as f64 / unit as f64);
    match nanoseconds {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanoseconds}ns"),
        1_000..1_000_000 => fraction(1_000, "µs"),
        1_000_000..1_000_000_000 => fraction(1_000_000, "ms"),
        _ => {
            let (minutes, left) = (nanoseconds / 60_000_000_000, nanoseconds % 60_000_000_000);
            let mut text = String::new();
            // Writing to a string does not fail.
            if minutes >= 60 {
                let _ = write!(text, "{}h", minutes / 60);
            }
            if minutes > 0 {
                let _ = write!(text, "{}m", minutes % 60);
            }
            let _ = write!(text, "{}s", left as f64 / 1e9);
            text
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_go_writes_is_read_and_written_again() {
        for (text, nanoseconds) in [
            ("10m0s", 600_000_000_000),
            ("1h2m3.5s", 3_723_500_000_000),
            ("250ms", 250_000_000),
            ("1.5s", 1_500_000_000),
            ("2h0m0s", 7_200_000_000_000),
            ("100µs", 100_000),
            ("7ns", 7),
            ("0s", 0),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_nanos(nanoseconds)), "{text}");
            assert_eq!(format(Duration::from_nanos(nanoseconds)), text);
        }
        assert_eq!(parse("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(parse("0"), Ok(Duration::ZERO));
        assert_eq!(parse("600000000000ns"), Ok(Duration::from_secs(600)));
        assert_eq!(parse("9223372036854775807ns").map(|d| d.as_nanos()), Ok(9_223_372_036_854_775_807));
    }

    #[test]
    fn what_go_refuses_is_refused() {
        for text in ["", "5", "m", "5x", "-5s", "1.2.3s", "+", "9223372036854775808ns", "99999999999h"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
        assert_eq!(parse("5").unwrap_err(), "missing unit in duration \"5\"");
        assert_eq!(parse("5x").unwrap_err(), "unknown unit \"x\" in duration \"5x\"");
    }
}
