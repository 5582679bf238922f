//! Objects, written in two phases: `PUT` reserves and grants, `COMMIT` seals and publishes.

use super::CommandId;
use super::rdma::RemoteMemory;
use super::spec::{Acl, Flags, Group, Keys, Spec};
use super::syntax::{Syntax, block, integer, key, one_of, string, token};
use super::words::{Words, is, once};
use crate::base::{ByteLen, Crc, GrantId, Millis, Via};
use crate::resp::{Args, Encoder, ErrorWord, WireError};
use bytes::BytesMut;

pub(super) const VIA: Syntax =
    one_of("via", &[token("auto", "AUTO"), token("rdma", "RDMA"), token("shm", "SHM"), token("tcp", "TCP")])
        .after("VIA")
        .optional();

const OPTIONS: [Syntax; 9] = [
    VIA,
    integer("milliseconds").after("TTL").optional(),
    key("parent").after("PARENT").optional(),
    integer("milliseconds").after("SOFTPIN").optional(),
    token("pin", "PIN").optional(),
    integer("replicas").after("REPLICAS").optional(),
    string("node").after("PREFER").optional(),
    token("replace", "REPLACE").optional(),
    token("durable", "DURABLE").optional(),
];

const FROM: Syntax = block("source", &[integer("fd"), integer("offset")]).after("FROM");

const PUT_ERRORS: &[ErrorWord] =
    &[ErrorWord::Exists, ErrorWord::Oom, ErrorWord::Quota, ErrorWord::TooBig, ErrorWord::NoTransport];
const COMMIT_ERRORS: &[ErrorWord] = &[
    ErrorWord::NoGrant,
    ErrorWord::Crc,
    ErrorWord::Exists,
    ErrorWord::Denied,
    ErrorWord::Busy,
    ErrorWord::Oom,
    ErrorWord::Stale,
];

/// Entries of this family.
pub(super) const SPECS: &[Spec] = &[
    Spec::new(CommandId::Put, "put", -4, Group::Object)
        .writes(Keys::one(1))
        .denies_oom()
        .fast()
        .flags(Flags::NO_MULTI)
        .groups(Acl::BULK)
        .doc("1.0.0", "O(1)", "Reserves room for an object and grants the right to write it once.")
        .takes(&[
            key("key"),
            integer("bytes").after("LEN"),
            OPTIONS[0],
            OPTIONS[1],
            OPTIONS[2],
            OPTIONS[3],
            OPTIONS[4],
            OPTIONS[5],
            OPTIONS[6],
            OPTIONS[7],
            OPTIONS[8],
            block("write", &[string("hex8").after("CRC"), FROM]).optional(),
        ])
        .answers(
            "map: `grant`, `generation`, `deadline-ms`, `locators`; with `CRC … FROM`, which reserves, copies and \
             seals at once, the map of `COMMIT`",
            &[
                ErrorWord::Exists,
                ErrorWord::Oom,
                ErrorWord::Quota,
                ErrorWord::TooBig,
                ErrorWord::NoTransport,
                ErrorWord::Crc,
                ErrorWord::Denied,
            ],
        ),
    Spec::new(CommandId::Commit, "commit", -4, Group::Object)
        .writes(Keys::None)
        .flags(Flags::NO_MULTI)
        .groups(Acl::BULK)
        .doc("1.0.0", "O(N) in the object's bytes", "Seals a granted slot: revokes, checks the checksum, publishes.")
        .takes(&[
            string("grant"),
            string("hex8").after("CRC"),
            integer("bytes").after("BYTES").optional(),
            one_of("source", &[FROM, block("pull", &[integer("addr").after("PULL"), integer("rkey")])]).optional(),
        ])
        .answers(
            "map: `key`, `generation`, `length`; the same again if repeated within 60 s. Of a `DURABLE` grant when it is \
             synced on flash; if that fails, the object is live all the same, and the error says that it is not durable",
            COMMIT_ERRORS,
        ),
    Spec::new(CommandId::Abort, "abort", 2, Group::Object)
        .writes(Keys::None)
        .fast()
        .flags(Flags::NO_MULTI)
        .groups(Acl::BULK)
        .doc("1.0.0", "O(1)", "Gives a granted slot back.")
        .takes(&[string("grant")])
        .answers("`:1`, or `:0` if there was nothing to give back", &[]),
    Spec::new(CommandId::MPut, "mput", -4, Group::Object)
        .writes(Keys::CountedPairs)
        .denies_oom()
        .flags(Flags::NO_MULTI)
        .groups(Acl::BULK)
        .doc("1.0.0", "O(N) in the number of keys", "Reserves room for several objects.")
        .takes(&[
            integer("count"),
            block("item", &[key("key"), integer("bytes")]).multiple(),
            OPTIONS[0],
            OPTIONS[1],
            OPTIONS[2],
            OPTIONS[3],
            OPTIONS[4],
            OPTIONS[5],
            OPTIONS[6],
            OPTIONS[7],
            OPTIONS[8],
        ])
        .answers("array: for each item, in order, the map of `PUT` or that item's error", PUT_ERRORS),
    Spec::new(CommandId::MCommit, "mcommit", -3, Group::Object)
        .writes(Keys::None)
        .flags(Flags::NO_MULTI)
        .groups(Acl::BULK)
        .doc("1.0.0", "O(N) in the objects' bytes", "Seals several granted slots.")
        .takes(&[block(
            "item",
            &[
                string("grant"),
                string("hex8"),
                block("pull", &[integer("addr").after("PULL"), integer("rkey")]).optional(),
            ],
        )
        .multiple()])
        .answers("array: for each item, in order, the map of `COMMIT` or that item's error", COMMIT_ERRORS),
    Spec::new(CommandId::Stat, "stat", 2, Group::Object)
        .reads(Keys::one(1))
        .fast()
        .doc("1.0.0", "O(1)", "Tells what is known of an object without touching it.")
        .takes(&[key("key")])
        .answers(
            "map: `state`, `generation`, `length`, `crc`, `ttl` (ms, -1 if it lives for ever), `pins`, `soft-pinned`, \
             `leases` (reads in flight too), `hits`, `idle` (ms), `depth` (in its chain), `charge` (bytes its slot \
             takes in DRAM), `replicas` (array of maps: `node`, `tier` (`dram` or `flash`), `where`); or nil",
            &[],
        ),
];

