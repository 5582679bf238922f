//! The kinds of value a setting can have: how each is read from text, and how it is written back.
//!
//! Invariants:
//! - `parse(written(v)) == v` and `parse(render(v)) == v`: what is printed can be fed back.
//! - A secret shows in `render` (which `CONFIG GET` answers, as Redis does) and nowhere else.

use protocol::base::{ByteLen, Millis};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// How a value is written in a TOML file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A bare integer where the text is all digits, else a string: `5000`, `"64 KiB"`.
    Number,
    /// `true` or `false`.
    Switch,
    /// Always a string.
    Text,
}

/// What a setting can hold.
pub trait Value: Sized + PartialOrd {
    /// For help texts: `LENGTH`, `MS`.
    const KIND: &'static str;
    /// What may be written, for a setting without a range of its own.
    const ALLOWED: &'static str;
    /// Words that may be written in place of a value.
    const WORDS: &'static [&'static str] = &[];
    /// How the value is written in a file.
    const FORM: Form = Form::Number;
    /// Whether the value must not show in logs and printed configurations.
    const SECRET: bool = false;
    /// Whether it may be given in parts: a flag several times, an array in a file.
    const LIST: bool = false;
    /// What stands between two parts where they are one text.
    const SEPARATOR: &'static str = ",";

    /// Reads text as it comes from a file, the environment, a flag or `CONFIG SET`.
    fn parse(text: &str) -> Option<Self>;
    /// The form that Redis tools expect of `CONFIG GET`: plain numbers, `yes` and `no`.
    fn render(&self) -> String;
    /// The form for people and files: `64 KiB`. Reads back to the same value.
    fn written(&self) -> String {
        self.render()
    }
}

impl Value for usize {
    const KIND: &'static str = "COUNT";
    const ALLOWED: &'static str = "a whole number";
    fn parse(text: &str) -> Option<Self> {
        text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
    }
    fn render(&self) -> String {
        self.to_string()
    }
}

impl Value for ByteLen {
    const KIND: &'static str = "LENGTH";
    const ALLOWED: &'static str = "a length such as 4096, 64 KiB or 1 GiB";
    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }
    fn render(&self) -> String {
        self.get().to_string()
    }
    fn written(&self) -> String {
        // `Display` rounds to two decimals where no unit fits exactly.
        let text = self.to_string();
        if text.parse() == Ok(*self) && self.get() >= 1024 { text } else { self.render() }
    }
}

impl Value for Millis {
    const KIND: &'static str = "MS";
    const ALLOWED: &'static str = "a whole number of milliseconds";
    fn parse(text: &str) -> Option<Self> {
        u64::try_from(usize::parse(text)?).ok().map(Self)
    }
    fn render(&self) -> String {
        self.0.to_string()
    }
}

/// A span of time in whole seconds, for the settings that Redis counts so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Seconds(pub u64);

impl Seconds {
    /// As the standard library's type.
    pub fn duration(self) -> Duration {
        Duration::from_secs(self.0)
    }
}

impl Value for Seconds {
    const KIND: &'static str = "SECONDS";
    const ALLOWED: &'static str = "a whole number of seconds";
    fn parse(text: &str) -> Option<Self> {
        u64::try_from(usize::parse(text)?).ok().map(Self)
    }
    fn render(&self) -> String {
        self.0.to_string()
    }
}

/// A span of time in microseconds, for waits shorter than a wake-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Micros(pub u64);

impl Micros {
    /// As the standard library's type.
    pub fn duration(self) -> Duration {
        Duration::from_micros(self.0)
    }
}

impl Value for Micros {
    const KIND: &'static str = "US";
    const ALLOWED: &'static str = "a whole number of microseconds";
    fn parse(text: &str) -> Option<Self> {
        u64::try_from(usize::parse(text)?).ok().map(Self)
    }
    fn render(&self) -> String {
        self.0.to_string()
    }
}

