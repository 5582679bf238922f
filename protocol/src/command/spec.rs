//! What the table says of one command.

use super::{CommandId, Syntax};
use crate::resp::{Args, ErrorWord, WireError};
use bitflags::bitflags;

bitflags! {
    /// How a command behaves. The names are those of `COMMAND INFO`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Flags: u16 {
        /// May change objects.
        const WRITE = 1;
        /// Changes no object.
        const READONLY = 1 << 1;
        /// May need memory, and answers `-OOM` where there is none.
        const DENYOOM = 1 << 2;
        /// For operators.
        const ADMIN = 1 << 3;
        /// Constant or logarithmic time.
        const FAST = 1 << 4;
        /// Runs before the connection has authenticated.
        const NO_AUTH = 1 << 5;
        /// Answers while the node is starting.
        const LOADING = 1 << 6;
        /// Answers on a stale replica.
        const STALE = 1 << 7;
        /// May wait.
        const BLOCKING = 1 << 8;
        /// Which arguments are keys depends on the other arguments.
        const MOVABLEKEYS = 1 << 9;
        /// Not shown to `MONITOR` and not logged: carries credentials.
        const SKIP_MONITOR = 1 << 10;
        /// Others hear of it: waits when writes do.
        const MAY_REPLICATE = 1 << 11;
        /// Not queued by `MULTI`, and refused within it.
        const NO_MULTI = 1 << 12;
        /// About messages.
        const PUBSUB = 1 << 13;
    }

    /// Which groups of an access-control rule a command belongs to: Redis's, then ours. No command here is in those
    /// of Redis's that stand for other kinds of value; rules may name them all the same.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Acl: u32 {
        /// Keys, whatever they hold.
        const KEYSPACE = 1;
        /// Reads objects.
        const READ = 1 << 1;
        /// Writes objects.
        const WRITE = 1 << 2;
        /// Sets: none here.
        const SET = 1 << 3;
        /// Sorted sets: none here.
        const SORTED_SET = 1 << 4;
        /// Lists: none here.
        const LIST = 1 << 5;
        /// Hashes: none here.
        const HASH = 1 << 6;
        /// Strings.
        const STRING = 1 << 7;
        /// Bitmaps: none here.
        const BITMAP = 1 << 8;
        /// HyperLogLogs: none here.
        const HYPERLOGLOG = 1 << 9;
        /// Places on earth: none here.
        const GEO = 1 << 10;
        /// Streams: none here.
        const STREAM = 1 << 11;
        /// Messages.
        const PUBSUB = 1 << 12;
        /// Operators' commands.
        const ADMIN = 1 << 13;
        /// Constant or logarithmic time.
        const FAST = 1 << 14;
        /// Everything else.
        const SLOW = 1 << 15;
        /// May wait.
        const BLOCKING = 1 << 16;
        /// Can harm others when misused.
        const DANGEROUS = 1 << 17;
        /// The connection itself.
        const CONNECTION = 1 << 18;
        /// Transactions.
        const TRANSACTION = 1 << 19;
        /// Scripts and functions.
        const SCRIPTING = 1 << 20;
        /// Bytes around RESP: sessions, grants, leases.
        const BULK = 1 << 21;
        /// Promises that objects are not evicted.
        const PIN = 1 << 22;
    }

    /// What a command does to a key, as far as access rules ask. Neither: it learns no more than whether the key is there,
    /// which any right to the key allows.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Access: u8 {
        /// Learns something of what the key holds.
        const READ = 1;
        /// Changes what the key holds, or whether it holds anything.
        const WRITE = 1 << 1;
    }
}