/// How a client wants its bytes to travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ViaChoice {
    /// As the server thinks best for this connection.
    #[default]
    Auto,
    /// This way or not at all.
    Only(Via),
}

impl ViaChoice {
    pub(super) fn parse(words: &mut Words<'_>) -> Result<Self, WireError> {
        let word = words.word()?;
        if is(word, "auto") {
            return Ok(Self::Auto);
        }
        [Via::Shm, Via::Tcp, Via::Rdma]
            .into_iter()
            .find(|via| is(word, via.word()))
            .map(Self::Only)
            .ok_or_else(|| WireError::err("VIA is one of auto, rdma, shm, tcp"))
    }

    pub(super) fn encode(self, out: &mut Encoder<'_>) {
        if let Self::Only(via) = self {
            out.word("VIA").word(via.word());
        }
    }
}

/// What `PUT` and `MPUT` can be asked beside the length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PutOptions<'a> {
    /// How the bytes will travel.
    pub via: ViaChoice,
    /// Ends the object's life so long after it was published.
    pub ttl: Option<Millis>,
    /// The key of the object that this one continues.
    pub parent: Option<&'a [u8]>,
    /// Not evicted for so long, unless memory cannot be had otherwise.
    pub soft_pin: Option<Millis>,
    /// Pinned when published.
    pub pin: bool,
    /// Copies wanted.
    pub replicas: Option<u32>,
    /// The node that should hold the bytes.
    pub prefer: Option<&'a [u8]>,
    /// An existing object of this key is replaced.
    pub replace: bool,
    /// The commit answers when the flash copy is synced.
    pub durable: bool,
}