/// Microseconds from which on something is noted, as Redis writes it: a negative number is never.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct SlowerThan(pub Option<u64>);

impl Value for SlowerThan {
    const KIND: &'static str = "US";
    const ALLOWED: &'static str = "a whole number of microseconds, or -1 for never";
    fn parse(text: &str) -> Option<Self> {
        let us: i64 = text.parse().ok()?;
        Some(Self(u64::try_from(us).ok()))
    }
    fn render(&self) -> String {
        self.0.map_or("-1".to_owned(), |us| us.to_string())
    }
}

/// A share of something, in whole percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Percent(pub u8);

impl Percent {
    /// This share of `total`, rounded down.
    pub fn of(self, total: ByteLen) -> ByteLen {
        let part = u128::from(total.get()) * u128::from(self.0) / 100;
        ByteLen(u64::try_from(part).unwrap_or(u64::MAX))
    }
}

impl Value for Percent {
    const KIND: &'static str = "PERCENT";
    const ALLOWED: &'static str = "0 to 100";
    fn parse(text: &str) -> Option<Self> {
        let text = text.strip_suffix('%').unwrap_or(text);
        u8::try_from(usize::parse(text)?).ok().filter(|&p| p <= 100).map(Self)
    }
    fn render(&self) -> String {
        self.0.to_string()
    }
}

impl Value for bool {
    const KIND: &'static str = "YES|NO";
    const ALLOWED: &'static str = "yes or no";
    const FORM: Form = Form::Switch;
    fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "yes" | "true" => Some(true),
            "no" | "false" => Some(false),
            _ => None,
        }
    }
    fn render(&self) -> String {
        if *self { "yes" } else { "no" }.to_owned()
    }
}

impl Value for SocketAddr {
    const KIND: &'static str = "ADDR:PORT";
    const ALLOWED: &'static str = "an IP address and a port, such as 127.0.0.1:6379 or [::1]:6379";
    const FORM: Form = Form::Text;
    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }
    fn render(&self) -> String {
        self.to_string()
    }
}

impl Value for PathBuf {
    const KIND: &'static str = "PATH";
    const ALLOWED: &'static str = "a path";
    const FORM: Form = Form::Text;
    fn parse(text: &str) -> Option<Self> {
        (!text.is_empty() && !text.contains('\0')).then(|| Self::from(text))
    }
    fn render(&self) -> String {
        self.display().to_string()
    }
}

/// A value, or the server's own choice, or nothing at all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Default)]
pub enum Choice<T> {
    /// The server picks.
    #[default]
    Auto,
    /// Turned off.
    Off,
    /// As given.
    Given(T),
}

impl<T: Value> Value for Choice<T> {
    const KIND: &'static str = T::KIND;
    const ALLOWED: &'static str = T::ALLOWED;
    const WORDS: &'static [&'static str] = &["auto", "none"];
    const FORM: Form = Form::Text;
    fn parse(text: &str) -> Option<Self> {
        match text {
            "auto" => Some(Self::Auto),
            "none" => Some(Self::Off),
            _ => T::parse(text).map(Self::Given),
        }
    }
    fn render(&self) -> String {
        match self {
            Self::Auto => "auto".to_owned(),
            Self::Off => "none".to_owned(),
            Self::Given(value) => value.render(),
        }
    }
}

impl<T: Value> Value for Option<T> {
    const KIND: &'static str = T::KIND;
    const ALLOWED: &'static str = T::ALLOWED;
    const WORDS: &'static [&'static str] = &["none"];
    const FORM: Form = Form::Text;
    fn parse(text: &str) -> Option<Self> {
        if text == "none" { Some(None) } else { T::parse(text).map(Some) }
    }
    fn render(&self) -> String {
        self.as_ref().map_or_else(|| "none".to_owned(), Value::render)
    }
}

/// A password. Empty means that none is asked for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Default)]
pub struct Secret(String);

