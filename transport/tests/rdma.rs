//! RDMA on a real device, or Soft-RoCE in a guest: what is lent, and what a hostile or dying peer can do with it.
//!
//! Each is repeated `MOONCAKE_RUNS` times, from a seed that it prints.

use parking_lot::Mutex;
use protocol::base::{RawSpan, SegmentId, SessionId, StableMemory, copy_from, copy_into};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use transport::rdma::verbs::State;
use transport::rdma::{
    Broken, Choice, Defect, Device, Direction, Done, Link, LinkError, Pages, RdmaTerms, RdmaTransport, Region, Remote,
    RemoteAccess, Status, Transfer, try_windows,
};
use transport::{Access, Fence, Span, Transport as _, TransportError, Window};

const SEGMENT: SegmentId = SegmentId(7);
const MIB: usize = 1 << 20;
/// Software devices on an emulated processor are slow.
const PATIENCE: Duration = Duration::from_secs(60);

fn device() -> Arc<Device> {
    Device::open(&Choice::default()).expect("these tests run where there is a device")
}

/// In the short form: the kernel of the guest waits 50 s for what some attacks leave referenced.
const ATTACKS: usize = 3;

fn runs(short: usize) -> usize {
    std::env::var("MOONCAKE_RUNS").map_or(short, |runs| runs.parse().expect("MOONCAKE_RUNS is a number"))
}

