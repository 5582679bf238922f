//! The frame of a bulk TCP connection, byte by byte.
//!
//! A client sends requests, each a 64-byte header and, for a write, its payload. The server answers each in the order
//! of the requests, with a 64-byte header and, for a read, its payload. The first request is `Hello`.
//!
//! Request header. Little-endian. Version 1.
//!
//! | offset | size | field     | meaning                                                                           |
//! |-------:|-----:|-----------|-----------------------------------------------------------------------------------|
//! |      0 |    4 | `magic`   | `MCBQ`                                                                            |
//! |      4 |    1 | `version` | 1                                                                                 |
//! |      5 |    1 | `op`      | 1 hello, 2 write, 3 read, 4 ping                                                  |
//! |      6 |    2 | `flags`   | bit 0, writes only: `crc` is that of the payload; the other bits are zero         |
//! |      8 |    8 | `tag`     | any number; the answer repeats it                                                 |
//! |     16 |    8 | `id`      | write: grant; read: lease; hello: bytes 0..8 of the token; ping: zero             |
//! |     24 |    8 | `offset`  | write, read: bytes from the payload's start; hello: bytes 8..16 of the token; ping: zero |
//! |     32 |    8 | `length`  | write: bytes that follow this header; read: bytes wanted; at most 64 MiB; else zero |
//! |     40 |    4 | `crc`     | with flag bit 0: CRC-32 of the bytes that follow; else zero                       |
//! |     44 |   20 | reserved  | zero; anything else is refused                                                    |
//!
//! Response header. Little-endian. Version 1.
//!
//! | offset | size | field        | meaning                                                                        |
//! |-------:|-----:|--------------|--------------------------------------------------------------------------------|
//! |      0 |    4 | `magic`      | `MCBR`                                                                         |
//! |      4 |    1 | `version`    | 1                                                                              |
//! |      5 |    1 | `op`         | that of the request                                                            |
//! |      6 |    2 | `status`     | 0 done, else why not: see [`Status`]                                           |
//! |      8 |    8 | `tag`        | that of the request                                                            |
//! |     16 |    8 | `generation` | reads and writes done: of the object or the reserved slot; else zero           |
//! |     24 |    8 | `length`     | bytes that follow this header: those asked for if a read is done, else zero    |
//! |     32 |    4 | `crc`        | reads done: CRC-32 of the whole object as it was sealed, not of these bytes; else zero |
//! |     36 |   28 | reserved     | zero; anything else is refused                                                 |
//!
//! Invariants:
//! - Decoding refuses every header that encoding cannot make, so both sides agree on what each bit is for.
//! - A refused write's payload is still read and thrown away, so the connection stays in step. A header that does not
//!   decode ends the connection: nothing says where the next one would begin.

use protocol::base::{Crc, Generation, GrantId, LeaseId};
use rand::TryRngCore as _;
use rand::rngs::OsRng;

/// Bytes of either header.
pub const HEADER_LEN: usize = 64;

/// Most payload bytes of one frame. A longer transfer is several.
pub const PIECE_LEN_MAX: u64 = 64 << 20;

const REQUEST_MAGIC: [u8; 4] = *b"MCBQ";
const RESPONSE_MAGIC: [u8; 4] = *b"MCBR";
const VERSION: u8 = 1;
const FLAG_CRC: u16 = 1;

/// The secret by which a bulk connection proves which session it belongs to. Never shown.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(pub [u8; 16]);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Token {
    /// A new secret from the operating system's generator.
    ///
    /// # Panics
    /// If the operating system has none.
    pub fn random() -> Self {
        let mut token = [0; 16];
        OsRng.try_fill_bytes(&mut token).expect("the operating system gives random bytes");
        Self(token)
    }

    /// Reads the 32 hex digits that [`to_hex`](Self::to_hex) writes; `None` for anything else.
    pub fn parse_hex(text: &[u8]) -> Option<Self> {
        let mut token = [0; 16];
        if text.len() != 32 {
            return None;
        }
        for (byte, pair) in token.iter_mut().zip(text.chunks_exact(2)) {
            let digit = |at: usize| (pair[at] as char).to_digit(16).and_then(|d| u8::try_from(d).ok());
            *byte = digit(0)? << 4 | digit(1)?;
        }
        Some(Self(token))
    }

    /// 32 hex digits, for the answer to `ATTACH TCP` and nothing else.
    pub fn to_hex(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// What a client asks on a bulk connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// First on every connection: which session this is.
    Hello {
        /// From the answer to `ATTACH TCP`.
        token: Token,
    },
    /// `length` bytes follow; put them at `offset` of the granted payload.
    Write {
        /// The right to write.
        grant: GrantId,
        /// Bytes from the payload's start.
        offset: u64,
        /// Bytes that follow.
        length: u64,
        /// Of those bytes, if the sender wants them checked on arrival.
        crc: Option<Crc>,
    },
    /// Answer `length` bytes from `offset` of the leased object.
    Read {
        /// The right to read.
        lease: LeaseId,
        /// Bytes from the payload's start.
        offset: u64,
        /// Bytes wanted.
        length: u64,
    },
    /// Answer at once.
    Ping,
}