impl Flags {
    /// The words of `COMMAND INFO`.
    pub fn words(self) -> impl Iterator<Item = &'static str> {
        const WORDS: [(Flags, &str); 14] = [
            (Flags::WRITE, "write"),
            (Flags::READONLY, "readonly"),
            (Flags::DENYOOM, "denyoom"),
            (Flags::ADMIN, "admin"),
            (Flags::FAST, "fast"),
            (Flags::NO_AUTH, "no_auth"),
            (Flags::LOADING, "loading"),
            (Flags::STALE, "stale"),
            (Flags::BLOCKING, "blocking"),
            (Flags::MOVABLEKEYS, "movablekeys"),
            (Flags::SKIP_MONITOR, "skip_monitor"),
            (Flags::MAY_REPLICATE, "may_replicate"),
            (Flags::NO_MULTI, "no_multi"),
            (Flags::PUBSUB, "pubsub"),
        ];
        WORDS.into_iter().filter(move |(flag, _)| self.contains(*flag)).map(|(_, word)| word)
    }
}

impl Acl {
    /// Every group and its name, without the `@`: in Redis's order, then ours.
    pub const WORDS: [(Self, &'static str); 23] = [
        (Self::KEYSPACE, "keyspace"),
        (Self::READ, "read"),
        (Self::WRITE, "write"),
        (Self::SET, "set"),
        (Self::SORTED_SET, "sortedset"),
        (Self::LIST, "list"),
        (Self::HASH, "hash"),
        (Self::STRING, "string"),
        (Self::BITMAP, "bitmap"),
        (Self::HYPERLOGLOG, "hyperloglog"),
        (Self::GEO, "geo"),
        (Self::STREAM, "stream"),
        (Self::PUBSUB, "pubsub"),
        (Self::ADMIN, "admin"),
        (Self::FAST, "fast"),
        (Self::SLOW, "slow"),
        (Self::BLOCKING, "blocking"),
        (Self::DANGEROUS, "dangerous"),
        (Self::CONNECTION, "connection"),
        (Self::TRANSACTION, "transaction"),
        (Self::SCRIPTING, "scripting"),
        (Self::BULK, "bulk"),
        (Self::PIN, "pin"),
    ];

    /// The group called `name`, in any case.
    pub fn parse(name: &[u8]) -> Option<Self> {
        Self::WORDS.iter().find(|(_, word)| name.eq_ignore_ascii_case(word.as_bytes())).map(|(group, _)| *group)
    }

    /// The names of these groups, without the `@`.
    pub fn words(self) -> impl Iterator<Item = &'static str> {
        Self::WORDS.into_iter().filter(move |(group, _)| self.contains(*group)).map(|(_, word)| word)
    }
}

/// Under which heading a command is documented.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// Two-phase writes and what is known of an object.
    Object,
    /// Promises that bytes stay readable.
    Lease,
    /// Bulk sessions.
    Session,
    /// Operating the node, our own.
    Node,
    /// In-band values.
    String,
    /// Keys, whatever they hold.
    Generic,
    /// Commands that run together.
    Transactions,
    /// Messages.
    PubSub,
    /// Clusters.
    Cluster,
    /// The connection.
    Connection,
    /// The server, as Redis has it.
    Server,
    /// Functions: none here.
    Scripting,
}

impl Group {
    /// The word in `COMMAND DOCS`. Redis's own words where it has one, so that tools file the command well.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Lease => "lease",
            Self::Session => "session",
            Self::Node => "node",
            Self::String => "string",
            Self::Generic => "generic",
            Self::Transactions => "transactions",
            Self::PubSub => "pubsub",
            Self::Cluster => "cluster",
            Self::Connection => "connection",
            Self::Server => "server",
            Self::Scripting => "scripting",
        }
    }
}

/// Which arguments are keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// None.
    None,
    /// From `first` to `last`, every `step`th. A negative `last` counts from the end, -1 being the last argument.
    Range {
        /// Position of the first key.
        first: usize,
        /// Position of the last key.
        last: isize,
        /// From one key to the next.
        step: usize,
    },
    /// Argument 1 says how many there are; they stand at 2, 4, 6 …, each before its length.
    CountedPairs,
    /// All from `first` on, except that `word` in the second-last place begins a trailing option.
    UntilOption {
        /// Position of the first key.
        first: usize,
        /// The option's word.
        word: &'static str,
    },
}

