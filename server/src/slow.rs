//! What took long: the latest slow commands for `SLOWLOG`, and spikes by kind for `LATENCY`.
//!
//! Invariants:
//! - Both are bounded in number and in bytes, whatever the commands were.
//! - Commands that carry credentials come in without their arguments.

use crate::clock::unix_ms;
use crate::config::{Config, setting};
use parking_lot::Mutex;
use protocol::command::{CommandId, Flags, Spec};
use protocol::resp::Args;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Where a limit lies below this, the shortest commands are worth two looks at the clock too.
const KEEN_NS: u64 = 1_000_000;
/// No limit: nothing takes that long.
const NEVER: u64 = u64::MAX;
/// Arguments kept of each, and bytes of each argument: as Redis.
const ARGS_MAX: usize = 32;
const ARG_LEN_MAX: usize = 128;
/// Spikes kept of each kind.
const SPIKES_MAX: usize = 160;

/// One slow command.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) number: u64,
    pub(crate) unix_s: u64,
    pub(crate) took: Duration,
    pub(crate) words: Vec<Vec<u8>>,
    pub(crate) addr: String,
    pub(crate) name: String,
}

/// One spike: when, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spike {
    pub(crate) unix_s: u64,
    pub(crate) ms: u64,
}

#[derive(Debug, Default)]
struct Log {
    next: u64,
    entries: VecDeque<Entry>,
}

#[derive(Debug, Default)]
struct Event {
    spikes: VecDeque<Spike>,
    longest_ms: u64,
}

/// See the module's text. As it is made it keeps nothing: [`Slow::apply`] says what to keep.
#[derive(Debug)]
pub(crate) struct Slow {
    /// From which time on a command is logged, and from which on it is a spike, in nanoseconds.
    logged_ns: AtomicU64,
    spike_ns: AtomicU64,
    /// Slow commands kept.
    entries_max: AtomicUsize,
    log: Mutex<Log>,
    events: Mutex<BTreeMap<&'static str, Event>>,
}

impl Default for Slow {
    fn default() -> Self {
        Self {
            logged_ns: AtomicU64::new(NEVER),
            spike_ns: AtomicU64::new(NEVER),
            entries_max: AtomicUsize::new(0),
            log: Mutex::default(),
            events: Mutex::default(),
        }
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(NEVER)
}

impl Slow {
    /// Takes over what the settings say.
    pub(crate) fn apply(&self, config: &Config) {
        let logged = config.slowlog_log_slower_than.0.map_or(NEVER, |us| nanos(Duration::from_micros(us)));
        let spike = match config.latency_monitor_threshold.0 {
            0 => NEVER,
            ms => nanos(Duration::from_millis(ms)),
        };
        self.logged_ns.store(logged, Ordering::Relaxed);
        self.spike_ns.store(spike, Ordering::Relaxed);
        self.entries_max.store(config.slowlog_max_len, Ordering::Relaxed);
        self.log.lock().entries.truncate(config.slowlog_max_len);
    }

    /// Whether commands are timed that hardly ever take long.
    #[inline]
    pub(crate) fn is_keen(&self) -> bool {
        self.logged_ns.load(Ordering::Relaxed) < KEEN_NS
    }

    /// Whether a command that took so long is to be noted.
    pub(crate) fn is_slow(&self, took: Duration) -> bool {
        let took = nanos(took);
        took >= self.logged_ns.load(Ordering::Relaxed) || took >= self.spike_ns.load(Ordering::Relaxed)
    }

    /// Notes a command that took so long, where the settings want it noted.
    pub(crate) fn command(&self, spec: &Spec, args: &Args<'_>, took: Duration, addr: &str, name: &str) {
        if nanos(took) >= self.spike_ns.load(Ordering::Relaxed) {
            let kind = if spec.flags.contains(Flags::FAST) { "fast-command" } else { "command" };
            self.event(kind, took);
        }
        let entries_max = self.entries_max.load(Ordering::Relaxed);
        if nanos(took) < self.logged_ns.load(Ordering::Relaxed) || entries_max == 0 {
            return;
        }
        let words = words(spec, args);
        let mut log = self.log.lock();
        log.entries.truncate(entries_max - 1);
        let (number, addr, name) = (log.next, addr.to_owned(), name.to_owned());
        log.next += 1;
        log.entries.push_front(Entry { number, unix_s: unix_ms() / 1000, took, words, addr, name });
    }