/// The kind of a [`Request`], as the answer repeats it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Op {
    /// See [`Request::Hello`].
    Hello = 1,
    /// See [`Request::Write`].
    Write = 2,
    /// See [`Request::Read`].
    Read = 3,
    /// See [`Request::Ping`].
    Ping = 4,
}

/// How a request ended. Numbers are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Status {
    /// Done.
    Done = 0,
    /// Something in the server failed; the connection lives on.
    Err = 1,
    /// No grant of this session has that number, or it has ended.
    NoGrant = 2,
    /// No lease of this session has that number, or it has ended.
    NoLease = 3,
    /// The object's bytes are not what they were sealed as.
    Stale = 4,
    /// The payload is not what its checksum says. The bytes may lie in the slot; the grant stays.
    Crc = 5,
    /// A limit on bytes or requests in flight is reached.
    Quota = 6,
    /// Offset and length run past the payload, or the length is more than one frame may have.
    TooBig = 7,
    /// Try again shortly.
    Busy = 8,
    /// The token opens no session, or hello was not said first.
    Denied = 9,
}

impl Status {
    const ALL: [Self; 10] = [
        Self::Done,
        Self::Err,
        Self::NoGrant,
        Self::NoLease,
        Self::Stale,
        Self::Crc,
        Self::Quota,
        Self::TooBig,
        Self::Busy,
        Self::Denied,
    ];

    /// The error word that a RESP command ending the same way would answer.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Done => "OK",
            Self::Err => "ERR",
            Self::NoGrant => "NOGRANT",
            Self::NoLease => "NOLEASE",
            Self::Stale => "STALE",
            Self::Crc => "CRC",
            Self::Quota => "QUOTA",
            Self::TooBig => "TOOBIG",
            Self::Busy => "BUSY",
            Self::Denied => "DENIED",
        }
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}

/// Why 64 bytes are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Something else is talking.
    #[error("not a bulk frame")]
    Magic,
    /// A version that this side does not speak.
    #[error("bulk frame of version {0}")]
    Version(u8),
    /// No such request.
    #[error("no bulk request has number {0}")]
    Op(u8),
    /// No such status.
    #[error("no bulk status has number {0}")]
    Status(u16),
    /// A field that means nothing here is not zero.
    #[error("a reserved field is not zero")]
    Reserved,
    /// More payload than one frame may have.
    #[error("a piece of {0} bytes is longer than {PIECE_LEN_MAX}")]
    TooLong(u64),
}

/// A request and the tag by which its answer is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestHeader {
    /// Repeated in the answer.
    pub tag: u64,
    /// What is asked.
    pub request: Request,
}

/// The answer to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseHeader {
    /// That of the request.
    pub tag: u64,
    /// That of the request.
    pub op: Op,
    /// How it ended.
    pub status: Status,
    /// Of the object or the reserved slot.
    pub generation: Generation,
    /// Bytes that follow.
    pub length: u64,
    /// Of the whole object, as sealed.
    pub crc: Crc,
}

impl Request {
    /// Its kind.
    pub fn op(&self) -> Op {
        match self {
            Self::Hello { .. } => Op::Hello,
            Self::Write { .. } => Op::Write,
            Self::Read { .. } => Op::Read,
            Self::Ping => Op::Ping,
        }
    }

    /// Bytes that follow the header.
    pub fn payload_len(&self) -> u64 {
        match *self {
            Self::Write { length, .. } => length,
            Self::Hello { .. } | Self::Read { .. } | Self::Ping => 0,
        }
    }
}