impl Keys {
    /// One key, at `position`.
    pub const fn one(position: usize) -> Self {
        Self::Range { first: position, last: position.cast_signed(), step: 1 }
    }

    /// First, last and step as `COMMAND INFO` gives them; zeros where the positions depend on the arguments.
    pub const fn triple(self) -> (i64, i64, i64) {
        match self {
            Self::Range { first, last, step } => (first as i64, last as i64, step as i64),
            Self::None | Self::CountedPairs | Self::UntilOption { .. } => (0, 0, 0),
        }
    }

    /// Positions of the keys in `args`, the name being 0. Positions beyond the arguments are left out.
    pub fn positions(self, args: &Args<'_>) -> std::iter::StepBy<std::ops::Range<usize>> {
        let count = args.len();
        let (range, step) = match self {
            Self::None => (0..0, 1),
            Self::Range { first, last, step } => {
                let end =
                    if last < 0 { count.saturating_sub(last.unsigned_abs() - 1) } else { last.unsigned_abs() + 1 };
                (first..end.min(count), step)
            }
            Self::CountedPairs => {
                let pairs = args.bytes(1).and_then(super::words::parse_u64).and_then(|n| usize::try_from(n).ok());
                let end = pairs.and_then(|pairs| pairs.checked_mul(2)).map_or(0, |words| words.saturating_add(2));
                (2..end.min(count), 2)
            }
            Self::UntilOption { first, word } => {
                let option = count > first + 2
                    && args.bytes(count - 2).is_some_and(|last| last.eq_ignore_ascii_case(word.as_bytes()));
                (first..if option { count - 2 } else { count }, 1)
            }
        };
        (range.start.min(range.end)..range.end).step_by(step)
    }
}

/// Which arguments are channels of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channels {
    /// None.
    None,
    /// The first one.
    First,
    /// All of them.
    All,
    /// All of them, and they are patterns.
    Patterns,
}

/// Which arguments are values: they may be large, and may be received straight into their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// None.
    None,
    /// The one at this position.
    At(usize),
    /// Those at 2, 4, 6 …
    Even,
}

impl Values {
    /// Whether the argument at `position` is a value.
    pub const fn contains(self, position: usize) -> bool {
        match self {
            Self::None => false,
            Self::At(at) => position == at,
            Self::Even => position >= 2 && position.is_multiple_of(2),
        }
    }
}

/// One command or subcommand.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// Which one.
    pub id: CommandId,
    /// In lower case; a subcommand's own word only.
    pub name: &'static str,
    /// The full name in lower case: `client|id` for a subcommand.
    pub full_name: &'static str,
    /// Words it takes, name included (a container's too); negative: at least so many.
    pub arity: i32,
    /// How it behaves.
    pub flags: Flags,
    /// Groups of access-control rules.
    pub acl: Acl,
    /// Which arguments are keys.
    pub keys: Keys,
    /// What it does to them.
    pub access: Access,
    /// What it does to the last of them, where that is something else.
    pub access_last: Option<Access>,
    /// What it does to objects whose keys it is not told: `FLUSHALL`.
    pub access_all: Option<Access>,
    /// Which arguments are channels.
    pub channels: Channels,
    /// Which arguments are values.
    pub values: Values,
    /// Heading of its documentation.
    pub group: Group,
    /// Version that has had it: Redis's for its commands, ours for ours.
    pub since: &'static str,
    /// One sentence.
    pub summary: &'static str,
    /// Cost in the sizes involved.
    pub complexity: &'static str,
    /// Arguments after the name.
    pub syntax: &'static [Syntax],
    /// What is answered when all goes well.
    pub reply: &'static str,
    /// Error words it can answer with, beside `ERR`, `NOAUTH`, `NOPERM` and `LOADING`, which any can.
    pub errors: &'static [ErrorWord],
    /// Its subcommands, if it is a container.
    pub subcommands: &'static [Spec],
}