impl Secret {
    /// Whether no password is asked for.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `given` is the password, in a time that does not depend on where the two differ.
    pub fn matches(&self, given: &[u8]) -> bool {
        let own = self.0.as_bytes();
        let differing = own.iter().zip(given).fold(own.len() ^ given.len(), |sum, (a, b)| sum | usize::from(a ^ b));
        differing == 0
    }

    /// The password itself; `None` if none is asked for.
    pub fn reveal(&self) -> Option<&str> {
        (!self.0.is_empty()).then_some(self.0.as_str())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "Secret(none)" } else { "Secret(..)" })
    }
}

impl Value for Secret {
    const KIND: &'static str = "PASSWORD";
    const ALLOWED: &'static str = "any text of up to 512 bytes; empty for none";
    const FORM: Form = Form::Text;
    const SECRET: bool = true;
    fn parse(text: &str) -> Option<Self> {
        (text.len() <= 512).then(|| Self(text.to_owned()))
    }
    fn render(&self) -> String {
        self.0.clone()
    }
    fn written(&self) -> String {
        if self.0.is_empty() { String::new() } else { "********".to_owned() }
    }
}

/// Which RDMA device is used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd)]
pub enum RdmaDevice {
    /// The first that can be used, if any.
    Auto,
    /// None.
    Off,
    /// This one, or the server does not start.
    Named(String),
}

impl Value for RdmaDevice {
    const KIND: &'static str = "DEVICE";
    const ALLOWED: &'static str = "auto, off, or a device's name (`ibv_devices` lists them)";
    const FORM: Form = Form::Text;
    fn parse(text: &str) -> Option<Self> {
        match text {
            "auto" => Some(Self::Auto),
            "off" => Some(Self::Off),
            name => {
                let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
                (!name.is_empty() && name.len() < 64 && name.chars().all(plain)).then(|| Self::Named(name.to_owned()))
            }
        }
    }
    fn render(&self) -> String {
        match self {
            Self::Auto => "auto",
            Self::Off => "off",
            Self::Named(name) => name,
        }
        .to_owned()
    }
}

