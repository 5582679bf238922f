//! One set of rules: which commands, on which keys, with which channels. A request is allowed if one selector of its user
//! allows all of it.
//!
//! Invariants:
//! - `apply` of what `describe` wrote gives an equal selector.
//! - What cannot be told is refused: a key that is not there as bytes, a pattern of channels that is not named as it stands.

use super::rule::RuleError;
use crate::glob::Glob;
use protocol::command::{self, Access, Acl, Channels, CommandId, Flags, Spec};
use protocol::resp::Args;
use std::collections::BTreeMap;

/// Words of a set of commands.
const WORDS: usize = CommandId::COUNT.div_ceil(64);

/// A set of commands and subcommands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Commands([u64; WORDS]);

impl Commands {
    const NONE: Self = Self([0; WORDS]);

    fn all() -> Self {
        let mut all = Self::NONE;
        CommandId::ALL.iter().for_each(|&id| all.put(id, true));
        all
    }

    fn has(&self, id: CommandId) -> bool {
        self.0[id as usize / 64] >> (id as usize % 64) & 1 == 1
    }

    fn put(&mut self, id: CommandId, allowed: bool) {
        let (word, bit) = (&mut self.0[id as usize / 64], 1 << (id as usize % 64));
        *word = if allowed { *word | bit } else { *word & !bit };
    }
}

/// Keys that may be accessed, by a glob.
#[derive(Clone, Debug, PartialEq, Eq)]
struct KeyPattern {
    glob: Box<[u8]>,
    access: Access,
}

impl KeyPattern {
    fn describe(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(match (self.access.contains(Access::READ), self.access.contains(Access::WRITE)) {
            (true, true) | (false, false) => b"~",
            (true, false) => b"%R~",
            (false, true) => b"%W~",
        });
        out.extend_from_slice(&self.glob);
    }

    fn allows(&self, key: &[u8], access: Access) -> bool {
        self.access.contains(access) && matches(&self.glob, key)
    }
}

fn matches(glob: &[u8], text: &[u8]) -> bool {
    glob == b"*" || Glob::new(glob).is_ok_and(|glob| glob.matches(text))
}

/// Why a selector refuses a request. A key or a channel is named by its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The command, or the one that its options stand for.
    Command(CommandId),
    /// The key of this position; `None` if it would reach keys that it does not name.
    Key(Option<usize>),
    /// The channel of this position.
    Channel(usize),
}

impl Refused {
    /// How near the request came to being allowed.
    pub(super) fn rank(self) -> (u8, usize) {
        match self {
            Self::Command(_) => (0, 0),
            Self::Key(at) => (1, at.unwrap_or_default()),
            Self::Channel(at) => (2, at),
        }
    }
}

/// See the module's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Selector {
    commands: Commands,
    /// First arguments that a command is allowed with although it is not.
    firsts: BTreeMap<CommandId, Vec<Box<[u8]>>>,
    /// Whether the rules of commands begin with all of them, and how they go on.
    from_all: bool,
    rules: Vec<Vec<u8>>,
    keys: Vec<KeyPattern>,
    channels: Vec<Box<[u8]>>,
}

impl Selector {
    /// One that allows nothing, but for channels if they are `open`.
    pub(crate) fn nothing(open: bool) -> Self {
        let channels = if open { vec![b"*"[..].into()] } else { Vec::new() };
        Self {
            commands: Commands::NONE,
            firsts: BTreeMap::new(),
            from_all: false,
            rules: Vec::new(),
            keys: Vec::new(),
            channels,
        }
    }

    /// One that allows everything.
    pub(crate) fn everything() -> Self {
        let mut all = Self::nothing(true);
        all.allow_all();
        all.keys = vec![KeyPattern { glob: b"*"[..].into(), access: Access::all() }];
        all
    }

    /// Whether nothing is refused.
    pub(crate) fn is_everything(&self) -> bool {
        self.commands == Commands::all()
            && self.may_all(Access::all())
            && self.channels.iter().any(|glob| &**glob == b"*")
    }

    fn allow_all(&mut self) {
        (self.commands, self.from_all) = (Commands::all(), true);
        self.rules.clear();
        self.firsts.clear();
    }

    fn allow_none(&mut self) {
        (self.commands, self.from_all) = (Commands::NONE, false);
        self.rules.clear();
        self.firsts.clear();
    }