impl<'a> PutOptions<'a> {
    /// Reads the option that begins with `word`; `false` if it is none of these.
    fn option(&mut self, word: &[u8], words: &mut Words<'a>, via_seen: &mut bool) -> Result<bool, WireError> {
        if is(word, "via") {
            if std::mem::replace(via_seen, true) {
                return Err(WireError::syntax());
            }
            self.via = ViaChoice::parse(words)?;
        } else if is(word, "ttl") {
            once(&mut self.ttl, words.millis()?)?;
        } else if is(word, "parent") {
            once(&mut self.parent, words.key()?)?;
        } else if is(word, "softpin") {
            once(&mut self.soft_pin, words.millis()?)?;
        } else if is(word, "pin") {
            self.pin = true;
        } else if is(word, "replicas") {
            once(&mut self.replicas, words.small()?)?;
        } else if is(word, "prefer") {
            once(&mut self.prefer, words.word()?)?;
        } else if is(word, "replace") {
            self.replace = true;
        } else if is(word, "durable") {
            self.durable = true;
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    fn encode(&self, out: &mut Encoder<'_>) {
        self.via.encode(out);
        if let Some(ttl) = self.ttl {
            out.word("TTL").number(ttl.0);
        }
        if let Some(parent) = self.parent {
            out.word("PARENT").word(parent);
        }
        if let Some(span) = self.soft_pin {
            out.word("SOFTPIN").number(span.0);
        }
        if self.pin {
            out.word("PIN");
        }
        if let Some(replicas) = self.replicas {
            out.word("REPLICAS").number(replicas);
        }
        if let Some(node) = self.prefer {
            out.word("PREFER").word(node);
        }
        if self.replace {
            out.word("REPLACE");
        }
        if self.durable {
            out.word("DURABLE");
        }
    }
}

/// Where in the client's own shared memory an object's bytes lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShmSource {
    /// Which of the memfds that the client attached, from 0.
    pub fd: u32,
    /// Bytes from its start.
    pub offset: u64,
}

impl ShmSource {
    fn parse(words: &mut Words<'_>) -> Result<Self, WireError> {
        Ok(Self { fd: words.small()?, offset: words.unsigned()? })
    }

    fn encode(self, out: &mut Encoder<'_>) {
        out.word("FROM").number(self.fd).number(self.offset);
    }
}

/// `PUT key LEN n [options] [CRC hex8 FROM fd offset]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Put<'a> {
    /// The object's name.
    pub key: &'a [u8],
    /// Bytes to reserve.
    pub len: ByteLen,
    /// Options.
    pub options: PutOptions<'a>,
    /// The bytes are there already: copy, check and publish them in the same exchange.
    pub write: Option<(Crc, ShmSource)>,
}

impl<'a> Put<'a> {
    /// Reads the arguments.
    ///
    /// # Errors
    /// What to answer.
    pub fn parse(args: &Args<'a>) -> Result<Self, WireError> {
        let mut words = Words::new(args, 1);
        let key = words.key()?;
        let mut options = PutOptions::default();
        let (mut len, mut crc, mut from, mut via_seen) = (None, None, None, false);
        while let Some(word) = words.option()? {
            if is(word, "len") {
                once(&mut len, words.byte_len()?)?;
            } else if is(word, "crc") {
                once(&mut crc, words.crc()?)?;
            } else if is(word, "from") {
                once(&mut from, ShmSource::parse(&mut words)?)?;
            } else if !options.option(word, &mut words, &mut via_seen)? {
                return Err(WireError::syntax());
            }
        }
        let write = match (crc, from) {
            (None, None) => None,
            (Some(crc), Some(from)) => Some((crc, from)),
            (Some(_), None) | (None, Some(_)) => return Err(WireError::err("CRC and FROM go together")),
        };
        let len = len.ok_or_else(|| WireError::err("PUT needs LEN and the object's bytes"))?;
        Ok(Self { key, len, options, write })
    }

    /// Writes the request.
    pub fn encode(&self, out: &mut BytesMut) {
        Encoder::encode(out, |out| {
            out.word("PUT").word(self.key).word("LEN").number(self.len.get());
            self.options.encode(out);
            if let Some((crc, from)) = self.write {
                out.word("CRC").display(crc);
                from.encode(out);
            }
        });
    }
}

/// `COMMIT grant CRC hex8 [BYTES n] [FROM fd offset | PULL addr rkey]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// What `PUT` answered.
    pub grant: GrantId,
    /// Of the object's bytes.
    pub crc: Crc,
    /// Bytes written, if fewer than granted.
    pub bytes: Option<ByteLen>,
    /// Where they lie, if the server has to fetch them.
    pub from: Option<ShmSource>,
    /// Where they lie in the client's registered memory, if the server has to read them by RDMA.
    pub pull: Option<RemoteMemory>,
}

impl Commit {
    /// Reads the arguments.
    ///
    /// # Errors
    /// What to answer.
    pub fn parse(args: &Args<'_>) -> Result<Self, WireError> {
        let mut words = Words::new(args, 1);
        let grant = words.grant()?;
        let (mut crc, mut bytes, mut from, mut pull) = (None, None, None, None);
        while let Some(word) = words.option()? {
            if is(word, "crc") {
                once(&mut crc, words.crc()?)?;
            } else if is(word, "pull") {
                once(&mut pull, RemoteMemory::parse(&mut words)?)?;
            } else if is(word, "bytes") {
                once(&mut bytes, words.byte_len()?)?;
            } else if is(word, "from") {
                once(&mut from, ShmSource::parse(&mut words)?)?;
            } else {
                return Err(WireError::syntax());
            }
        }
        let crc = crc.ok_or_else(|| WireError::err("COMMIT needs CRC and the checksum of the bytes"))?;
        if from.is_some() && pull.is_some() {
            return Err(WireError::err("the bytes lie in one place: FROM or PULL"));
        }
        Ok(Self { grant, crc, bytes, from, pull })
    }