impl Spec {
    /// A command called `full_name` that takes `arity` words.
    pub(super) const fn new(id: CommandId, full_name: &'static str, arity: i32, group: Group) -> Self {
        Self {
            id,
            name: after_bar(full_name),
            full_name,
            arity,
            flags: Flags::empty(),
            acl: Acl::SLOW,
            keys: Keys::None,
            access: Access::empty(),
            access_last: None,
            access_all: None,
            channels: Channels::None,
            values: Values::None,
            group,
            since: "1.0.0",
            summary: "",
            complexity: "O(1)",
            syntax: &[],
            reply: "",
            errors: &[],
            subcommands: &[],
        }
    }

    /// Reads objects at `keys`.
    #[must_use]
    pub(super) const fn reads(mut self, keys: Keys) -> Self {
        self.access = Access::READ;
        self.looks(keys)
    }

    /// Learns whether there are objects at `keys`, and nothing of what they hold.
    #[must_use]
    pub(super) const fn looks(mut self, keys: Keys) -> Self {
        self.flags = self.flags.union(Flags::READONLY);
        self.acl = self.acl.union(Acl::READ);
        self.with_keys(keys)
    }

    /// Writes objects at `keys`.
    #[must_use]
    pub(super) const fn writes(mut self, keys: Keys) -> Self {
        self.flags = self.flags.union(Flags::WRITE);
        self.acl = self.acl.union(Acl::WRITE);
        self.access = Access::WRITE;
        self.with_keys(keys)
    }

    /// Writes objects at `keys` and tells what was there.
    #[must_use]
    pub(super) const fn exchanges(mut self, keys: Keys) -> Self {
        self = self.writes(keys);
        self.access = Access::all();
        self
    }

    /// Reads the first of `keys` and writes the last.
    #[must_use]
    pub(super) const fn copies(mut self, keys: Keys) -> Self {
        self = self.writes(keys).last_key(Access::WRITE);
        self.access = Access::READ;
        self
    }

    /// Does something else to the last key than to the others.
    #[must_use]
    pub(super) const fn last_key(mut self, access: Access) -> Self {
        self.access_last = Some(access);
        self
    }

    /// Does something to objects whose keys it is not told.
    #[must_use]
    pub(super) const fn all_keys(mut self, access: Access) -> Self {
        self.access_all = Some(access);
        self
    }

    /// In these groups of access rules too.
    #[must_use]
    pub(super) const fn groups(mut self, groups: Acl) -> Self {
        self.acl = self.acl.union(groups);
        self
    }

    /// In none of these groups, which others of its kind are in.
    #[must_use]
    pub(super) const fn outside_groups(mut self, groups: Acl) -> Self {
        self.acl = self.acl.difference(groups);
        self
    }

    /// Which arguments are channels.
    #[must_use]
    pub(super) const fn channels(mut self, channels: Channels) -> Self {
        self.channels = channels;
        self
    }

    /// About messages.
    #[must_use]
    pub(super) const fn pubsub(mut self) -> Self {
        self.flags = self.flags.union(Flags::PUBSUB);
        self.acl = self.acl.union(Acl::PUBSUB);
        self
    }

    /// About transactions.
    #[must_use]
    pub(super) const fn transaction(mut self) -> Self {
        self.acl = self.acl.union(Acl::TRANSACTION);
        self
    }

    /// Looks at `keys` without reading what they hold.
    #[must_use]
    pub(super) const fn keys_of_interest(mut self, keys: Keys) -> Self {
        self.keys = keys;
        self
    }

    const fn with_keys(mut self, keys: Keys) -> Self {
        if matches!(keys, Keys::CountedPairs | Keys::UntilOption { .. }) {
            self.flags = self.flags.union(Flags::MOVABLEKEYS);
        }
        self.acl = self.acl.union(match self.group {
            Group::String => Acl::STRING,
            _ => Acl::KEYSPACE,
        });
        self.keys = keys;
        self
    }

