//! The network that loses, delays and writes late, from seeds.
//!
//! Invariants:
//! - Whatever arrives late, a slot is reused only after its fence, and then nothing of its former life reaches it.

use super::*;
use crate::shm::anonymous;
use protocol::base::copy_from;
use rand::RngCore as _;

const SEGMENT: SegmentId = SegmentId(0);
const SESSION: SessionId = SessionId(1);
const SLOT_LEN: u64 = 64;
const SLOTS: u64 = 8;

struct Bench {
    network: SimNetwork,
    whole: RawSpan,
}

fn bench(seed: u64, config: SimConfig) -> Bench {
    let memory: Arc<dyn StableMemory> = anonymous(4096);
    let network = SimNetwork::new(seed, config);
    network.register(SEGMENT, Arc::clone(&memory)).expect("registered");
    network.open_session(SESSION).expect("opened");
    Bench { network, whole: RawSpan::new(memory, 0, 4096).expect("inside") }
}

impl Bench {
    fn slot(&self, slot: u64) -> Vec<u8> {
        let offset = usize::try_from(slot * SLOT_LEN).expect("small");
        let mut bytes = vec![0; usize::try_from(SLOT_LEN).expect("small")];
        copy_from(&self.whole.part(offset, bytes.len()).expect("inside"), &mut bytes);
        bytes
    }

    fn open(&self, slot: u64) -> WindowId {
        let span = Span { segment: SEGMENT, offset: slot * SLOT_LEN, length: SLOT_LEN };
        self.network.open(SESSION, Access::Write, span).expect("lent").id
    }
}

fn line(value: u8) -> Vec<u8> {
    vec![value; usize::try_from(SLOT_LEN).expect("small")]
}

/// One history: slots are granted, written by a peer that may be late, fenced, and believed from then on.
fn history(seed: u64, revoking: Revoking) -> Vec<(WriteId, Outcome)> {
    let config = SimConfig { late_permille: 300, lost_permille: 100, revoking, ..SimConfig::default() };
    let bench = bench(seed, config);
    let mut random = StdRng::seed_from_u64(!seed);
    let mut now = Instant::default();
    let mut outcomes = Vec::new();
    let mut sealed: HashMap<u64, Vec<u8>> = HashMap::new();
    for turn in 0..60u8 {
        let slot = random.random_range(0..SLOTS);
        sealed.remove(&slot);
        let window = bench.open(slot);
        for _ in 0..random.random_range(1..4) {
            bench.network.write(SESSION, window, 0, line(turn + 1)).expect("open");
        }
        now = now + Millis(random.random_range(0..10));
        outcomes.extend(bench.network.advance(now));
        let mut asked = 0;
        while bench.network.fence(window) == Fence::Pending {
            let next = bench.network.next_arrival().map_or(now + Millis(1), |due| due.max(now + Millis(1)));
            now = next;
            outcomes.extend(bench.network.advance(now));
            asked += 1;
            assert!(asked < 1_000, "seed {seed}: a fence that never ends");
        }
        assert!(bench.network.write(SESSION, window, 0, line(0xff)).is_err(), "seed {seed}: a revoked window");
        sealed.insert(slot, bench.slot(slot));
        for (slot, bytes) in &sealed {
            assert!(bench.slot(*slot) == *bytes, "seed {seed}, turn {turn}: slot {slot} changed after its fence");
        }
    }
    assert_eq!(bench.network.close_session(SESSION), Fence::Done, "seed {seed}");
    outcomes.extend(bench.network.advance(now + Millis(60_000)));
    assert_eq!(bench.network.next_arrival(), None);
    for (slot, bytes) in &sealed {
        assert!(bench.slot(*slot) == *bytes, "seed {seed}: slot {slot} changed by the stragglers");
    }
    outcomes
}

#[test]
fn no_write_lands_after_its_fence_is_done() {
    let first: u64 = StdRng::from_os_rng().next_u64();
    println!("seeds from {first}");
    let mut refused = 0;
    for seed in (0..200).map(|at| first.wrapping_add(at)) {
        for revoking in [Revoking::AtOnce, Revoking::After(Millis(3)), Revoking::Drained] {
            let outcomes = history(seed, revoking);
            refused += outcomes.iter().filter(|(_, outcome)| *outcome == Outcome::Refused).count();
            assert!(outcomes.iter().any(|(_, outcome)| *outcome == Outcome::Landed), "seed {seed}: nothing landed");
        }
    }
    assert!(refused > 0, "no write was ever late: the test tests nothing");
}

#[test]
fn a_seed_is_a_history() {
    assert_eq!(history(5, Revoking::After(Millis(2))), history(5, Revoking::After(Millis(2))));
    assert_ne!(history(5, Revoking::AtOnce), history(6, Revoking::AtOnce));
}

#[test]
fn a_hostile_network_keeps_a_fence_pending_until_the_last_write_landed() {
    let config = SimConfig {
        lost_permille: 0,
        late_permille: 1000,
        late_max: Millis(1_000),
        revoking: Revoking::Drained,
        ..SimConfig::default()
    };
    let bench = bench(3, config);
    let window = bench.open(2);
    let write = bench.network.write(SESSION, window, 0, line(9)).expect("open");
    assert_eq!(bench.network.fence(window), Fence::Pending);
    let due = bench.network.next_arrival().expect("under way");
    bench.network.advance(Instant(due.0 - 1));
    assert_eq!(bench.network.fence(window), Fence::Pending);
    assert_eq!(bench.network.advance(due), [(write, Outcome::Landed)], "after the revocation, before the fence");
    assert_eq!(bench.network.fence(window), Fence::Done);
    assert_eq!(bench.slot(2), line(9));
}

#[test]
fn a_lost_write_never_lands_and_does_not_hold_a_fence() {
    let config = SimConfig { lost_permille: 1000, revoking: Revoking::Drained, ..SimConfig::default() };
    let bench = bench(1, config);
    let window = bench.open(0);
    bench.network.write(SESSION, window, 0, line(1)).expect("open");
    assert_eq!(bench.network.next_arrival(), None);
    assert_eq!(bench.network.fence(window), Fence::Done);
    assert_eq!(bench.slot(0), line(0));
}
