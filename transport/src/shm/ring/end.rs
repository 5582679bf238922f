//! One side of a pair of rings: writes the one, reads the other, sleeps and wakes.

use super::super::memfd::Mapping;
use super::RingError;
use super::layout::{self, RingLayout};
use bytes::{BufMut as _, BytesMut};
use protocol::base::StableMemory as _;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// What a side waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Bytes to read.
    Data,
    /// Room to write: at least a quarter of the ring.
    Space,
    /// Whichever comes first.
    Either,
}

impl Need {
    const DATA: u32 = 1;
    const SPACE: u32 = 2;

    fn bits(self) -> u32 {
        match self {
            Self::Data => Self::DATA,
            Self::Space => Self::SPACE,
            Self::Either => Self::DATA | Self::SPACE,
        }
    }
}

/// One direction as one side sees it: where its bytes lie and this side's own count.
#[derive(Debug)]
struct Half {
    /// Field that this side moves.
    own_at: usize,
    /// Field that the peer moves.
    peer_at: usize,
    /// First byte of the ring in the memory.
    start: usize,
    /// Bytes in the ring.
    len: usize,
    /// What this side ever wrote or took; the field is only told.
    own: u64,
    /// The peer's count when last looked at.
    peer: u64,
    /// Whether `own` moved since the peer was last considered for waking.
    moved: bool,
}

/// One side of a pair of rings.
#[derive(Debug)]
pub struct RingEnd {
    mapping: Arc<Mapping>,
    outgoing: Half,
    incoming: Half,
    own_asleep_at: usize,
    peer_asleep_at: usize,
    /// Wakes the peer.
    bell: OwnedFd,
}

impl RingEnd {
    pub(super) fn server(mapping: Arc<Mapping>, layout: RingLayout, bell: OwnedFd) -> Self {
        let outgoing = Half::new(layout::REPLY_TAIL, layout::REPLY_HEAD, layout.reply());
        let incoming = Half::new(layout::REQUEST_HEAD, layout::REQUEST_TAIL, layout.request());
        let (own_asleep_at, peer_asleep_at) = (layout::SERVER_ASLEEP, layout::CLIENT_ASLEEP);
        Self { mapping, outgoing, incoming, own_asleep_at, peer_asleep_at, bell }
    }

    pub(super) fn client(mapping: Arc<Mapping>, layout: RingLayout, bell: OwnedFd) -> Self {
        let outgoing = Half::new(layout::REQUEST_TAIL, layout::REQUEST_HEAD, layout.request());
        let incoming = Half::new(layout::REPLY_HEAD, layout::REPLY_TAIL, layout.reply());
        let (own_asleep_at, peer_asleep_at) = (layout::CLIENT_ASLEEP, layout::SERVER_ASLEEP);
        Self { mapping, outgoing, incoming, own_asleep_at, peer_asleep_at, bell }
    }

    /// Writes as many of `bytes` as there is room for and returns how many. The peer sees them at once if it is awake;
    /// [`notify`](Self::notify) wakes it if it is not.
    ///
    /// # Errors
    /// [`RingError::Corrupt`] if the peer's index cannot be.
    pub fn write(&mut self, bytes: &[u8]) -> Result<usize, RingError> {
        let half = &mut self.outgoing;
        let mut free = half.len - half.known_distance(half.own, half.peer);
        if free < bytes.len() {
            half.look(&self.mapping)?;
            free = half.len - half.known_distance(half.own, half.peer);
        }
        let count = free.min(bytes.len());
        if count == 0 {
            return Ok(0);
        }
        let (at, until_end) = half.position();
        let first = count.min(until_end);
        copy_in(&self.mapping, at, &bytes[..first]);
        copy_in(&self.mapping, half.start, &bytes[first..count]);
        half.advance(&self.mapping, count);
        Ok(count)
    }

    /// Bytes that can be written now.
    ///
    /// # Errors
    /// [`RingError::Corrupt`] if the peer's index cannot be.
    pub fn free(&mut self) -> Result<usize, RingError> {
        let half = &mut self.outgoing;
        half.look(&self.mapping)?;
        Ok(half.len - half.known_distance(half.own, half.peer))
    }

    /// Most bytes that can ever be written and not yet taken.
    pub fn capacity(&self) -> usize {
        self.outgoing.len
    }