    /// Applies one rule.
    pub(crate) fn apply(&mut self, rule: &[u8]) -> Result<(), RuleError> {
        let is = |word: &str| rule.eq_ignore_ascii_case(word.as_bytes());
        match rule {
            _ if is("allkeys") || rule == b"~*" => {
                self.keys = vec![KeyPattern { glob: b"*"[..].into(), access: Access::all() }];
            }
            _ if is("resetkeys") => self.keys.clear(),
            _ if is("allchannels") || rule == b"&*" => self.channels = vec![b"*"[..].into()],
            _ if is("resetchannels") => self.channels.clear(),
            _ if is("allcommands") || is("+@all") => self.allow_all(),
            _ if is("nocommands") || is("-@all") => self.allow_none(),
            [b'~', glob @ ..] => self.add_keys(glob, Access::all())?,
            [b'%', rest @ ..] => {
                let tilde = rest.iter().position(|&byte| byte == b'~').ok_or(RuleError::Syntax)?;
                let mut access = Access::empty();
                for letter in &rest[..tilde] {
                    access |= match letter {
                        b'r' | b'R' => Access::READ,
                        b'w' | b'W' => Access::WRITE,
                        _ => return Err(RuleError::Syntax),
                    };
                }
                if access.is_empty() {
                    return Err(RuleError::Syntax);
                }
                self.add_keys(&rest[tilde + 1..], access)?;
            }
            [b'&', glob @ ..] => {
                if self.channels.iter().any(|known| &**known == b"*") {
                    return Err(RuleError::ChannelAfterAll);
                }
                check_pattern(glob)?;
                if !self.channels.iter().any(|known| **known == *glob) {
                    self.channels.push(glob.into());
                }
            }
            [b'+', b'@', group @ ..] => self.set_group(group, true)?,
            [b'-', b'@', group @ ..] => self.set_group(group, false)?,
            [b'+', name @ ..] => self.set_command(name, true)?,
            [b'-', name @ ..] => self.set_command(name, false)?,
            _ => return Err(RuleError::Syntax),
        }
        Ok(())
    }

    fn add_keys(&mut self, glob: &[u8], access: Access) -> Result<(), RuleError> {
        if self.may_all(Access::all()) {
            return Err(RuleError::KeysAfterAll);
        }
        check_pattern(glob)?;
        match self.keys.iter_mut().find(|known| *known.glob == *glob) {
            Some(known) => known.access |= access,
            None => self.keys.push(KeyPattern { glob: glob.into(), access }),
        }
        Ok(())
    }

    fn set_group(&mut self, name: &[u8], allowed: bool) -> Result<(), RuleError> {
        let group = Acl::parse(name).ok_or(RuleError::UnknownCommand)?;
        for spec in command::all().flat_map(|spec| std::iter::once(spec).chain(spec.subcommands)) {
            if spec.acl.contains(group) {
                self.put(spec, allowed);
            }
        }
        self.note(allowed, &[b"@", &*name.to_ascii_lowercase()].concat());
        Ok(())
    }

    fn set_command(&mut self, name: &[u8], allowed: bool) -> Result<(), RuleError> {
        let (word, rest) = match name.iter().position(|&byte| byte == b'|') {
            Some(bar) => (&name[..bar], Some(&name[bar + 1..])),
            None => (name, None),
        };
        let spec = command::lookup(word).ok_or(RuleError::UnknownCommand)?;
        match rest {
            None => {
                std::iter::once(spec).chain(spec.subcommands).for_each(|spec| self.put(spec, allowed));
                self.note(allowed, spec.name.as_bytes());
            }
            Some(sub) if !spec.subcommands.is_empty() => {
                let sub = spec.subcommand(sub).ok_or(RuleError::UnknownCommand)?;
                self.put(sub, allowed);
                self.note(allowed, sub.full_name.as_bytes());
            }
            // Redis allows one first argument, and takes none back.
            Some(first) if allowed && !first.is_empty() && !first.contains(&b'|') => {
                let first = first.to_ascii_lowercase();
                let firsts = self.firsts.entry(spec.id).or_default();
                if !firsts.iter().any(|known| **known == *first) {
                    firsts.push(first.clone().into());
                }
                self.note(true, &[spec.name.as_bytes(), b"|", &first].concat());
            }
            Some(_) => return Err(RuleError::UnknownCommand),
        }
        Ok(())
    }

    fn put(&mut self, spec: &Spec, allowed: bool) {
        self.commands.put(spec.id, allowed);
        self.firsts.remove(&spec.id);
    }