    /// Constant or logarithmic time.
    #[must_use]
    pub(super) const fn fast(mut self) -> Self {
        self.flags = self.flags.union(Flags::FAST);
        self.acl = self.acl.difference(Acl::SLOW).union(Acl::FAST);
        self
    }

    /// Needs memory.
    #[must_use]
    pub(super) const fn denies_oom(mut self) -> Self {
        self.flags = self.flags.union(Flags::DENYOOM);
        self
    }

    /// For operators.
    #[must_use]
    pub(super) const fn admin(mut self) -> Self {
        self.flags = self.flags.union(Flags::ADMIN);
        self.acl = self.acl.union(Acl::ADMIN).union(Acl::DANGEROUS);
        self
    }

    /// Harmful when misused.
    #[must_use]
    pub(super) const fn dangerous(mut self) -> Self {
        self.acl = self.acl.union(Acl::DANGEROUS);
        self
    }

    /// About the connection itself.
    #[must_use]
    pub(super) const fn connection(mut self) -> Self {
        self.flags = self.flags.union(Flags::LOADING).union(Flags::STALE);
        self.acl = self.acl.union(Acl::CONNECTION);
        self
    }

    /// Answers while the node is starting.
    #[must_use]
    pub(super) const fn while_loading(mut self) -> Self {
        self.flags = self.flags.union(Flags::LOADING).union(Flags::STALE);
        self
    }

    /// With these flags too.
    #[must_use]
    pub(super) const fn flags(mut self, flags: Flags) -> Self {
        self.flags = self.flags.union(flags);
        self
    }

    /// Which arguments are values.
    #[must_use]
    pub(super) const fn values(mut self, values: Values) -> Self {
        self.values = values;
        self
    }

    /// What people read: since when, at what cost, what for.
    #[must_use]
    pub(super) const fn doc(mut self, since: &'static str, complexity: &'static str, summary: &'static str) -> Self {
        self.since = since;
        self.complexity = complexity;
        self.summary = summary;
        self
    }

    /// Arguments after the name.
    #[must_use]
    pub(super) const fn takes(mut self, syntax: &'static [Syntax]) -> Self {
        self.syntax = syntax;
        self
    }

    /// What is answered, and the error words beside those that any command can answer with.
    #[must_use]
    pub(super) const fn answers(mut self, reply: &'static str, errors: &'static [ErrorWord]) -> Self {
        self.reply = reply;
        self.errors = errors;
        self
    }

    /// Its subcommands.
    #[must_use]
    pub(super) const fn contains(mut self, subcommands: &'static [Spec]) -> Self {
        self.subcommands = subcommands;
        self
    }

    /// The subcommand called `name`, in any case.
    pub fn subcommand(&'static self, name: &[u8]) -> Option<&'static Self> {
        self.subcommands.iter().find(|spec| spec.name.as_bytes().eq_ignore_ascii_case(name))
    }

    /// Whether a request of `count` words, name included, has as many as it must.
    pub const fn takes_count(&self, count: usize) -> bool {
        let arity = self.arity.unsigned_abs() as usize;
        if self.arity < 0 { count >= arity } else { count == arity }
    }

    /// Refuses a request of a wrong number of words, in Redis's words.
    ///
    /// # Errors
    /// `ERR wrong number of arguments …`
    pub fn check_arity(&self, count: usize) -> Result<(), WireError> {
        if self.takes_count(count) { Ok(()) } else { Err(WireError::arity(self.full_name)) }
    }

    /// How the whole command is written: `SET key value [NX | XX] …`.
    pub fn usage(&self) -> String {
        let mut usage = self.full_name.replace('|', " ").to_uppercase();
        for node in self.syntax {
            usage.push(' ');
            usage.push_str(&node.to_string());
        }
        usage
    }
}

const fn after_bar(full_name: &'static str) -> &'static str {
    let bytes = full_name.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        if bytes[i] == b'|' {
            return full_name.split_at(i + 1).1;
        }
        i += 1;
    }
    full_name
}
