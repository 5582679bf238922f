//! Figures as people read them.

use std::time::{SystemTime, UNIX_EPOCH};

/// A key that can be typed and read: printable ASCII as it is, the rest escaped.
pub(crate) fn key(key: &[u8]) -> String {
    key.escape_ascii().to_string()
}

/// Lowercase hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes of hex digits; `None` if they are none.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.chars().map(|digit| digit.to_digit(16)).collect::<Option<Vec<_>>>()?;
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits.chunks_exact(2).map(|pair| u8::try_from(pair[0] << 4 | pair[1]).ok()).collect()
}

/// Now, Unix time in milliseconds.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// A point in time as how long ago it is, or how far ahead.
pub(crate) fn when(ms: u64, now_ms: u64) -> String {
    let (left, right) = if ms > now_ms { ("in ", "") } else { ("", " ago") };
    let seconds = ms.abs_diff(now_ms) / 1000;
    let span = match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86400),
    };
    format!("{left}{span}{right}")
}
