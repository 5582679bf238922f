//! Whether a value that arrived is the one its key names, and saying so if not.

use crate::payload::{Payload, Verify};
use std::sync::atomic::{AtomicU64, Ordering};

/// Wrong values that are described; the others are only counted. One broken server could fill a disk otherwise.
const DESCRIBED_MAX: u64 = 10;

static DESCRIBED: AtomicU64 = AtomicU64::new(0);

/// Whether `value` is the `len` bytes of `key`. Describes the first few that are not.
pub(crate) fn is_right(key: &[u8], value: &[u8], len: usize, verify: Verify) -> bool {
    let what = if value.len() != len {
        format!("{} bytes where {len} were due", value.len())
    } else {
        match Payload::of(key).check(value, verify) {
            Ok(()) => return true,
            Err(wrong) => wrong.to_string(),
        }
    };
    match DESCRIBED.fetch_add(1, Ordering::Relaxed) {
        n if n < DESCRIBED_MAX => eprintln!("{}: {what}", String::from_utf8_lossy(key)),
        DESCRIBED_MAX => eprintln!("more wrong values are counted, not described"),
        _ => {}
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_and_bytes_both_count() {
        let mut value = vec![0; 100];
        Payload::of(b"k").fill(&mut value);
        assert!(is_right(b"k", &value, 100, Verify::Full));
        assert!(!is_right(b"k", &value, 101, Verify::Off));
        assert!(!is_right(b"k", &value[..99], 100, Verify::Off));
        value[50] ^= 1;
        assert!(!is_right(b"k", &value, 100, Verify::Full));
        assert!(is_right(b"k", &value, 100, Verify::Off));
    }
}
