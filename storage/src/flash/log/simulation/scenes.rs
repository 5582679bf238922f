//! Histories that lead to one thing: a device that fails, a sync that fails, a device full of pins, rot.

use super::super::{SpillJob, Ticket};
use super::{Boot, SEGMENT, World, payload};
use crate::Terms;
use crate::flash::engine::Faults;
use crate::flash::tier::status::Figures;
use crate::store::flash::SpillOf;
use parking_lot::Mutex;
use protocol::base::Clock as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Fills DRAM and spills until something happened.
fn spill_until(world: &mut World, what: &str, happened: impl Fn(&Boot) -> bool) {
    for _ in 0..2_000 {
        world.set();
        world.spill();
        world.pump(4);
        if happened(world.boot.as_ref().expect("a process runs")) {
            return;
        }
    }
    panic!("seed {:#x}: never {what}", world.seed);
}

#[test]
fn a_device_that_fails_is_taken_off_and_comes_back() {
    for (seed, faults) in [
        (0x0ff1, Faults { write_error: 1.0, ..Faults::default() }),
        (0x0ff2, Faults { sync_error: 1.0, ..Faults::default() }),
        (0x0ff3, Faults { short: 0.9, ..Faults::default() }),
    ] {
        let mut world = World::new(seed, Faults::default(), false);
        spill_until(&mut world, "spilled", |boot| boot.figures.spills.load(Ordering::Relaxed) > 20);
        world.disk.set_faults(faults);
        spill_until(&mut world, "off", |boot| boot.figures.why_off().is_some());
        let spills = world.boot.as_ref().expect("a process runs").figures.spills.load(Ordering::Relaxed);
        world.clock.0.fetch_add(5_000, Ordering::Relaxed);
        world.pump(50);
        assert!(
            world.boot.as_ref().expect("a process runs").figures.why_off().is_some(),
            "seed {seed:#x}: a probe that fails keeps it off"
        );
        world.disk.set_faults(Faults::default());
        world.clock.0.fetch_add(10_000, Ordering::Relaxed);
        world.pump(50);
        spill_until(&mut world, "back", |boot| {
            boot.figures.why_off().is_none() && boot.figures.spills.load(Ordering::Relaxed) > spills + 20
        });
        for _ in 0..200 {
            world.read();
            world.pump(2);
        }
        world.restart();
        world.boot.as_ref().expect("a process runs").store.audit();
        let _ = std::fs::remove_dir_all(&world.dir);
    }
}

#[test]
fn a_failed_sync_is_told_and_what_it_should_have_kept_is_dirty_again() {
    let mut world = World::new(0x5f, Faults::default(), false);
    spill_until(&mut world, "spilled", |boot| boot.figures.spills.load(Ordering::Relaxed) > 5);
    world.disk.set_faults(Faults { sync_error: 1.0, ..Faults::default() });
    let now = world.clock.now();
    let told = Arc::new(Mutex::new(None));
    let boot = world.boot.as_mut().expect("a process runs");
    let generation = boot
        .store
        .set(now, b"durable", &payload(b"durable", 1, 5_000), &boot.account, &Terms::default())
        .expect("room");
    let SpillOf::Spill(spill) = boot.store.spill_of(now, b"durable", generation) else { panic!("it is dirty") };
    let tell = Arc::clone(&told);
    let ticket: Ticket = Box::new(move |result| *tell.lock() = Some(result.is_ok()));
    boot.log.spill(SpillJob { spill, ticket: Some(ticket), charge: None });
    world.pump(60);
    assert_eq!(*told.lock(), Some(false), "nothing is promised");
    let boot = world.boot.as_ref().expect("a process runs");
    assert!(boot.figures.why_off().is_some());
    assert!(
        matches!(boot.store.spill_of(now, b"durable", generation), SpillOf::Spill(_)),
        "it lies in DRAM alone, dirty"
    );
    let _ = std::fs::remove_dir_all(&world.dir);
}