    /// Bytes that can be read now.
    ///
    /// # Errors
    /// [`RingError::Corrupt`] if the peer's index cannot be.
    pub fn available(&mut self) -> Result<usize, RingError> {
        let half = &mut self.incoming;
        half.look(&self.mapping)?;
        Ok(half.known_distance(half.peer, half.own))
    }

    /// Reads into `bytes` what is there and returns how many bytes that was; 0 if nothing is there.
    ///
    /// # Errors
    /// [`RingError::Corrupt`] if the peer's index cannot be.
    pub fn read(&mut self, bytes: &mut [u8]) -> Result<usize, RingError> {
        let count = self.readable(bytes.len())?;
        if count > 0 {
            let (at, until_end) = self.incoming.position();
            let first = count.min(until_end);
            copy_out(&self.mapping, at, bytes.as_mut_ptr(), first);
            copy_out(&self.mapping, self.incoming.start, bytes[first..].as_mut_ptr(), count - first);
            self.incoming.advance(&self.mapping, count);
        }
        Ok(count)
    }

    /// Appends at most `count_max` bytes of what is there to `bytes` and returns how many; 0 if nothing is there.
    ///
    /// # Errors
    /// [`RingError::Corrupt`] if the peer's index cannot be.
    pub fn read_into(&mut self, bytes: &mut BytesMut, count_max: usize) -> Result<usize, RingError> {
        let count = self.readable(count_max)?;
        if count > 0 {
            bytes.reserve(count);
            let room = bytes.chunk_mut();
            assert!(room.len() >= count, "reserved {count}, got {}", room.len());
            let (at, until_end) = self.incoming.position();
            let first = count.min(until_end);
            copy_out(&self.mapping, at, room.as_mut_ptr(), first);
            copy_out(&self.mapping, self.incoming.start, room.as_mut_ptr().wrapping_add(first), count - first);
            // SAFETY: the first `count` bytes of the spare room, which has that many, were just written.
            unsafe { bytes.advance_mut(count) };
            self.incoming.advance(&self.mapping, count);
        }
        Ok(count)
    }

    /// Wakes the peer if it sleeps and what was written or read since the last call is what it waits for. To be called
    /// after each run of writes and reads, before waiting.
    ///
    /// # Errors
    /// [`RingError::Os`] if the eventfd cannot be written.
    pub fn notify(&mut self) -> Result<(), RingError> {
        let mut bits = 0;
        if std::mem::take(&mut self.outgoing.moved) {
            bits |= Need::DATA;
        }
        // Space is reported only once it is worth waking for; until then the move stays noted.
        let incoming = &mut self.incoming;
        if incoming.moved && incoming.len - incoming.known_distance(incoming.peer, incoming.own) >= incoming.len / 4 {
            incoming.moved = false;
            bits |= Need::SPACE;
        }
        if bits == 0 {
            return Ok(());
        }
        // Between our store of an index and our load of the peer's flag; pairs with the fence in `prepare_sleep`.
        fence(Ordering::SeqCst);
        let asleep = layout::word_at(&self.mapping, self.peer_asleep_at);
        if asleep.load(Ordering::Relaxed) & bits == 0 {
            return Ok(());
        }
        if asleep.swap(0, Ordering::AcqRel) & bits == 0 {
            return Ok(());
        }
        match rustix::io::write(&self.bell, &1u64.to_le_bytes()) {
            // A full counter is a wake that was not taken yet.
            Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
            Err(errno) => Err(RingError::os("wake the peer")(errno)),
        }
    }

    /// Announces that this side is about to wait for `need`, wakes the peer if that is due, and looks once more. `true`
    /// means: nothing is there, wait for the eventfd, then call [`wake_up`](Self::wake_up). `false` means: do not wait.
    ///
    /// # Errors
    /// [`RingError`] if the peer's index cannot be, or the peer cannot be woken.
    pub fn prepare_sleep(&mut self, need: Need) -> Result<bool, RingError> {
        self.notify()?;
        self.own_asleep().store(need.bits(), Ordering::Relaxed);
        // Between our store of the flag and our load of the peer's indices; pairs with the fence in `notify`.
        fence(Ordering::SeqCst);
        let ready = self.is_ready(need);
        if !matches!(ready, Ok(false)) {
            self.own_asleep().store(0, Ordering::Relaxed);
        }
        ready.map(|ready| !ready)
    }

    /// Announces that this side is awake, so that the peer need not wake it.
    pub fn wake_up(&mut self) {
        self.own_asleep().store(0, Ordering::Relaxed);
    }

