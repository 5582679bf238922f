//! Decimal numbers, as `INCRBYFLOAT` adds and writes them.
//!
//! Sums are exact as long as 38 digits hold them; beyond that they are those of 64-bit floating point. Redis adds in the
//! 80 bits of its machine's `long double` and writes 17 digits after the point: where its sums are not noise, they are ours.

use std::cmp::Ordering;

/// Digits after the point that are written.
const SCALE_MAX: u32 = 17;

/// `digits / 10^scale`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Decimal {
    digits: i128,
    scale: u32,
}

impl Decimal {
    fn parse(text: &str) -> Option<Self> {
        let (mantissa, exponent) = match text.find(['e', 'E']) {
            Some(at) => (&text[..at], text[at + 1..].parse::<i32>().ok()?),
            None => (text, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let fraction = fraction.trim_end_matches('0');
        let mut digits: i128 = format!("{whole}{fraction}").parse().ok()?;
        let mut scale = i32::try_from(fraction.len()).ok()?.checked_sub(exponent)?;
        while scale < 0 {
            digits = digits.checked_mul(10)?;
            scale += 1;
        }
        Some(Self { digits, scale: u32::try_from(scale).ok()? })
    }

    fn at_scale(self, scale: u32) -> Option<i128> {
        self.digits.checked_mul(10i128.checked_pow(scale.checked_sub(self.scale)?)?)
    }

    fn add(self, other: Self) -> Option<Self> {
        let scale = self.scale.max(other.scale);
        Some(Self { digits: self.at_scale(scale)?.checked_add(other.at_scale(scale)?)?, scale })
    }

    fn write(self) -> Option<String> {
        let Self { mut digits, mut scale } = self;
        if let Some(cut) = scale.checked_sub(SCALE_MAX).filter(|cut| *cut > 0) {
            let power = 10i128.checked_pow(cut)?;
            let (kept, rest) = (digits / power, digits % power);
            // A tie goes to the even digit, as in `printf`: else a number and its opposite would not add up to 0.
            let up = match rest.abs().cmp(&(power / 2)) {
                Ordering::Less => false,
                Ordering::Equal => kept % 2 != 0,
                Ordering::Greater => true,
            };
            digits = kept + if up { rest.signum() } else { 0 };
            scale = SCALE_MAX;
        }
        let sign = if digits < 0 { "-" } else { "" };
        let power = 10u128.checked_pow(scale)?;
        let digits = digits.unsigned_abs();
        let whole = digits / power;
        if scale == 0 {
            return Some(format!("{sign}{whole}"));
        }
        let fraction = format!("{:0width$}", digits % power, width = scale as usize);
        let fraction = fraction.trim_end_matches('0');
        Some(if fraction.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") })
    }
}

/// Whether this is a number at all, as Redis reads one. Infinities are.
pub(crate) fn parse(text: &[u8]) -> Option<(&str, f64)> {
    let text = std::str::from_utf8(text).ok()?;
    let value: f64 = text.parse().ok()?;
    (!value.is_nan()).then_some((text, value))
}

/// The sum, without an exponent and without zeros at its end; `None` if it is infinite or no number.
pub(crate) fn add((left, left_value): (&str, f64), (right, right_value): (&str, f64)) -> Option<String> {
    let exact = || Decimal::parse(left)?.add(Decimal::parse(right)?)?.write();
    if let Some(sum) = exact() {
        return Some(sum);
    }
    let sum = left_value + right_value;
    sum.is_finite().then(|| format!("{sum}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_that_redis_answers() {
        for (left, right, sum) in [
            ("10.50", "0.1", "10.6"),
            ("10.50", "-5", "5.5"),
            ("5.0e3", "2.0e2", "5200"),
            ("0", "1.1", "1.1"),
            ("1.23", "-1.23", "0"),
            ("-1", "-0.5", "-1.5"),
            ("-0.25", "0", "-0.25"),
            ("3", "+1.5", "4.5"),
            ("0.1", "0.2", "0.3"),
            ("1", "2", "3"),
            ("17179869184", "1.5", "17179869185.5"),
            ("1e2", ".5", "100.5"),
            ("0.12345678901234567890", "0", "0.12345678901234568"),
            ("0", "0.024390243902439025", "0.02439024390243902"),
            ("0.02439024390243902", "-0.024390243902439025", "0"),
        ] {
            let (l, r) = (parse(left.as_bytes()).expect(left), parse(right.as_bytes()).expect(right));
            assert_eq!(add(l, r).as_deref(), Some(sum), "{left} + {right}");
        }
        for bad in ["", " 1", "1 ", "abc", "nan", "1..2", "0x10z"] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
        let inf = parse(b"inf").expect("a number to Redis too");
        assert_eq!(add(inf, ("1", 1.0)), None);
        let huge = parse(b"1e308").expect("a number");
        assert_eq!(add(huge, huge), None, "beyond what a number can be");
        assert!(add(huge, ("1", 1.0)).expect("it is finite").starts_with("1000000"));
    }
}
