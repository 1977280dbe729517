//! Kubernetes quantities: `500m` CPU, `64Mi` memory.
//!
//! A quantity is an exact number of nano-units with the family of suffix it was written in. Kubernetes re-writes quantities in
//! canonical form (`1000m` is `1`, `1024Mi` is `1Gi`, `0.5` is `500m`), so equal amounts compare equal as text after [`canonical`].

use std::fmt;

use serde_json::Value;

/// The family of suffixes that a quantity is written with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `Ki`, `Mi`, …
    BinarySi,
    /// `m`, `k`, `M`, …
    DecimalSi,
    /// `e3`, `E6`, …
    DecimalExponent,
}

/// An exact amount. Finer than a nano-unit is rounded up, as Kubernetes does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantity {
    pub nanos: i128,
    pub format: Format,
}

/// Kubernetes' words for a text that is no quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
pub struct MalformedQuantity;

const NANO: i128 = 1_000_000_000;
/// Larger amounts are cut to this one, 2^63 - 1 units, as Kubernetes does.
const NANOS_MAX: i128 = i64::MAX as i128 * NANO;
const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
/// Digits beyond this are refused: no amount below 2^63 needs more to be exact in nano-units.
const DIGITS_MAX: usize = 38;

impl Quantity {
    /// Reads a quantity; bare JSON numbers are quantities too, through their text.
    pub fn parse(text: &str) -> Result<Self, MalformedQuantity> {
        let (negative, unsigned) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = format!("{whole}{fraction}");
        if digits.is_empty() || digits.len() > DIGITS_MAX || fraction.contains('.') {
            return Err(MalformedQuantity);
        }
        let (format, factor, exponent) = suffix_factor(suffix).ok_or(MalformedQuantity)?;
        // Leading zeros do not count against the width of the number.
        let mantissa: i128 = digits.trim_start_matches('0').parse().or_else(|_| zero(&digits))?;
        let shift = exponent + 9 - i32::try_from(fraction.len()).map_err(|_| MalformedQuantity)?;
        let exact = mantissa.checked_mul(factor).and_then(|scaled| shift_decimal(scaled, shift));
        let nanos = exact.map_or(NANOS_MAX, |nanos| nanos.min(NANOS_MAX));
        Ok(Self { nanos: if negative { -nanos } else { nanos }, format })
    }

    /// A JSON quantity: a string or a number.
    pub fn from_json(value: &Value) -> Result<Self, MalformedQuantity> {
        match value {
            Value::String(text) => Self::parse(text),
            Value::Number(number) => Self::parse(&number.to_string()),
            _ => Err(MalformedQuantity),
        }
    }

    /// Whole units, rounded up: bytes of memory, pods.
    #[must_use]
    pub fn units(self) -> i64 {
        saturate(div_up(self.nanos, NANO))
    }

    /// Thousandths, rounded up: CPU.
    #[must_use]
    pub fn millis(self) -> i64 {
        saturate(div_up(self.nanos, NANO / 1000))
    }

    /// An amount of whole units.
    #[must_use]
    pub fn from_units(units: i64, format: Format) -> Self {
        Self { nanos: i128::from(units) * NANO, format }
    }

    /// An amount of thousandths.
    #[must_use]
    pub fn from_millis(millis: i64) -> Self {
        Self { nanos: i128::from(millis) * (NANO / 1000), format: Format::DecimalSi }
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        // Kubernetes leaves the binary family when the amount is small or not whole.
        let whole = self.nanos % NANO == 0;
        let binary = self.format == Format::BinarySi && whole && self.nanos.abs() >= 1024 * NANO;
        if binary {
            let mut units = self.nanos / NANO;
            let mut step = 0;
            while units % 1024 == 0 && step + 1 < BINARY.len() {
                units /= 1024;
                step += 1;
            }
            return write!(f, "{units}{}", BINARY[step]);
        }
        let mut amount = self.nanos;
        let mut step = 0;
        while amount % 1000 == 0 && step + 1 < DECIMAL.len() {
            amount /= 1000;
            step += 1;
        }
        let (suffix, exponent) = DECIMAL[step];
        match self.format {
            Format::DecimalExponent if exponent != 0 => write!(f, "{amount}e{exponent}"),
            _ => write!(f, "{amount}{suffix}"),
        }
    }
}