    /// Whether what `need` names is there. Costs a load of the peer's index, no more.
    ///
    /// # Errors
    /// [`RingError::Corrupt`] if the peer's index cannot be.
    pub fn is_ready(&mut self, need: Need) -> Result<bool, RingError> {
        let data = need.bits() & Need::DATA != 0 && self.available()? > 0;
        Ok(data || (need.bits() & Need::SPACE != 0 && self.free()? >= self.outgoing.len / 4))
    }

    fn own_asleep(&self) -> &AtomicU32 {
        layout::word_at(&self.mapping, self.own_asleep_at)
    }

    /// How many of at most `wanted` bytes can be read.
    fn readable(&mut self, wanted: usize) -> Result<usize, RingError> {
        let half = &mut self.incoming;
        let known = half.known_distance(half.peer, half.own);
        if known < wanted {
            return Ok(self.available()?.min(wanted));
        }
        Ok(wanted)
    }
}

impl Half {
    fn new(own_at: usize, peer_at: usize, (start, len): (usize, usize)) -> Self {
        Self { own_at, peer_at, start, len, own: 0, peer: 0, moved: false }
    }

    /// Takes over the peer's count if it can be true: bytes taken are at most those written, bytes written and not yet
    /// taken at most the ring, and neither ever falls.
    fn look(&mut self, mapping: &Mapping) -> Result<(), RingError> {
        // Acquire: the bytes up to a tail, or the end of their use up to a head, are seen with it.
        let claimed = u64::from_le(self.peer_field(mapping).load(Ordering::Acquire));
        let grown = claimed.wrapping_sub(self.peer);
        // The peer's count may grow by what is free to it: the rest of the ring if it writes, the bytes there if it reads.
        let ahead = self.peer.wrapping_sub(self.own);
        let room = if self.is_incoming() { self.len as u64 - ahead } else { self.own.wrapping_sub(self.peer) };
        if grown > room {
            return Err(RingError::Corrupt("the peer's index runs past the ring"));
        }
        self.peer = claimed;
        Ok(())
    }

    /// This side reads if it moves a head.
    fn is_incoming(&self) -> bool {
        self.own_at == layout::REQUEST_HEAD || self.own_at == layout::REPLY_HEAD
    }

    /// `ahead - behind`, which the checks of `look` keep within the ring.
    fn known_distance(&self, ahead: u64, behind: u64) -> usize {
        let distance = ahead.wrapping_sub(behind);
        assert!(distance <= self.len as u64, "a ring of {} holds {distance}", self.len);
        usize::try_from(distance).expect("at most the ring's length")
    }

    /// Where this side's next byte lies in the memory, and how many follow before the ring wraps.
    fn position(&self) -> (usize, usize) {
        let mask = self.len as u64 - 1;
        let within = usize::try_from(self.own & mask).expect("less than the ring's length");
        (self.start + within, self.len - within)
    }

    fn advance(&mut self, mapping: &Mapping, count: usize) {
        self.own = self.own.wrapping_add(count as u64);
        self.moved = true;
        // Release: the bytes written before are seen with the tail; the bytes read are done with before the head moves.
        layout::counter_at(mapping, self.own_at).store(self.own.to_le(), Ordering::Release);
    }

    fn peer_field<'a>(&self, mapping: &'a Mapping) -> &'a AtomicU64 {
        layout::counter_at(mapping, self.peer_at)
    }
}

/// Copies `bytes` into the memory at `at`.
fn copy_in(mapping: &Mapping, at: usize, bytes: &[u8]) {
    assert!(at + bytes.len() <= mapping.len(), "{} bytes at {at} run past the memory", bytes.len());
    // SAFETY: source and target are valid for `bytes.len()` (just checked for the target, which is mapped writable), and
    // do not overlap: no `&[u8]` into the mapping exists. The peer may touch the target only against the protocol; then
    // bytes are garbled, which the reader's parser bears.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), mapping.base().wrapping_add(at), bytes.len()) };
}

/// Copies `count` bytes from the memory at `at` to `to`, which must have room for them.
fn copy_out(mapping: &Mapping, at: usize, to: *mut u8, count: usize) {
    assert!(at + count <= mapping.len(), "{count} bytes at {at} run past the memory");
    // SAFETY: the source is mapped (just checked); both callers pass a target with room for `count` bytes of their own,
    // outside the mapping. The peer may garble the source only against the protocol; the copy is checked by a parser.
    unsafe { std::ptr::copy_nonoverlapping(mapping.base().wrapping_add(at), to, count) };
}