    /// Notes a rule of commands, and forgets earlier ones about the same and about its subcommands.
    fn note(&mut self, allowed: bool, name: &[u8]) {
        self.rules.retain(|rule| {
            let rest = rule[1..].strip_prefix(name);
            !matches!(rest, Some([]) | Some([b'|', ..]))
        });
        self.rules.push([if allowed { b"+" } else { b"-" }, name].concat());
    }

    /// The rules of commands, as `ACL GETUSER` has them.
    pub(crate) fn describe_commands(&self) -> Vec<u8> {
        let all: &[u8] = if self.from_all { b"+@all" } else { b"-@all" };
        std::iter::once(all).chain(self.rules.iter().map(Vec::as_slice)).collect::<Vec<_>>().join(&b' ')
    }

    /// The patterns of keys.
    pub(crate) fn describe_keys(&self) -> Vec<u8> {
        let patterns = self.keys.iter().map(|pattern| {
            let mut out = Vec::new();
            pattern.describe(&mut out);
            out
        });
        patterns.collect::<Vec<_>>().join(&b' ')
    }

    /// The patterns of channels.
    pub(crate) fn describe_channels(&self) -> Vec<u8> {
        self.channels.iter().map(|glob| [b"&", &**glob].concat()).collect::<Vec<_>>().join(&b' ')
    }

    /// All rules, as `ACL LIST` has them.
    pub(crate) fn describe(&self) -> Vec<u8> {
        let mut parts = Vec::new();
        if !self.keys.is_empty() {
            parts.push(self.describe_keys());
        }
        let all_channels = self.channels.iter().any(|glob| &**glob == b"*");
        if !all_channels {
            parts.push(b"resetchannels".to_vec());
        }
        if !self.channels.is_empty() {
            parts.push(self.describe_channels());
        }
        parts.push(self.describe_commands());
        parts.join(&b' ')
    }

    /// Why a request is refused, if it is.
    pub(crate) fn check(&self, spec: &Spec, args: &Args<'_>) -> Result<(), Refused> {
        let first_word = args.bytes(1).map(<[u8]>::to_ascii_lowercase);
        let by_first = || {
            let firsts = self.firsts.get(&spec.id)?;
            let word = first_word.as_ref()?;
            firsts.iter().find(|first| ***first == **word)
        };
        let is_everybodys = spec.flags.contains(Flags::NO_AUTH);
        if !is_everybodys && !self.commands.has(spec.id) && by_first().is_none() {
            return Err(Refused::Command(spec.id));
        }
        if let Some(other) = spec.stands_for(args).filter(|other| !self.commands.has(*other)) {
            return Err(Refused::Command(other));
        }
        if spec.reaches_all(args).is_some_and(|access| !self.may_all(access)) {
            return Err(Refused::Key(None));
        }
        if let Some(at) = spec.refused_key(args, |key, access| self.may(key, access)) {
            return Err(Refused::Key(Some(at)));
        }
        let channels = match spec.channels {
            Channels::None => 0..0,
            Channels::First => 1..2,
            Channels::All | Channels::Patterns => 1..args.len(),
        };
        let is_pattern = spec.channels == Channels::Patterns;
        let refused = channels
            .into_iter()
            .find(|&at| args.bytes(at).is_none_or(|channel| !self.may_channel(channel, is_pattern)));
        refused.map_or(Ok(()), |at| Err(Refused::Channel(at)))
    }

    /// Whether this may be done to a key.
    pub(crate) fn may(&self, key: &[u8], access: Access) -> bool {
        self.keys.iter().any(|pattern| pattern.allows(key, access))
    }

    /// Whether this may be done to every key.
    pub(crate) fn may_all(&self, access: Access) -> bool {
        self.keys.iter().any(|pattern| &*pattern.glob == b"*" && pattern.access.contains(access))
    }

    /// Whether a channel may be used, or listened to by a pattern: that has to be one of ours as it stands.
    pub(crate) fn may_channel(&self, channel: &[u8], is_pattern: bool) -> bool {
        self.channels
            .iter()
            .any(|own| &**own == b"*" || if is_pattern { **own == *channel } else { matches(own, channel) })
    }
}

/// Refuses what would break a line of rules, or could never match.
fn check_pattern(glob: &[u8]) -> Result<(), RuleError> {
    let breaks = glob.iter().any(|byte| byte.is_ascii_whitespace() || *byte == 0);
    if breaks || Glob::new(glob).is_err() { Err(RuleError::Syntax) } else { Ok(()) }
}