    /// Writes the request.
    pub fn encode(&self, out: &mut BytesMut) {
        Encoder::encode(out, |out| {
            out.word("COMMIT").display(self.grant).word("CRC").display(self.crc);
            if let Some(bytes) = self.bytes {
                out.word("BYTES").number(bytes.get());
            }
            if let Some(from) = self.from {
                from.encode(out);
            }
            if let Some(pull) = self.pull {
                out.word("PULL");
                pull.encode(out);
            }
        });
    }
}

/// `ABORT grant`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abort {
    /// What `PUT` answered.
    pub grant: GrantId,
}

impl Abort {
    /// Reads the arguments.
    ///
    /// # Errors
    /// What to answer.
    pub fn parse(args: &Args<'_>) -> Result<Self, WireError> {
        let mut words = Words::new(args, 1);
        let grant = words.grant()?;
        words.end()?;
        Ok(Self { grant })
    }

    /// Writes the request.
    pub fn encode(&self, out: &mut BytesMut) {
        Encoder::encode(out, |out| {
            out.word("ABORT").display(self.grant);
        });
    }
}

/// `MPUT n key len [key len …] [options]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MPut<'a> {
    /// Keys and bytes to reserve for each.
    pub items: Vec<(&'a [u8], ByteLen)>,
    /// Options of all of them.
    pub options: PutOptions<'a>,
}

impl<'a> MPut<'a> {
    /// Reads the arguments.
    ///
    /// # Errors
    /// What to answer.
    pub fn parse(args: &Args<'a>) -> Result<Self, WireError> {
        let mut words = Words::new(args, 1);
        let count = words.unsigned()?;
        if count == 0 || count > words.left() as u64 / 2 {
            return Err(WireError::err("the count of items does not fit the arguments"));
        }
        let items = (0..count).map(|_| Ok((words.key()?, words.byte_len()?))).collect::<Result<_, WireError>>()?;
        let (mut options, mut via_seen) = (PutOptions::default(), false);
        while let Some(word) = words.option()? {
            if !options.option(word, &mut words, &mut via_seen)? {
                return Err(WireError::syntax());
            }
        }
        Ok(Self { items, options })
    }

    /// Writes the request.
    pub fn encode(&self, out: &mut BytesMut) {
        Encoder::encode(out, |out| {
            out.word("MPUT").number(self.items.len());
            for (key, len) in &self.items {
                out.word(key).number(len.get());
            }
            self.options.encode(out);
        });
    }
}

/// One object of an [`MCommit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MCommitItem {
    /// What `MPUT` answered.
    pub grant: GrantId,
    /// Of the object's bytes.
    pub crc: Crc,
    /// Where they lie in the client's registered memory, if the server has to read them by RDMA.
    pub pull: Option<RemoteMemory>,
}

/// `MCOMMIT grant hex8 [PULL addr rkey] [grant hex8 [PULL addr rkey] …]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MCommit {
    /// In the order of the answers.
    pub items: Vec<MCommitItem>,
}

impl MCommit {
    /// Reads the arguments.
    ///
    /// # Errors
    /// What to answer.
    pub fn parse(args: &Args<'_>) -> Result<Self, WireError> {
        let mut words = Words::new(args, 1);
        let mut items = Vec::with_capacity(words.left() / 2);
        while words.left() > 0 {
            let (grant, crc) = (words.grant()?, words.crc()?);
            let pull = words.skip_if("pull").then(|| RemoteMemory::parse(&mut words)).transpose()?;
            items.push(MCommitItem { grant, crc, pull });
        }
        Ok(Self { items })
    }

    /// Writes the request.
    pub fn encode(&self, out: &mut BytesMut) {
        Encoder::encode(out, |out| {
            out.word("MCOMMIT");
            for item in &self.items {
                out.display(item.grant).display(item.crc);
                if let Some(pull) = item.pull {
                    out.word("PULL");
                    pull.encode(out);
                }
            }
        });
    }
}
