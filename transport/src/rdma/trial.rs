//! Tries on a device what its windows are relied on for, before anybody is lent one.
//!
//! Role: connects queue pairs of one device with each other and does what a hostile peer would. Soft-RoCE says that it has
//! windows of type 2B, and checks an access against the whole memory region behind the window: a device is believed after
//! it was tried.
//!
//! Invariants:
//! - What is tried concerns nobody: memory, queue pairs and windows are made for it and gone with it.

use super::device::Device;
use super::link::{Direction, Link, LinkError, Transfer};
use super::peer::Done;
use super::transport::{RdmaTerms, RdmaTransport};
use super::verbs::{Pages, Region, Remote, RemoteAccess};
use crate::contract::{Access, Fence, Span, Transport as _, Window};
use protocol::base::{RawSpan, SegmentId, SessionId, StableMemory, copy_from, copy_into};
use std::io;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// What a window does not keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Defect {
    /// Nothing gets through a window.
    Unusable,
    /// It lets in accesses beyond its ends.
    Bounds,
    /// It lets in reads where it was bound for writes.
    Right,
    /// It lets in what comes after it was invalidated.
    Revoked,
    /// It lets in other queue pairs than its own.
    Owner,
}

impl std::fmt::Display for Defect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unusable => "nothing gets through a window",
            Self::Bounds => "accesses beyond the ends of a window are let in",
            Self::Right => "reads are let in where writes were granted",
            Self::Revoked => "writes are let in after the window was invalidated",
            Self::Owner => "other queue pairs than the window's own are let in",
        })
    }
}

/// Where the window lies in the segment, and how long it is.
const WINDOW: (u64, u64) = (4096, 4096);
const SEGMENT: SegmentId = SegmentId(0);
const PATIENCE: Duration = Duration::from_secs(10);
/// What the segment is filled with, and what is written.
const BEFORE: u8 = 0x55;
const WRITTEN: u8 = 0xaa;

struct Trial {
    transport: RdmaTransport,
    segment: RawSpan,
    /// The hostile peer's memory.
    region: Arc<Region>,
    sessions: u64,
}

/// Tries a device's windows, and says what they do not keep. It takes some milliseconds.
///
/// # Errors
/// If the device cannot be used at all.
pub fn try_windows(device: &Arc<Device>) -> io::Result<Vec<Defect>> {
    let memory: Arc<dyn StableMemory> = Pages::new(3 * 4096)?;
    let own: Arc<dyn StableMemory> = Pages::new(3 * 4096)?;
    let segment = RawSpan::new(Arc::clone(&memory), 0, memory.len()).expect("all of it");
    copy_into(&[WRITTEN; 3 * 4096], &RawSpan::new(Arc::clone(&own), 0, own.len()).expect("all of it"));
    let transport = RdmaTransport::new(Arc::clone(device), RdmaTerms { windows_max: 16, ..RdmaTerms::default() })?;
    transport.register(SEGMENT, memory).map_err(io::Error::other)?;
    let region = Region::register(&device.domain, own, RemoteAccess::default())?;
    let mut trial = Trial { transport, segment, region, sessions: 0 };
    if !trial.lets_in()? {
        return Ok(vec![Defect::Unusable]);
    }
    let (start, end) = (WINDOW.0, WINDOW.0 + WINDOW.1);
    let tried = [
        (Defect::Bounds, trial.refuses(Attack::Write { at: start - 1, length: 1 })?),
        (Defect::Bounds, trial.refuses(Attack::Write { at: end, length: 1 })?),
        (Defect::Bounds, trial.refuses(Attack::Write { at: end - 4, length: 8 })?),
        (Defect::Right, trial.refuses(Attack::Read)?),
        (Defect::Revoked, trial.refuses(Attack::AfterFence)?),
        (Defect::Owner, trial.refuses(Attack::ByAnother)?),
    ];
    let mut defects: Vec<Defect> =
        tried.into_iter().filter(|(_, refused)| !refused).map(|(defect, _)| defect).collect();
    defects.dedup();
    Ok(defects)
}

enum Attack {
    Write { at: u64, length: usize },
    Read,
    AfterFence,
    ByAnother,
}

impl Trial {
    fn peer(&mut self) -> io::Result<(SessionId, Link)> {
        self.sessions += 1;
        let session = SessionId(self.sessions);
        let mut link = Link::new(self.transport.device(), 0)?;
        let endpoint = link.endpoint().map_err(io::Error::other)?;
        let ours = self.transport.attach(session, &endpoint).map_err(io::Error::other)?;
        link.connect(&ours).map_err(io::Error::other)?;
        Ok((session, link))
    }

    fn lend(&self, session: SessionId) -> io::Result<Option<(Window, Remote)>> {
        copy_into(&[BEFORE; 3 * 4096], &self.segment);
        let span = Span { segment: SEGMENT, offset: WINDOW.0, length: WINDOW.1 };
        let window = self.transport.open(session, Access::Write, span).map_err(io::Error::other)?;
        let (bound, is_bound) = mpsc::channel();
        let done: Done = Box::new(move |result| bound.send(result.is_ok()).unwrap_or_default());
        self.transport.when_bound(window.id, done);
        let is_bound = is_bound.recv_timeout(PATIENCE).unwrap_or(false);
        let (addr, rkey) = window.remote.expect("a window of RDMA has a key");
        Ok(is_bound.then_some((window, Remote { addr, rkey })))
    }

    fn ask(&self, link: &mut Link, direction: Direction, remote: Remote, length: usize) -> Result<(), LinkError> {
        let item = Transfer { region: Arc::clone(&self.region), offset: 0, length, remote };
        link.transfer(direction, &[item], Instant::now() + PATIENCE)
    }

    fn fence(&self, window: &Window) -> bool {
        let (fenced, is_fenced) = mpsc::channel();
        self.transport.when_fenced(window.id, Box::new(move || fenced.send(()).unwrap_or_default()));
        is_fenced.recv_timeout(PATIENCE).is_ok() && self.transport.fence(window.id) == Fence::Done
    }

    /// Whether what is granted gets through, and is over after it was taken back.
    fn lets_in(&mut self) -> io::Result<bool> {
        let (session, mut link) = self.peer()?;
        let Some((window, remote)) = self.lend(session)? else { return Ok(false) };
        let length = usize::try_from(WINDOW.1).expect("a page");
        let moved = self.ask(&mut link, Direction::Write, remote, length).is_ok();
        let mut found = vec![0; length];
        copy_from(&self.segment.part(length, length).expect("the middle page"), &mut found);
        Ok(moved && found == [WRITTEN; 4096] && self.fence(&window))
    }

    /// Whether an attack is refused and changes nothing.
    fn refuses(&mut self, attack: Attack) -> io::Result<bool> {
        let (session, mut link) = self.peer()?;
        let Some((window, remote)) = self.lend(session)? else { return Ok(false) };
        let refused = match attack {
            Attack::Write { at, length } => {
                let addr = remote.addr - WINDOW.0 + at;
                self.ask(&mut link, Direction::Write, Remote { addr, ..remote }, length).is_err()
            }
            Attack::Read => self.ask(&mut link, Direction::Read, remote, 64).is_err(),
            Attack::AfterFence => self.fence(&window) && self.ask(&mut link, Direction::Write, remote, 64).is_err(),
            Attack::ByAnother => {
                let (_, mut other) = self.peer()?;
                self.ask(&mut other, Direction::Write, remote, 64).is_err()
            }
        };
        let mut found = vec![0; self.segment.len()];
        copy_from(&self.segment, &mut found);
        Ok(refused && found.iter().all(|&byte| byte == BEFORE))
    }
}