    /// Something of a kind took long.
    fn event(&self, kind: &'static str, took: Duration) {
        let spike = Spike { unix_s: unix_ms() / 1000, ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX) };
        let mut events = self.events.lock();
        let event = events.entry(kind).or_default();
        event.longest_ms = event.longest_ms.max(spike.ms);
        match event.spikes.back_mut() {
            // One a second, the longest, so that the history reaches back.
            Some(last) if last.unix_s == spike.unix_s => last.ms = last.ms.max(spike.ms),
            _ => {
                if event.spikes.len() == SPIKES_MAX {
                    event.spikes.pop_front();
                }
                event.spikes.push_back(spike);
            }
        }
    }

    /// The latest entries, newest first.
    pub(crate) fn latest(&self, most: usize) -> Vec<Entry> {
        self.log.lock().entries.iter().take(most).cloned().collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.log.lock().entries.len()
    }

    /// Forgets the slow commands. Their numbers go on.
    pub(crate) fn forget_commands(&self) {
        self.log.lock().entries.clear();
    }

    /// Kind, latest spike and longest ever.
    pub(crate) fn events(&self) -> Vec<(&'static str, Spike, u64)> {
        let events = self.events.lock();
        events.iter().filter_map(|(kind, event)| Some((*kind, *event.spikes.back()?, event.longest_ms))).collect()
    }

    /// The spikes of one kind, oldest first.
    pub(crate) fn history(&self, kind: &[u8]) -> Vec<Spike> {
        let events = self.events.lock();
        let event = events.iter().find(|(known, _)| kind.eq_ignore_ascii_case(known.as_bytes()));
        event.map_or_else(Vec::new, |(_, event)| event.spikes.iter().copied().collect())
    }

    /// Forgets the spikes of the kinds that `meant` says. Returns how many kinds there were.
    pub(crate) fn forget_events(&self, meant: impl Fn(&str) -> bool) -> usize {
        let mut events = self.events.lock();
        let before = events.len();
        events.retain(|kind, _| !meant(kind));
        before - events.len()
    }
}

/// What is kept of a command's words, cut short as Redis cuts them.
fn words(spec: &Spec, args: &Args<'_>) -> Vec<Vec<u8>> {
    if spec.flags.contains(Flags::SKIP_MONITOR) {
        return vec![spec.full_name.as_bytes().to_vec(), b"(redacted)".to_vec()];
    }
    let count = args.len();
    let kept = if count > ARGS_MAX { ARGS_MAX - 1 } else { count };
    let mut words: Vec<Vec<u8>> = args
        .iter()
        .take(kept)
        .enumerate()
        .map(|(at, arg)| match arg.bytes() {
            Some(_) if is_secret(spec, args, at) => b"(redacted)".to_vec(),
            Some(bytes) if bytes.len() <= ARG_LEN_MAX => bytes.to_vec(),
            Some(bytes) => {
                let mut word = bytes[..ARG_LEN_MAX].to_vec();
                word.extend_from_slice(format!("... ({} more bytes)", bytes.len() - ARG_LEN_MAX).as_bytes());
                word
            }
            None => format!("({} bytes)", arg.len()).into_bytes(),
        })
        .collect();
    if kept < count {
        words.push(format!("... ({} more arguments)", count - kept).into_bytes());
    }
    words
}