/// Every segment holds something pinned, and nothing is free: the reclaim that was begun all the same gave up its copies once,
/// and before that it waited for room for ever.
#[test]
fn a_reclaim_whose_pinned_records_find_no_room_is_put_off() {
    for seed in 0x9100..0x9104 {
        let mut world = World::of(StdRng::seed_from_u64(seed), seed, Faults::default(), true, 4, 4_000);
        let full = |world: &World| world.boot.as_ref().expect("a process runs").figures.full.load(Ordering::Relaxed);
        for _ in 0..6_000 {
            world.set();
            world.spill();
            world.pump(4);
            let (now, boot) = (world.clock.now(), world.boot.as_ref().expect("a process runs"));
            // What is pinned in DRAM stays there.
            let on_flash = |key: &Vec<u8>| boot.store.stat(now, key).is_some_and(|stat| stat.dram.is_none());
            let found: Vec<Vec<u8>> = world
                .told
                .iter()
                .filter(|(key, told)| !told.pinned && on_flash(key))
                .map(|(key, _)| key.clone())
                .collect();
            for key in found {
                world.pin_key(key, true);
            }
            if full(&world) {
                break;
            }
        }
        assert!(full(&world), "seed {seed:#x}: pins never filled the device");
        // Who wants to write is told, now and after a kill. What was open then is closed, and may give some room.
        for (turn, ending) in [1, 1, 0].into_iter().enumerate() {
            let told = Arc::new(Mutex::new(None));
            let (now, tell) = (world.clock.now(), Arc::clone(&told));
            let boot = world.boot.as_mut().expect("a process runs");
            let bytes = payload(b"durable", 1, 300_000);
            boot.store.hurry(now);
            let generation = boot.store.set(now, b"durable", &bytes, &boot.account, &Terms::default()).expect("room");
            let SpillOf::Spill(spill) = boot.store.spill_of(now, b"durable", generation) else { panic!("it is dirty") };
            let ticket: Ticket = Box::new(move |result| *tell.lock() = Some(result.is_ok()));
            boot.log.spill(SpillJob { spill, ticket: Some(ticket), charge: None });
            for _ in 0..500 {
                world.pump(1);
            }
            let answer = *told.lock();
            assert!(answer.is_some_and(|durable| turn > 0 || !durable), "seed {seed:#x}: {answer:?}");
            let boot = world.boot.as_mut().expect("a process runs");
            boot.store.remove(world.clock.now(), b"durable");
            world.check_pins();
            world.restart_after(ending);
            world.check_pins();
        }
        world.unpin_all();
        world.clock.0.fetch_add(60_000, Ordering::Relaxed);
        world.check_progress();
        let _ = std::fs::remove_dir_all(&world.dir);
    }
}

/// Rot is found before anybody asks, what holds is moved, and the segment serves again.
#[test]
fn a_scrub_finds_rot_keeps_what_holds_and_gives_the_segment_back() {
    for (seed, part) in [(0x5c0, Part::Records), (0x5c1, Part::Footer), (0x5c2, Part::Header)] {
        let mut world = World::of(StdRng::seed_from_u64(seed), seed, Faults::default(), false, 8, 2_000);
        let figure = |world: &World, pick: fn(&Figures) -> &AtomicU64| {
            pick(&world.boot.as_ref().expect("a process runs").figures).load(Ordering::Relaxed)
        };
        spill_until(&mut world, "sealed", |boot| boot.log.next_scrub(1, true).is_some());
        // Small records that lie on flash alone.
        let segment = world.boot.as_ref().expect("a process runs").log.next_scrub(0, true).expect("sealed").segment;
        let base = (1 << 20) + u64::from(segment) * SEGMENT;
        let on_flash = |world: &World| -> Vec<Vec<u8>> {
            let (now, boot) = (world.clock.now(), world.boot.as_ref().expect("a process runs"));
            let lies = |key: &&Vec<u8>| {
                let place = boot.store.stat(now, key).and_then(|stat| stat.flash);
                place.is_some_and(|place| u32::from(place.slot) == segment)
            };
            world.told.keys().filter(lies).cloned().collect()
        };
        let before = on_flash(&world).len();
        assert!(before > 2, "seed {seed:#x}: {before} records in segment {segment}");
        match part {
            Part::Records => {
                // The headers of two.
                let (now, boot) = (world.clock.now(), world.boot.as_ref().expect("a process runs"));
                for key in on_flash(&world).iter().take(2) {
                    let place = boot.store.stat(now, key).and_then(|stat| stat.flash).expect("it lies there");
                    world.disk.poke(base + u64::from(place.page) * 4096 + 16, &[0xff; 16]);
                }
            }
            Part::Footer => world.disk.poke(base + SEGMENT - 4096 + 16, &[0xff; 16]),
            Part::Header => world.disk.poke(base + 16, &[0xff; 16]),
        }
        let dropped = figure(&world, |figures| &figures.mismatches);
        for _ in 0..200 {
            world.scrub();
            world.pump(8);
        }
        let found = figure(&world, |figures| &figures.scrub_rotten);
        let boot = world.boot.as_ref().expect("a process runs");
        let there = world.told.keys().filter(|key| boot.store.stat(world.clock.now(), key).is_some()).count();
        match part {
            Part::Records => assert_eq!(found, 2, "seed {seed:#x}"),
            Part::Footer | Part::Header => {
                assert_eq!(found, 1, "seed {seed:#x}");
                assert_eq!(figure(&world, |figures| &figures.scrub_returned), 1, "seed {seed:#x}: it is used again");
                assert_eq!(figure(&world, |figures| &figures.segments_quarantined), 0, "seed {seed:#x}");
                assert!(on_flash(&world).is_empty(), "seed {seed:#x}: its records were moved");
                assert!(figure(&world, |figures| &figures.reinserted) >= before as u64, "seed {seed:#x}: all of them");
            }
        }
        assert!(
            there > 0 && figure(&world, |figures| &figures.mismatches) == dropped,
            "seed {seed:#x}: no reader saw it"
        );
        let _ = std::fs::remove_dir_all(&world.dir);
    }
}

/// Where rot is.
#[derive(Clone, Copy)]
enum Part {
    Records,
    Footer,
    Header,
}
