//! The C library's allocator, told to give back what is not needed.
//!
//! Role: by itself glibc raises two thresholds to the longest block that was ever freed, up to 32 MiB. Shorter blocks come from
//! arenas then, of which there are eight a core, and each arena keeps twice that length when it is freed. In a soak of half an
//! hour 20 of the arenas' 34 MB were free and kept, and more with the hours.
//!
//! Invariants:
//! - The thresholds never change: long blocks are mapped for themselves, and an arena keeps at most `KEPT_LEN_MAX` bytes
//!   at its free end.

#![expect(unsafe_code, reason = "the allocator's settings have no safe face")]

/// Blocks of this length and more are mapped, and unmapped when they are freed. Longer than the replies of a pipeline, whose buffer
/// comes and goes with each batch: mapped, it costs a page fault for every 4 KiB of them.
const MAPPED_LEN_MIN: i32 = 4 << 20;
/// What an arena keeps of its free end: more than such a buffer, or it would be given back each time.
const KEPT_LEN_MAX: i32 = 8 << 20;

/// Fixes the thresholds. Call it before there are threads: blocks of before stay as they are.
pub fn settle() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [(libc::M_MMAP_THRESHOLD, MAPPED_LEN_MIN), (libc::M_TRIM_THRESHOLD, KEPT_LEN_MAX)] {
        // SAFETY: mallopt(3) takes any parameter with any value, refuses what it does not know, and locks what it changes.
        let settled = unsafe { libc::mallopt(parameter, value) };
        assert_eq!(settled, 1, "glibc knows parameter {parameter} and takes {value}");
    }
}
