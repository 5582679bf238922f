//! What is known of objects, and commands that this library has no function for.

use crate::call::Repeat;
use crate::inband::request_stat;
use crate::lease::millis;
use crate::link::unexpected;
use crate::scan::{Unexpected, Walk};
use crate::{Client, ClientError, Reply};
use protocol::base::{Crc, Generation, Millis};
use protocol::command::{Pin, Unpin};
use protocol::resp::Encoder;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of requests, and how many of them, before their replies are read: both fit any socket's buffer.
const PIPELINE_LEN_MAX: usize = 32 << 10;
const PIPELINE_REQUESTS_MAX: usize = 512;

/// What `STAT` tells of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// `live`, most likely.
    pub state: String,
    /// Which placement it is.
    pub generation: Generation,
    /// Bytes.
    pub len: u64,
    /// Checksum of the bytes.
    pub crc: Crc,
    /// How long it still lives; `None` for ever.
    pub ttl: Option<Millis>,
    /// Pins on it.
    pub pins: u64,
    /// Leases on it.
    pub leases: u64,
    /// Reads so far.
    pub hits: u64,
}

impl Stat {
    pub(crate) fn read(walk: &mut Walk<'_>) -> Result<Self, Unexpected> {
        let (mut generation, mut len, mut crc) = (None, None, None);
        let (mut state, mut ttl, mut pins, mut leases, mut hits) = (String::new(), None, 0, 0, 0);
        for _ in 0..walk.map()? {
            match walk.bytes()? {
                b"state" => walk.text()?.clone_into(&mut state),
                b"generation" => generation = Some(Generation(walk.unsigned()?)),
                b"length" => len = Some(walk.unsigned()?),
                b"crc" => crc = Crc::parse(walk.bytes()?).ok(),
                b"ttl" if walk.is_null() => walk.skip()?,
                b"ttl" => ttl = u64::try_from(walk.signed()?).ok().map(Millis),
                b"pins" => pins = walk.unsigned()?,
                b"leases" => leases = walk.unsigned()?,
                b"hits" => hits = walk.unsigned()?,
                _ => walk.skip()?,
            }
        }
        let ((generation, len), crc) = generation.zip(len).zip(crc).ok_or(Unexpected("an object's state"))?;
        Ok(Self { state, generation, len, crc, ttl, pins, leases, hits })
    }
}

impl Client {
    /// Tells what is known of an object without touching it; `None` if there is none.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn stat(&mut self, key: &[u8]) -> Result<Option<Stat>, ClientError> {
        self.call(Repeat::Harmless, |session, deadline| {
            request_stat(&mut session.control, key);
            session.flush(deadline)?;
            session.next_or_null(deadline, Stat::read)
        })
    }

    /// Removes objects and returns how many there were.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn del(&mut self, keys: &[&[u8]]) -> Result<u64, ClientError> {
        self.count("DEL", keys, Repeat::Never)
    }

    /// Counts which keys are present, and gives each a grace.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn exists(&mut self, keys: &[&[u8]]) -> Result<u64, ClientError> {
        self.count("EXISTS", keys, Repeat::Harmless)
    }

    fn count(&mut self, command: &str, keys: &[&[u8]], repeat: Repeat) -> Result<u64, ClientError> {
        self.call(repeat, |session, deadline| {
            let encode = |out: &mut bytes::BytesMut| {
                Encoder::encode(out, |out| {
                    out.word(command);
                    for key in keys {
                        out.word(key);
                    }
                });
            };
            session.exchange(encode, deadline, |walk| walk.unsigned())
        })
    }

    /// Keeps an object from being evicted, for `ttl` or until it is unpinned. Returns the pins it has then; 0 if there is
    /// no such object.
    ///
    /// # Errors
    /// [`ClientError`]; `QUOTA` if too much is pinned.
    pub fn pin(&mut self, key: &[u8], ttl: Option<Duration>) -> Result<u64, ClientError> {
        let request = Pin { key, ttl: ttl.map(millis) };
        self.call(Repeat::Never, |session, deadline| {
            session.exchange(|out| request.encode(out), deadline, |walk| walk.unsigned())
        })
    }

    /// Takes one pin back and returns how many are left.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn unpin(&mut self, key: &[u8]) -> Result<u64, ClientError> {
        let request = Unpin { key };
        self.call(Repeat::Never, |session, deadline| {
            session.exchange(|out| request.encode(out), deadline, |walk| walk.unsigned())
        })
    }

    /// Runs any command. An error reply is a [`Reply::Error`].
    ///
    /// # Errors
    /// As the connection fails.
    pub fn command(&mut self, words: &[&[u8]]) -> Result<Reply, ClientError> {
        self.pipeline(&[words]).map(|mut replies| replies.remove(0))
    }

    /// Runs several commands without waiting for one before sending the next. Replies are in the order of the commands;
    /// an error reply is a [`Reply::Error`].
    ///
    /// # Errors
    /// As the connection fails; then any of the commands may or may not have run.
    ///
    /// # Panics
    /// If a command has no words.
    pub fn pipeline(&mut self, commands: &[&[&[u8]]]) -> Result<Vec<Reply>, ClientError> {
        assert!(commands.iter().all(|words| !words.is_empty()), "a command has a name");
        let resp3 = self.options.resp3;
        self.call(Repeat::Never, |session, deadline| {
            let link = session.in_band();
            let address = Arc::clone(link.address());
            let mut replies = Vec::with_capacity(commands.len());
            let mut asked = 0;
            while asked < commands.len() {
                let first = asked;
                while asked < commands.len()
                    && asked - first < PIPELINE_REQUESTS_MAX
                    && link.out_len() < PIPELINE_LEN_MAX
                {
                    link.request(|out| {
                        Encoder::encode(out, |out| {
                            for word in commands[asked] {
                                out.word(word);
                            }
                        })
                    });
                    asked += 1;
                }
                link.flush(deadline)?;
                for _ in first..asked {
                    let (_, bytes) = link.next_bytes(deadline)?;
                    let reply = Reply::decode(bytes, resp3);
                    replies.push(reply.ok_or_else(|| unexpected(&address, Unexpected("a reply")))?);
                }
            }
            Ok(replies)
        })
    }
}