impl RequestHeader {
    /// The 64 bytes of the table above.
    ///
    /// # Panics
    /// If a length is more than [`PIECE_LEN_MAX`].
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[0..4].copy_from_slice(&REQUEST_MAGIC);
        out[4] = VERSION;
        out[5] = self.request.op() as u8;
        put_u64(&mut out, 8, self.tag);
        match self.request {
            Request::Hello { token } => out[16..32].copy_from_slice(&token.0),
            Request::Write { grant, offset, length, crc } => {
                assert!(length <= PIECE_LEN_MAX, "a piece of {length} bytes");
                put_u64(&mut out, 16, grant.0);
                put_u64(&mut out, 24, offset);
                put_u64(&mut out, 32, length);
                if let Some(crc) = crc {
                    out[6..8].copy_from_slice(&FLAG_CRC.to_le_bytes());
                    out[40..44].copy_from_slice(&crc.0.to_le_bytes());
                }
            }
            Request::Read { lease, offset, length } => {
                assert!(length <= PIECE_LEN_MAX, "a piece of {length} bytes");
                put_u64(&mut out, 16, lease.0);
                put_u64(&mut out, 24, offset);
                put_u64(&mut out, 32, length);
            }
            Request::Ping => {}
        }
        out
    }

    /// Reads the 64 bytes of the table above.
    ///
    /// # Errors
    /// [`FrameError`] for bytes that [`encode`](Self::encode) does not make.
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self, FrameError> {
        let op = op_of(bytes, REQUEST_MAGIC)?;
        let flags = u16::from_le_bytes([bytes[6], bytes[7]]);
        let (id, offset, length) = (get_u64(bytes, 16), get_u64(bytes, 24), get_u64(bytes, 32));
        let crc = get_u32(bytes, 40);
        let has_crc = flags == FLAG_CRC && op == Op::Write;
        let crc_unused = !has_crc && (flags != 0 || crc != 0);
        if crc_unused || bytes[44..].iter().any(|&b| b != 0) {
            return Err(FrameError::Reserved);
        }
        if length > PIECE_LEN_MAX {
            return Err(FrameError::TooLong(length));
        }
        let request = match op {
            Op::Hello => {
                let mut token = [0; 16];
                token.copy_from_slice(&bytes[16..32]);
                Request::Hello { token: Token(token) }
            }
            Op::Write => Request::Write { grant: GrantId(id), offset, length, crc: has_crc.then_some(Crc(crc)) },
            Op::Read => Request::Read { lease: LeaseId(id), offset, length },
            Op::Ping => Request::Ping,
        };
        let unused = match op {
            Op::Hello => length,
            Op::Ping => id | offset | length,
            Op::Write | Op::Read => 0,
        };
        if unused != 0 {
            return Err(FrameError::Reserved);
        }
        Ok(Self { tag: get_u64(bytes, 8), request })
    }

    /// The answer that nothing was done, for the reason `status` gives.
    pub fn refused(&self, status: Status) -> ResponseHeader {
        self.answer(status, Generation(0), 0, Crc(0))
    }

    /// The answer that a hello or ping was heard.
    pub fn done(&self) -> ResponseHeader {
        self.answer(Status::Done, Generation(0), 0, Crc(0))
    }

    /// The answer that a write's bytes lie in the slot of `generation`.
    pub fn written(&self, generation: Generation) -> ResponseHeader {
        self.answer(Status::Done, generation, 0, Crc(0))
    }

    /// The answer that is followed by `length` bytes of an object sealed as `generation` with `crc`.
    pub fn reading(&self, generation: Generation, length: u64, crc: Crc) -> ResponseHeader {
        self.answer(Status::Done, generation, length, crc)
    }

    fn answer(&self, status: Status, generation: Generation, length: u64, crc: Crc) -> ResponseHeader {
        ResponseHeader { tag: self.tag, op: self.request.op(), status, generation, length, crc }
    }
}

impl ResponseHeader {
    /// The 64 bytes of the table above.
    ///
    /// # Panics
    /// If the length is more than [`PIECE_LEN_MAX`].
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        assert!(self.length <= PIECE_LEN_MAX, "a piece of {} bytes", self.length);
        let mut out = [0; HEADER_LEN];
        out[0..4].copy_from_slice(&RESPONSE_MAGIC);
        out[4] = VERSION;
        out[5] = self.op as u8;
        out[6..8].copy_from_slice(&(self.status as u16).to_le_bytes());
        put_u64(&mut out, 8, self.tag);
        put_u64(&mut out, 16, self.generation.0);
        put_u64(&mut out, 24, self.length);
        out[32..36].copy_from_slice(&self.crc.0.to_le_bytes());
        out
    }

    /// Reads the 64 bytes of the table above.
    ///
    /// # Errors
    /// [`FrameError`] for bytes that no server sends.
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self, FrameError> {
        let op = op_of(bytes, RESPONSE_MAGIC)?;
        let number = u16::from_le_bytes([bytes[6], bytes[7]]);
        let status = Status::ALL.into_iter().find(|&s| s as u16 == number).ok_or(FrameError::Status(number))?;
        let header = Self {
            tag: get_u64(bytes, 8),
            op,
            status,
            generation: Generation(get_u64(bytes, 16)),
            length: get_u64(bytes, 24),
            crc: Crc(get_u32(bytes, 32)),
        };
        if header.length > PIECE_LEN_MAX {
            return Err(FrameError::TooLong(header.length));
        }
        let read_done = op == Op::Read && status == Status::Done;
        let done = read_done || (op == Op::Write && status == Status::Done);
        let unused = (!read_done && (header.length != 0 || header.crc.0 != 0)) || (!done && header.generation.0 != 0);
        if unused || bytes[36..].iter().any(|&b| b != 0) {
            return Err(FrameError::Reserved);
        }
        Ok(header)
    }
}

fn op_of(bytes: &[u8; HEADER_LEN], magic: [u8; 4]) -> Result<Op, FrameError> {
    if bytes[0..4] != magic {
        return Err(FrameError::Magic);
    }
    if bytes[4] != VERSION {
        return Err(FrameError::Version(bytes[4]));
    }
    match bytes[5] {
        1 => Ok(Op::Hello),
        2 => Ok(Op::Write),
        3 => Ok(Op::Read),
        4 => Ok(Op::Ping),
        other => Err(FrameError::Op(other)),
    }
}

fn put_u64(out: &mut [u8; HEADER_LEN], at: usize, value: u64) {
    out[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

fn get_u64(bytes: &[u8; HEADER_LEN], at: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(field)
}

fn get_u32(bytes: &[u8; HEADER_LEN], at: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(field)
}

#[cfg(test)]
mod tests;