fn seeded() -> StdRng {
    let seed = std::env::var("MOONCAKE_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().expect("a number"));
    eprintln!("MOONCAKE_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

fn soon() -> Instant {
    Instant::now() + PATIENCE
}

fn random(rng: &mut StdRng, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    rng.fill(&mut bytes[..]);
    bytes
}

/// Registered memory with bytes to compare.
struct Memory {
    span: RawSpan,
    region: Arc<Region>,
}

impl Memory {
    fn new(device: &Device, len: usize, access: RemoteAccess) -> Self {
        let memory: Arc<dyn StableMemory> = Pages::new(len).expect("mapped");
        let span = RawSpan::new(Arc::clone(&memory), 0, memory.len()).expect("all of it");
        Self { span, region: Region::register(&device.domain, memory, access).expect("registered") }
    }

    fn put(&self, offset: usize, bytes: &[u8]) {
        copy_into(bytes, &self.span.part(offset, bytes.len()).expect("inside"));
    }

    fn get(&self, offset: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        copy_from(&self.span.part(offset, len).expect("inside"), &mut bytes);
        bytes
    }

    fn transfer(&self, offset: usize, length: usize, remote: Remote) -> Transfer {
        Transfer { region: Arc::clone(&self.region), offset, length, remote }
    }
}

/// The server's side, with one segment.
struct Server {
    transport: RdmaTransport,
    segment: RawSpan,
    sessions: Mutex<u64>,
}

impl Server {
    fn new(terms: RdmaTerms, segment_len: usize) -> Self {
        let transport = RdmaTransport::new(device(), terms).expect("started");
        let memory: Arc<dyn StableMemory> = Pages::new(segment_len).expect("mapped");
        transport.register(SEGMENT, Arc::clone(&memory)).expect("registered");
        let segment = RawSpan::new(Arc::clone(&memory), 0, memory.len()).expect("all of it");
        Self { transport, segment, sessions: Mutex::new(0) }
    }

    fn peer(&self) -> Peer {
        let session = {
            let mut sessions = self.sessions.lock();
            *sessions += 1;
            SessionId(*sessions)
        };
        let mut link = Link::new(self.transport.device(), 8).expect("a queue pair");
        let ours = self.transport.attach(session, &link.endpoint().expect("made")).expect("attached");
        link.connect(&ours).expect("connected");
        Peer { session, link }
    }

    fn lend(&self, session: SessionId, access: Access, offset: usize, length: usize) -> (Window, Remote) {
        let window = self.transport.open(session, access, span(offset, length)).expect("lent");
        let (told, bound) = mpsc::channel();
        self.transport.when_bound(window.id, tell(told));
        bound.recv_timeout(PATIENCE).expect("told").expect("bound");
        let (addr, rkey) = window.remote.expect("a window of RDMA has a key");
        (window, Remote { addr, rkey })
    }

    /// Takes a window back, and waits for it.
    fn fence(&self, window: &Window) {
        let (told, fenced) = mpsc::channel();
        self.transport.when_fenced(window.id, Box::new(move || told.send(()).unwrap_or_default()));
        fenced.recv_timeout(PATIENCE).expect("fenced");
        assert_eq!(self.transport.fence(window.id), Fence::Done);
    }

    fn put(&self, offset: usize, bytes: &[u8]) {
        copy_into(bytes, &self.segment.part(offset, bytes.len()).expect("inside"));
    }

    fn get(&self, offset: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        copy_from(&self.segment.part(offset, len).expect("inside"), &mut bytes);
        bytes
    }

    /// Ends a session, and waits until nothing of it is left.
    fn close(&self, session: SessionId) {
        self.transport.close_session(session);
        self.transport.settle();
        assert_eq!(self.transport.close_session(session), Fence::Done);
    }

    /// Ends all sessions but one.
    fn close_others(&self, but: SessionId) {
        let last = *self.sessions.lock();
        (1..=last).map(SessionId).filter(|&session| session != but).for_each(|session| self.close(session));
    }

    /// Nothing is held any more once everybody is gone.
    fn check_empty(&self) {
        self.transport.settle();
        let stats = self.transport.stats();
        assert_eq!((stats.sessions, stats.windows_lent, stats.stuck), (0, 0, 0), "{stats:?}");
    }
}

struct Peer {
    session: SessionId,
    link: Link,
}

impl Peer {
    fn write(&mut self, memory: &Memory, length: usize, to: Remote) -> Result<(), LinkError> {
        self.link.transfer(Direction::Write, &[memory.transfer(0, length, to)], soon())
    }
}

fn span(offset: usize, length: usize) -> Span {
    Span { segment: SEGMENT, offset: offset as u64, length: length as u64 }
}

fn tell(to: mpsc::Sender<Result<(), Broken>>) -> Done {
    Box::new(move |result| to.send(result).unwrap_or_default())
}

fn plain(device: &Device, len: usize) -> Memory {
    Memory::new(device, len, RemoteAccess::default())
}

/// Waits for what the device's thread finds out.
fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = soon();
    while !is_so() {
        assert!(Instant::now() < until, "{what}: not within {PATIENCE:?}");
        std::thread::yield_now();
    }
}

/// Soft-RoCE checks accesses against the region behind a window; everything else it keeps, and real devices keep all.
#[test]
#[ignore = "guest: its RDMA device"]
fn a_device_is_believed_after_it_was_tried() {
    let device = device();
    let defects = try_windows(&device).expect("tried");
    eprintln!("{}: {defects:?}", device.name);
    let may_have: &[Defect] = if device.name.starts_with("rxe") { &[Defect::Bounds] } else { &[] };
    assert!(defects.iter().all(|defect| may_have.contains(defect)), "{defects:?}");
}

#[test]
#[ignore = "guest: its RDMA device"]
fn bytes_arrive_as_they_were_sent_whichever_way_they_go() {
    let mut rng = seeded();
    let server = Server::new(RdmaTerms::default(), 20 * MIB);
    let device = Arc::clone(server.transport.device());
    let theirs = Memory::new(&device, 20 * MIB, RemoteAccess { read: true, write: true, windows: false });
    let mut peer = server.peer();
    let mut number = 0;
    for len in [0, 1, 4095, 4096, 65_537, MIB, 4 * MIB + 1, 16 * MIB] {
        let (here, there) = (rng.random_range(0..2 * MIB), rng.random_range(0..2 * MIB));
        let bytes = random(&mut rng, len);
        // They write into a grant.
        theirs.put(there, &bytes);
        let (grant, remote) = server.lend(peer.session, Access::Write, here, len);
        peer.link.transfer(Direction::Write, &[theirs.transfer(there, len, remote)], soon()).expect("written");
        server.fence(&grant);
        assert!(server.get(here, len) == bytes, "written, {len} bytes");
        // They read under a lease.
        let bytes = random(&mut rng, len);
        server.put(here, &bytes);
        let (lease, remote) = server.lend(peer.session, Access::Read, here, len);
        peer.link.transfer(Direction::Read, &[theirs.transfer(there, len, remote)], soon()).expect("read");
        server.fence(&lease);
        assert!(theirs.get(there, len) == bytes, "read, {len} bytes");
        // We push.
        let bytes = random(&mut rng, len);
        server.put(here, &bytes);
        number += 1;
        let (told, pushed) = mpsc::channel();
        let to = theirs.region.remote(there);
        server.transport.push(peer.session, span(here, len), to, Some(number), tell(told)).expect("asked");
        peer.link.wait_for_push(number, soon()).expect("told");
        assert!(theirs.get(there, len) == bytes, "pushed, {len} bytes");
        pushed.recv_timeout(PATIENCE).expect("ended").expect("pushed");
        // We pull.
        let bytes = random(&mut rng, len);
        theirs.put(there, &bytes);
        let (told, pulled) = mpsc::channel();
        let from = theirs.region.remote(there);
        server.transport.pull(peer.session, span(here, len), from, tell(told)).expect("asked");
        pulled.recv_timeout(PATIENCE).expect("ended").expect("pulled");
        assert!(server.get(here, len) == bytes, "pulled, {len} bytes");
    }
    server.close(peer.session);
    server.check_empty();
}

/// More than a queue holds, and more windows than pieces of one doorbell.
#[test]
#[ignore = "guest: its RDMA device"]
fn a_batch_of_128_goes_through_a_queue_of_8() {
    let mut rng = seeded();
    let server = Server::new(RdmaTerms { depth: 8, ..RdmaTerms::default() }, 8 * MIB);
    let device = Arc::clone(server.transport.device());
    let mine = Memory::new(&device, 8 * MIB, RemoteAccess { read: true, write: true, windows: false });
    let mut peer = server.peer();
    let bytes = random(&mut rng, 128 * 4096);
    mine.put(0, &bytes);
    // Asked for at once, so that most of them wait.
    let windows: Vec<Window> = (0..128)
        .map(|at| server.transport.open(peer.session, Access::Write, span(at * 40_000, 4096)).expect("lent"))
        .collect();
    let (told, bound) = mpsc::channel();
    windows.iter().for_each(|window| server.transport.when_bound(window.id, tell(told.clone())));
    (0..128).for_each(|_| bound.recv_timeout(PATIENCE).expect("told").expect("bound"));
    let items: Vec<Transfer> = windows
        .iter()
        .enumerate()
        .map(|(at, window)| {
            let (addr, rkey) = window.remote.expect("a key");
            mine.transfer(at * 4096, 4096, Remote { addr, rkey })
        })
        .collect();
    peer.link.transfer(Direction::Write, &items, soon()).expect("written");
    windows.iter().for_each(|window| server.fence(window));
    for at in 0..128 {
        assert!(server.get(at * 40_000, 4096) == bytes[at * 4096..][..4096], "item {at}");
    }
    let (told, pulled) = mpsc::channel();
    for at in 0..128 {
        let (into, from) = (span(at * 8192, 4096), mine.region.remote(at * 4096));
        server.transport.pull(peer.session, into, from, tell(told.clone())).expect("asked");
    }
    (0..128).for_each(|_| pulled.recv_timeout(PATIENCE).expect("told").expect("pulled"));
    for at in 0..128 {
        assert!(server.get(at * 8192, 4096) == bytes[at * 4096..][..4096], "item {at}");
    }
    server.close(peer.session);
    server.check_empty();
}

/// What a peer does with a right that it does not have: nothing happens to anybody but itself.
fn attack(what: impl Fn(&Server, &mut StdRng, &Memory, &mut Peer) -> Result<(), LinkError>) {
    let mut rng = seeded();
    let server = Server::new(RdmaTerms::default(), MIB);
    let mine = plain(&Arc::clone(server.transport.device()), MIB);
    mine.put(0, &[0xee; 64 * 1024]);
    let untouched = random(&mut rng, MIB);
    let mut bystander = server.peer();
    let mut slowest = Duration::ZERO;
    for run in 0..runs(ATTACKS) {
        let began = Instant::now();
        server.put(0, &untouched);
        let mut offender = server.peer();
        let broken = server.transport.stats().broken;
        let result = what(&server, &mut rng, &mine, &mut offender);
        assert!(matches!(result, Err(LinkError::Failed(Status::RemoteAccess))), "run {run}: {result:?}");
        assert!(server.get(0, MIB) == untouched, "run {run}: bytes changed");
        // Its queue pair is in error here, and gone at the server's.
        assert!(!offender.link.is_open(), "run {run}");
        eventually("the offender's session ends", || !server.transport.is_open(offender.session));
        server.transport.settle();
        assert_eq!(server.transport.stats().broken, broken + 1, "run {run}: one session ends, and no other");
        server.close_others(bystander.session);
        let (window, remote) = server.lend(bystander.session, Access::Write, 512 * 1024, 4096);
        bystander.write(&mine, 4096, remote).expect("a bystander is not harmed");
        server.fence(&window);
        assert!(server.get(512 * 1024, 4096) == mine.get(0, 4096), "run {run}: the bystander's bytes");
        slowest = slowest.max(began.elapsed());
    }
    println!("{} attacks, 0 accesses; the slowest took {slowest:?}", runs(ATTACKS));
    server.close(bystander.session);
    server.check_empty();
}

#[test]
#[ignore = "guest: its RDMA device"]
fn a_write_after_the_window_was_taken_back_is_refused() {
    attack(|server, rng, mine, offender| {
        let (window, remote) = server.lend(offender.session, Access::Write, 4096, 64 * 1024);
        server.fence(&window);
        offender.write(mine, rng.random_range(1..=64 * 1024), remote)
    });
}

#[test]
#[ignore = "guest: its RDMA device"]
fn anothers_key_opens_nothing() {
    attack(|server, rng, mine, offender| {
        let mut owner = server.peer();
        let (window, remote) = server.lend(owner.session, Access::Write, 4096, 64 * 1024);
        let before = server.get(4096, 64 * 1024);
        let result = offender.write(mine, rng.random_range(1..=64 * 1024), remote);
        assert!(server.get(4096, 64 * 1024) == before, "bytes of the owner's changed");
        owner.write(mine, 64 * 1024, remote).expect("the owner is not harmed");
        server.fence(&window);
        server.put(4096, &before);
        result
    });
}

#[test]
#[ignore = "guest: its RDMA device"]
fn guessed_keys_open_nothing() {
    attack(|server, rng, mine, offender| {
        let (window, remote) = server.lend(offender.session, Access::Read, 4096, 64 * 1024);
        // Around a real one, where others would be, or anywhere.
        let rkey = match rng.random_range(0..3) {
            0 => remote.rkey ^ rng.random_range(1..=0xff),
            1 => remote.rkey.wrapping_add(rng.random_range(1..=64) << 8),
            _ => loop {
                let guess = rng.random();
                if guess != remote.rkey {
                    break guess;
                }
            },
        };
        let result = offender.write(mine, 64, Remote { rkey, ..remote });
        server.fence(&window);
        result
    });
}

#[test]
#[ignore = "guest: its RDMA device"]
fn a_lease_cannot_be_written_nor_a_grant_read() {
    attack(|server, rng, mine, offender| {
        let (access, direction) =
            if rng.random() { (Access::Read, Direction::Write) } else { (Access::Write, Direction::Read) };
        let (window, remote) = server.lend(offender.session, access, 4096, 64 * 1024);
        let result = offender.link.transfer(direction, &[mine.transfer(0, 4096, remote)], soon());
        server.fence(&window);
        result
    });
}

/// A window has 256 keys. They are used up, and then the window rests: a 257th binding would make an old key valid again.
#[test]
#[ignore = "guest: its RDMA device"]
fn no_key_is_given_out_twice_and_the_257th_binding_waits() {
    let server = Server::new(RdmaTerms { windows_max: 1, ..RdmaTerms::default() }, MIB);
    let mine = plain(&Arc::clone(server.transport.device()), 4096);
    let mut peer = server.peer();
    let mut keys = std::collections::HashSet::new();
    for turn in 0..256 {
        let (window, remote) = server.lend(peer.session, Access::Write, 4096, 4096);
        assert!(keys.insert(remote.rkey), "turn {turn}: a key came again");
        server.fence(&window);
    }
    let refused = server.transport.open(peer.session, Access::Write, span(4096, 4096));
    assert!(matches!(refused, Err(TransportError::Local(_))), "{refused:?}");
    let first = *keys.iter().next().expect("256 of them");
    let addr = server.segment.as_ptr().addr() as u64 + 4096;
    let late = peer.write(&mine, 64, Remote { addr, rkey: first });
    assert!(matches!(late, Err(LinkError::Failed(Status::RemoteAccess))), "{late:?}");
    assert_eq!(server.get(4096, 64), [0; 64]);
    eventually("the session ends", || !server.transport.is_open(peer.session));
    server.check_empty();
}

/// However a peer goes, what it was lent comes back, what was under way ends, and nothing is left.
#[test]
#[ignore = "guest: its RDMA device"]
fn a_peer_that_goes_in_the_middle_leaves_nothing_behind() {
    let mut rng = seeded();
    let server = Server::new(RdmaTerms::default(), 8 * MIB);
    let device = Arc::clone(server.transport.device());
    for run in 0..runs(8) {
        let theirs = Memory::new(&device, 8 * MIB, RemoteAccess { read: true, write: true, windows: false });
        let peer = server.peer();
        let (told, ended) = mpsc::channel();
        let windows: Vec<Window> = (0..rng.random_range(1..8))
            .map(|at| server.transport.open(peer.session, Access::Write, span(at * MIB, MIB)).expect("lent"))
            .collect();
        let count = rng.random_range(1..6);
        for at in 0..count {
            let (ours, remote) = (span(at * MIB, MIB), theirs.region.remote(at * MIB));
            if rng.random() {
                server.transport.pull(peer.session, ours, remote, tell(told.clone())).expect("asked");
            } else {
                server.transport.push(peer.session, ours, remote, None, tell(told.clone())).expect("asked");
            }
        }
        match rng.random_range(0..3) {
            // Its queue pair is gone.
            0 => drop(peer.link),
            // Its memory is gone.
            1 => drop(theirs),
            // Its connection is gone: the server ends the session.
            _ => drop(server.transport.close_session(peer.session)),
        }
        (0..count).for_each(|_| _ = ended.recv_timeout(PATIENCE).expect("all of it ends"));
        for window in &windows {
            server.fence(window);
        }
        server.close(peer.session);
        server.check_empty();
        eprintln!("run {run}: {:?}", server.transport.stats());
    }
}

#[test]
#[ignore = "guest: its RDMA device"]
fn eight_peers_at_once_get_their_own_bytes() {
    let seed: u64 = seeded().random();
    let server = Server::new(RdmaTerms::default(), 8 * MIB);
    std::thread::scope(|scope| {
        for number in 0..8 {
            let server = &server;
            scope.spawn(move || {
                let mut rng = StdRng::seed_from_u64(seed ^ number as u64);
                let mine = plain(server.transport.device(), MIB);
                let mut peer = server.peer();
                for _ in 0..runs(10) {
                    let len = rng.random_range(1..=256 * 1024);
                    let offset = number * MIB + rng.random_range(0..=MIB - len);
                    let bytes = random(&mut rng, len);
                    mine.put(0, &bytes);
                    let (grant, remote) = server.lend(peer.session, Access::Write, offset, len);
                    peer.write(&mine, len, remote).expect("written");
                    server.fence(&grant);
                    assert!(server.get(offset, len) == bytes);
                    mine.put(0, &vec![0; len]);
                    let (lease, remote) = server.lend(peer.session, Access::Read, offset, len);
                    let item = mine.transfer(0, len, remote);
                    peer.link.transfer(Direction::Read, &[item], soon()).expect("read");
                    server.fence(&lease);
                    assert!(mine.get(0, len) == bytes);
                }
                assert_eq!(peer.link.state().expect("asked"), State::Connected);
                server.close(peer.session);
            });
        }
    });
    server.check_empty();
}

#[test]
#[ignore = "guest: its RDMA device"]
fn a_session_with_nobody_ends_and_is_told() {
    let server = Server::new(RdmaTerms::default(), MIB);
    let link = Link::new(server.transport.device(), 1).expect("a queue pair");
    let mut nobody = link.endpoint().expect("made");
    drop(link);
    nobody.qpn ^= 0x15_5555;
    let session = SessionId(1);
    server.transport.attach(session, &nobody).expect("the device cannot know yet");
    let (told, ended) = mpsc::channel();
    let to = Remote { addr: 4096, rkey: 1 };
    server.transport.push(session, span(0, 64), to, None, tell(told)).expect("asked");
    assert!(ended.recv_timeout(PATIENCE).expect("ended").is_err());
    eventually("the session ends", || !server.transport.is_open(session));
    assert!(server.transport.attach(SessionId(2), &nobody_at_all(nobody)).is_err(), "no such queue pair can be");
    server.check_empty();
}

fn nobody_at_all(endpoint: transport::rdma::Endpoint) -> transport::rdma::Endpoint {
    transport::rdma::Endpoint { mtu: 9, ..endpoint }
}
