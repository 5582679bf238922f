//! What clients say of their side of an RDMA session: queue pairs, and memory that they registered.

use super::words::{Words, is, once};
use crate::resp::{Args, Encoder, WireError};
use bytes::BytesMut;

/// One end of a queue pair, as the other end must know it: `QPN n PSN n GID hex32 MTU n READS n [LID n]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RdmaEnd {
    /// Its number.
    pub qpn: u32,
    /// Number of the first packet that it sends.
    pub psn: u32,
    /// Its address.
    pub gid: [u8; 16],
    /// Its address on an InfiniBand fabric; 0 elsewhere.
    pub lid: u16,
    /// The longest packet that it takes, as verbs number them: 1 for 256 bytes to 5 for 4,096.
    pub mtu: u8,
    /// Reads that it answers at once.
    pub reads: u8,
}

fn gid(text: &[u8]) -> Option<[u8; 16]> {
    let text = std::str::from_utf8(text).ok().filter(|text| text.len() == 32 && text.is_ascii())?;
    let value = u128::from_str_radix(text, 16).ok().filter(|_| !text.starts_with('+'))?;
    Some(value.to_be_bytes())
}

impl RdmaEnd {
    /// An address from its 32 hex digits.
    pub fn parse_gid(text: &[u8]) -> Option<[u8; 16]> {
        gid(text)
    }

    /// Its address in 32 hex digits.
    pub fn gid_hex(&self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.gid))
    }

    pub(super) fn parse(words: &mut Words<'_>) -> Result<Self, WireError> {
        let (mut qpn, mut psn, mut address, mut mtu, mut reads, mut lid) = (None, None, None, None, None, None);
        while let Some(word) = words.option()? {
            if is(word, "qpn") {
                once(&mut qpn, words.small()?)?;
            } else if is(word, "psn") {
                once(&mut psn, words.small()?)?;
            } else if is(word, "gid") {
                let found = gid(words.word()?).ok_or_else(|| WireError::err("a GID is 32 hex digits"))?;
                once(&mut address, found)?;
            } else if is(word, "mtu") {
                once(&mut mtu, words.small()?)?;
            } else if is(word, "reads") {
                once(&mut reads, words.small()?)?;
            } else if is(word, "lid") {
                once(&mut lid, words.small()?)?;
            } else {
                return Err(WireError::syntax());
            }
        }
        let (Some(qpn), Some(psn), Some(gid), Some(mtu), Some(reads)) = (qpn, psn, address, mtu, reads) else {
            return Err(WireError::err("ATTACH RDMA needs QPN, PSN, GID, MTU and READS of the client's queue pair"));
        };
        let small = |number: u32| u8::try_from(number).map_err(|_| WireError::err("MTU and READS are at most 255"));
        let lid = u16::try_from(lid.unwrap_or(0)).map_err(|_| WireError::err("a LID is at most 65535"))?;
        Ok(Self { qpn, psn, gid, lid, mtu: small(mtu)?, reads: small(reads)? })
    }

    pub(super) fn encode(&self, out: &mut Encoder<'_>) {
        out.word("QPN").number(self.qpn).word("PSN").number(self.psn).word("GID").word(self.gid_hex());
        out.word("MTU").number(self.mtu).word("READS").number(self.reads);
        if self.lid != 0 {
            out.word("LID").number(self.lid);
        }
    }
}

/// Memory that the client registered: its address, and the key to it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RemoteMemory {
    /// Address of the first byte.
    pub addr: u64,
    /// The key.
    pub rkey: u32,
}

impl std::fmt::Debug for RemoteMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RemoteMemory(..)")
    }
}

impl RemoteMemory {
    pub(super) fn parse(words: &mut Words<'_>) -> Result<Self, WireError> {
        Ok(Self { addr: words.unsigned()?, rkey: words.small()? })
    }

    pub(super) fn encode(self, out: &mut Encoder<'_>) {
        out.number(self.addr).number(self.rkey);
    }
}

/// `GET key INTO addr rkey len`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GetInto<'a> {
    /// The object's name.
    pub key: &'a [u8],
    /// Where the object is to be written.
    pub to: RemoteMemory,
    /// Bytes that there is room for.
    pub room: u64,
}

impl<'a> GetInto<'a> {
    /// Reads the arguments.
    ///
    /// # Errors
    /// What to answer.
    pub fn parse(args: &Args<'a>) -> Result<Self, WireError> {
        let mut words = Words::new(args, 1);
        let key = words.key()?;
        if !words.option()?.is_some_and(|word| is(word, "into")) {
            return Err(WireError::syntax());
        }
        let to = RemoteMemory::parse(&mut words)?;
        let room = words.unsigned()?;
        words.end()?;
        Ok(Self { key, to, room })
    }

    /// Writes the request.
    pub fn encode(&self, out: &mut BytesMut) {
        Encoder::encode(out, |out| {
            out.word("GET").word(self.key).word("INTO");
            self.to.encode(out);
            out.number(self.room);
        });
    }
}