/// The canonical text of a quantity.
pub fn canonical(value: &Value) -> Result<String, MalformedQuantity> {
    Quantity::from_json(value).map(|quantity| quantity.to_string())
}

/// Rewrites the well-formed quantities of a resource list (`{cpu: 1000m}`) in canonical form; validation names the others.
pub fn canonicalise_list(list: Option<&mut Value>) {
    for value in list.and_then(Value::as_object_mut).into_iter().flat_map(|map| map.values_mut()) {
        if let Ok(text) = canonical(value) {
            *value = text.into();
        }
    }
}

/// Format, factor and decimal exponent of a suffix.
fn suffix_factor(suffix: &str) -> Option<(Format, i128, i32)> {
    if let Some(&(_, exponent)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Some((Format::DecimalSi, 1, exponent));
    }
    if let Some(step) = BINARY.iter().position(|name| *name == suffix) {
        return Some((Format::BinarySi, 1024_i128.pow(u32::try_from(step).ok()?), 0));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?;
    let exponent: i32 = exponent.parse().ok()?;
    Some((Format::DecimalExponent, 1, exponent))
}

fn zero(digits: &str) -> Result<i128, MalformedQuantity> {
    if digits.bytes().all(|b| b == b'0') { Ok(0) } else { Err(MalformedQuantity) }
}

/// `value * 10^shift`, rounded up; `None` when that is too large.
fn shift_decimal(value: i128, shift: i32) -> Option<i128> {
    if value == 0 {
        return Some(0);
    }
    match 10_i128.checked_pow(shift.unsigned_abs()) {
        Some(power) if shift >= 0 => value.checked_mul(power),
        Some(power) => Some(div_up(value, power)),
        None if shift >= 0 => None,
        None => Some(1),
    }
}

fn div_up(value: i128, by: i128) -> i128 {
    value.div_euclid(by) + i128::from(value.rem_euclid(by) != 0)
}

fn saturate(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value > 0 { i64::MAX } else { i64::MIN })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_have_one_canonical_form() {
        let table = [
            ("0", "0"),
            ("0Mi", "0"),
            ("1000m", "1"),
            ("1024Mi", "1Gi"),
            ("1536Mi", "1536Mi"),
            ("0.5", "500m"),
            ("1.5Gi", "1536Mi"),
            ("100Ki", "100Ki"),
            ("0.5Ki", "512"),
            ("2000", "2k"),
            ("128974848", "128974848"),
            ("129e6", "129e6"),
            ("129M", "129M"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("1E", "1E"),
            ("-250m", "-250m"),
            ("+3", "3"),
            ("1n", "1n"),
            ("0.1n", "1n"),
            (".5", "500m"),
            ("5.", "5"),
            ("1500u", "1500u"),
            ("7Ei", "7Ei"),
            ("8Ei", "9223372036854775807"),
            ("1e400", "9223372036854775807"),
        ];
        for (text, expected) in table {
            assert_eq!(Quantity::parse(text).unwrap().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "m", "-", "1 Gi", "1gb", "1.2.3", "one", "1e", "1KiB", "0x10"] {
            assert_eq!(Quantity::parse(text), Err(MalformedQuantity), "{text}");
        }
    }

    #[test]
    fn amounts_round_up() {
        let cpu = |text| Quantity::parse(text).unwrap().millis();
        assert_eq!((cpu("1"), cpu("250m"), cpu("0.1u"), cpu("1.0005")), (1000, 250, 1, 1001));
        assert_eq!(Quantity::parse("1Gi").unwrap().units(), 1 << 30);
        assert_eq!(Quantity::parse("1500m").unwrap().units(), 2);
    }

    proptest::proptest! {
        #[test]
        fn the_canonical_form_means_the_same(whole in 0_u64..1_000_000_000_000, suffix in 0_usize..17) {
            let suffixes: Vec<&str> = BINARY.iter().copied().chain(DECIMAL.iter().map(|(name, _)| *name)).collect();
            let first = Quantity::parse(&format!("{whole}{}", suffixes[suffix])).unwrap();
            let again = Quantity::parse(&first.to_string()).unwrap();
            proptest::prop_assert_eq!(first.nanos, again.nanos);
            proptest::prop_assert_eq!(first.to_string(), again.to_string());
        }
    }
}
