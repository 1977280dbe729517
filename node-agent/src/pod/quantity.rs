//! Kubernetes quantities (`100m`, `64Mi`, `1e3`) as exact integers.
//!
//! Values are kept in billionths, the finest unit the notation has, so that rounding happens once and in the direction that
//! the reader asks for. Only what a node needs is here: reading, never writing canonical forms.

const NANOS: i128 = 1_000_000_000;

/// The value in billionths; `None` when the text is not a quantity.
fn nanos(text: &str) -> Option<i128> {
    let digits_end = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-'))).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits_end);
    let mantissa = decimal(number)?;
    let scaled = match suffix {
        "" => mantissa,
        "n" => return mantissa.checked_div(NANOS),
        "u" => mantissa / 1_000_000,
        "m" => mantissa / 1_000,
        "k" => mantissa.checked_mul(1_000)?,
        "M" => mantissa.checked_mul(1_000_000)?,
        "G" => mantissa.checked_mul(1_000_000_000)?,
        "T" => mantissa.checked_mul(10_i128.pow(12))?,
        "P" => mantissa.checked_mul(10_i128.pow(15))?,
        "E" => mantissa.checked_mul(10_i128.pow(18))?,
        "Ki" => mantissa.checked_mul(1 << 10)?,
        "Mi" => mantissa.checked_mul(1 << 20)?,
        "Gi" => mantissa.checked_mul(1 << 30)?,
        "Ti" => mantissa.checked_mul(1 << 40)?,
        "Pi" => mantissa.checked_mul(1 << 50)?,
        "Ei" => mantissa.checked_mul(1 << 60)?,
        exponent => return with_exponent(mantissa, exponent),
    };
    Some(scaled)
}

fn with_exponent(mantissa: i128, suffix: &str) -> Option<i128> {
    let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    let factor = 10_i128.checked_pow(exponent.unsigned_abs())?;
    if exponent >= 0 { mantissa.checked_mul(factor) } else { Some(mantissa / factor) }
}

/// A decimal number as billionths; digits beyond the ninth are dropped.
fn decimal(text: &str) -> Option<i128> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let only_digits = whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit());
    if !only_digits || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut nano = 0_i128;
    for place in 0..9 {
        let digit = fraction.as_bytes().get(place).copied().unwrap_or(b'0');
        nano = nano * 10 + i128::from(char::from(digit).to_digit(10)?);
    }
    let value = whole.checked_mul(NANOS)?.checked_add(nano)?;
    Some(if negative { -value } else { value })
}

/// The quantity in units of `divisor`, rounded up. `None` when either is not a quantity or the divisor is not positive.
pub fn divided(quantity: &str, divisor: &str) -> Option<i64> {
    let divisor = nanos(divisor)?;
    if divisor <= 0 {
        return None;
    }
    let value = nanos(quantity)?;
    i64::try_from(value.div_euclid(divisor) + i128::from(value.rem_euclid(divisor) != 0)).ok()
}

/// Thousandths, rounded up: CPU.
pub fn milli(quantity: &str) -> Option<i64> {
    divided(quantity, "1m")
}

/// Whole units, rounded up: bytes.
pub fn units(quantity: &str) -> Option<i64> {
    divided(quantity, "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_notation_is_read() {
        let cases = [
            ("100m", 100),
            ("1", 1000),
            ("0.5", 500),
            ("1500u", 2),
            ("2k", 2_000_000),
            ("1e3", 1_000_000),
            ("1Ki", 1_024_000),
        ];
        for (text, expected) in cases {
            assert_eq!(milli(text), Some(expected), "{text}");
        }
        assert_eq!(units("64Mi"), Some(64 << 20));
        assert_eq!(units("1.5Gi"), Some(3 << 29));
        assert_eq!(units("100m"), Some(1));
        assert_eq!(units("128974848000m"), Some(128_974_848));
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in ["", "abc", "1Q", "1.2.3", "e3", "--1"] {
            assert_eq!(units(text), None, "{text}");
        }
    }

    #[test]
    fn division_rounds_up() {
        assert_eq!(divided("1", "1"), Some(1));
        assert_eq!(divided("1001m", "1"), Some(2));
        assert_eq!(divided("64Mi", "1Mi"), Some(64));
        assert_eq!(divided("1", "0"), None);
    }
}
