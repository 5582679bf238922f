//! Conversions between numbers that cannot fail on the machines this tool runs on, and say so if they do.

/// A count as an index. Machines of 32 bits are out of this tool's reach.
pub(crate) fn index(n: u64) -> usize {
    usize::try_from(n).expect("an index fits 64 bits")
}

/// Seconds as whole nanoseconds, at most what a histogram holds.
pub(crate) fn nanos(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// A non-negative number rounded down.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the range first")]
pub(crate) fn floor(x: f64) -> u64 {
    x.clamp(0.0, 9e18) as u64
}

/// For arithmetic and display only: exact up to 2^53.
pub(crate) fn real(n: u64) -> f64 {
    n as f64
}