/// Whether the word at `at` is the new value of a setting that must not be shown.
fn is_secret(spec: &Spec, args: &Args<'_>, at: usize) -> bool {
    let name = || args.bytes(at - 1).map(|name| String::from_utf8_lossy(name).to_ascii_lowercase());
    spec.id == CommandId::ConfigSet
        && at >= 3
        && name().and_then(|name| setting(&name)).is_some_and(|setting| setting.secret)
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::command::lookup;
    use protocol::resp::ArgBuf;

    use crate::config::Machine;
    use protocol::base::ByteLen;

    /// With these settings, and the others at their defaults.
    fn slow(pairs: &[(&str, &str)]) -> Slow {
        let mut config = Config::default_on(Machine { memory: ByteLen::gib(8), cores: 2 });
        config.set_all(pairs).expect("settings that are allowed");
        let slow = Slow::default();
        slow.apply(&config);
        slow
    }

    fn note(slow: &Slow, words: &[&str], ms: u64) {
        let spec = lookup(words[0].as_bytes()).expect("a command");
        slow.command(spec, &ArgBuf::new(words).args(), Duration::from_millis(ms), "127.0.0.1:1", "");
    }

    #[test]
    fn passwords_are_not_kept() {
        for words_given in ["config set requirepass s3cret timeout 5", "config set timeout 5 RequirePass s3cret"] {
            let buf = ArgBuf::new(words_given.split(' '));
            let spec = lookup(b"config").and_then(|spec| spec.subcommand(b"set")).expect("a command");
            let kept = words(spec, &buf.args()).concat();
            let kept = String::from_utf8_lossy(&kept);
            assert!(!kept.contains("s3cret") && kept.contains("(redacted)") && kept.contains('5'), "{kept}");
        }
        let acl = lookup(b"acl").and_then(|spec| spec.subcommand(b"setuser")).expect("a command");
        let buf = ArgBuf::new("acl setuser bob >s3cret".split(' '));
        assert_eq!(words(acl, &buf.args()), [&b"acl|setuser"[..], b"(redacted)"]);
    }

    #[test]
    fn the_log_keeps_the_latest_and_counts_on() {
        let slow = slow(&[]);
        for _ in 0..200 {
            note(&slow, &["keys", "*"], 20);
        }
        assert_eq!((slow.len(), slow.latest(3).len(), slow.latest(3)[0].number), (128, 3, 199));
        slow.forget_commands();
        note(&slow, &["keys", "*"], 20);
        assert_eq!((slow.len(), slow.latest(9)[0].number), (1, 200));
    }

    #[test]
    fn what_counts_as_slow_is_what_the_settings_say() {
        let ms = Duration::from_millis;
        let by_default = slow(&[]);
        assert!(!by_default.is_keen() && !by_default.is_slow(ms(9)) && by_default.is_slow(ms(10)));
        let keen =
            slow(&[("slowlog-log-slower-than", "0"), ("slowlog-max-len", "2"), ("latency-monitor-threshold", "0")]);
        assert!(keen.is_keen() && keen.is_slow(Duration::ZERO));
        (0..5).for_each(|_| note(&keen, &["ping"], 0));
        assert_eq!((keen.len(), keen.events().len()), (2, 0));
        let never = slow(&[("slowlog-log-slower-than", "-1"), ("latency-monitor-threshold", "100")]);
        assert!(!never.is_slow(ms(99)) && never.is_slow(ms(100)));
        note(&never, &["keys", "*"], 100);
        assert_eq!((never.len(), never.events().len()), (0, 1));
        let none = slow(&[("slowlog-max-len", "0"), ("slowlog-log-slower-than", "0")]);
        note(&none, &["keys", "*"], 5);
        assert_eq!(none.len(), 0);
    }

    #[test]
    fn passwords_and_long_arguments_are_not_kept() {
        let slow = slow(&[]);
        note(&slow, &["auth", "hunter2"], 20);
        assert!(!format!("{:?}", slow.latest(1)).contains("hunter2"));
        let long = "x".repeat(1000);
        let mut words = vec!["del", &long];
        words.extend(["k"; 98]);
        note(&slow, &words, 20);
        let kept = slow.latest(1).remove(0).words;
        assert_eq!(kept.len(), ARGS_MAX);
        assert_eq!(kept[1].len(), ARG_LEN_MAX + "... (872 more bytes)".len());
        assert_eq!(kept[31], b"... (69 more arguments)");
    }

    #[test]
    fn events_are_kept_by_kind_and_forgotten_by_kind() {
        let slow = slow(&[]);
        slow.event("maintenance", Duration::from_millis(30));
        slow.event("maintenance", Duration::from_millis(12));
        note(&slow, &["ttl", "k"], 15);
        assert_eq!(
            slow.events().iter().map(|(kind, _, longest)| (*kind, *longest)).collect::<Vec<_>>(),
            [("fast-command", 15), ("maintenance", 30)]
        );
        assert!(!slow.history(b"MAINTENANCE").is_empty() && slow.history(b"other").is_empty());
        assert_eq!(slow.forget_events(|kind| kind == "maintenance"), 1);
        assert_eq!(slow.forget_events(|_| true), 1);
    }
}