/// An enum whose values are words.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident: $allowed:literal { $($(#[$word_doc:meta])* $variant:ident = $word:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
        pub enum $name { $($(#[$word_doc])* $variant),* }

        impl Value for $name {
            const KIND: &'static str = "WORD";
            const ALLOWED: &'static str = $allowed;
            const FORM: Form = Form::Text;
            fn parse(text: &str) -> Option<Self> {
                match text { $($word => Some(Self::$variant),)* _ => None }
            }
            fn render(&self) -> String {
                match self { $(Self::$variant => $word),* }.to_owned()
            }
        }
    };
}

words! {
    /// Whether clients are lent windows of an RDMA device.
    RdmaWindows: "auto or off" {
        /// Where the device keeps what windows promise, which is tried at the start.
        Auto = "auto",
        /// Never: the server moves all bytes itself.
        Off = "off",
    }
}

words! {
    /// Whether segments are backed by huge pages.
    HugePages: "auto, never or always" {
        /// Where the machine gives them.
        Auto = "auto",
        /// Not even if it would.
        Never = "never",
        /// Or the server does not start.
        Always = "always",
    }
}

words! {
    /// How a client on the same host hands over the bytes of a `PUT`.
    ShmWrite: "copy or arena" {
        /// The server copies out of the client's own memory and checksums its copy.
        Copy = "copy",
        /// The client writes into a segment it was lent. For clients that are trusted as the server is.
        Arena = "arena",
    }
}

words! {
    /// Whether clients show a certificate at a TLS handshake.
    TlsClients: "yes, no or optional" {
        /// Or they are refused.
        Yes = "yes",
        /// Nobody asks.
        No = "no",
        /// If they have one, it must be good.
        Optional = "optional",
    }
}

words! {
    /// Which channels a new user may use.
    PubSubDefault: "allchannels or resetchannels" {
        /// All.
        AllChannels = "allchannels",
        /// None.
        ResetChannels = "resetchannels",
    }
}

words! {
    /// How the flash tier reads and writes its devices.
    FlashEngine: "auto, uring or syscall" {
        /// io_uring, or system calls where the kernel refuses it.
        Auto = "auto",
        /// io_uring, or the server does not start.
        Uring = "uring",
        /// System calls on threads.
        Syscall = "syscall",
    }
}

words! {
    /// Which in-band read of an object on flash brings it back into DRAM.
    PromoteOn: "first, second or never" {
        /// Every one.
        First = "first",
        /// Not the first since it was written there.
        Second = "second",
        /// None.
        Never = "never",
    }
}

words! {
    /// The least important line that is still logged.
    LogLevel: "error, warn, info, debug or trace" {
        /// What needs a person.
        Error = "error",
        /// What a person may want to look at.
        Warn = "warn",
        /// Starts, stops, configuration.
        Info = "info",
        /// Connections come and go.
        Debug = "debug",
        /// Everything.
        Trace = "trace",
    }
}

words! {
    /// The shape of a log line.
    LogFormat: "text or json" {
        /// For people.
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: Value + fmt::Debug>(text: &str, render: &str, written: &str) {
        let value = T::parse(text).unwrap_or_else(|| panic!("{text:?} is refused"));
        assert_eq!(value.render(), render, "{text}");
        assert_eq!(value.written(), written, "{text}");
        assert_eq!(T::parse(render).as_ref(), Some(&value), "{render:?} reads back to another value");
        if !T::SECRET {
            assert_eq!(T::parse(written).as_ref(), Some(&value), "{written:?} reads back to another value");
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        check::<usize>("12", "12", "12");
        check::<ByteLen>("64KiB", "65536", "64 KiB");
        check::<ByteLen>("1000001", "1000001", "1000001");
        check::<ByteLen>("512", "512", "512");
        check::<Millis>("5000", "5000", "5000");
        check::<Seconds>("300", "300", "300");
        check::<Percent>("95%", "95", "95");
        check::<bool>("true", "yes", "yes");
        check::<SocketAddr>("[::1]:6379", "[::1]:6379", "[::1]:6379");
        check::<Choice<PathBuf>>("none", "none", "none");
        check::<Choice<PathBuf>>("/run/m.sock", "/run/m.sock", "/run/m.sock");
        check::<HugePages>("always", "always", "always");
        check::<Secret>("hunter2", "hunter2", "********");
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "-1", "+1", "1.5", "many", "99999999999999999999"] {
            assert!(usize::parse(text).is_none(), "{text:?} passed as a count");
            assert!(Millis::parse(text).is_none(), "{text:?} passed as milliseconds");
        }
        for text in ["101", "%", "5%%", "-3"] {
            assert!(Percent::parse(text).is_none(), "{text:?} passed as percent");
        }
        for text in ["localhost:1", "127.0.0.1", ":6379", "1.2.3.4:65536"] {
            assert!(<SocketAddr as Value>::parse(text).is_none(), "{text:?} passed as an address");
        }
        assert!(bool::parse("maybe").is_none());
        assert!(LogLevel::parse("loud").is_none());
    }

    #[test]
    fn a_password_is_compared_whole_and_does_not_show_in_debug() {
        let secret = Secret::parse("hunter2").expect("any text is a password");
        assert!(!format!("{secret:?}").contains("hunter2"));
        assert_eq!(secret.reveal(), Some("hunter2"));
        assert!(secret.matches(b"hunter2") && !secret.is_empty());
        for wrong in [&b"hunter"[..], b"hunter22", b"Hunter2", b""] {
            assert!(!secret.matches(wrong), "{wrong:?} passes");
        }
        assert_eq!(Secret::default().reveal(), None);
    }

    #[test]
    fn shares_round_down_and_do_not_overflow() {
        assert_eq!(Percent(95).of(ByteLen(199)), ByteLen(189));
        assert_eq!(Percent(100).of(ByteLen(u64::MAX)), ByteLen(u64::MAX));
    }
}
