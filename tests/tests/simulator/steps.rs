//! What may happen in one step.

use crate::content::Content;
use crate::model::Object;
use crate::world::{State, World};
use protocol::base::{ByteLen, Instant, Millis, SegmentId};
use rand::Rng as _;
use rand::seq::IndexedRandom as _;
use storage::{Condition, Seal, StoreError, Terms, Ttl};
use transport::Transport as _;

impl World {
    /// One random thing happens, then some time passes.
    pub(crate) fn step(&mut self) {
        self.counts.steps += 1;
        if self.flash.is_some() && self.random.random_ratio(1, 2) {
            self.flash_step();
            if self.random.random_ratio(1, 30) {
                self.lose_record();
            }
        }
        match self.random.random_range(0..100) {
            0..12 => self.set(),
            12..17 => self.reserve(),
            17..22 => self.arrive(),
            22..32 => self.grant(),
            32..44 => self.send(),
            44..47 => self.apply(),
            47..54 => self.seal(),
            54..60 => self.finish(),
            60..61 => self.abort(),
            61..62 => self.renew_grant(),
            62..70 => {
                let key = self.key();
                self.get(key);
            }
            70..75 => self.lease(),
            75..78 => self.renew_or_release(),
            78..80 => self.lookup(),
            80..82 => self.probe(),
            82..85 => self.pin(),
            85..87 => self.expire(),
            87..89 => self.remove(),
            89..91 => self.repeat_commit(),
            91..92 => self.stat(),
            92..93 => self.administer(),
            93..94 => {
                let client = self.random.random_range(0..self.clients.len());
                self.die(client);
            }
            94..96 => self.drop_guards(),
            _ => self.maintain(),
        }
        let pause = match self.random.random_range(0..200) {
            0 => self.random.random_range(10_000..200_000),
            1..6 => self.random.random_range(500..6_000),
            6..40 => self.until_next_end(),
            _ => self.random.random_range(0..20),
        };
        self.pass(Millis(pause));
        if pause > 500 && self.random.random_ratio(9, 10) {
            self.maintain();
        }
        self.poll_fences();
        self.forget_ended();
        self.check();
    }

    /// Milliseconds to the moment when something runs out, or to the last one before it.
    pub(crate) fn until_next_end(&mut self) -> u64 {
        let leases = self.leases.iter().map(|lease| lease.deadline);
        let grants = self.grants.iter().map(|grant| grant.granted.deadline);
        let objects = self.model.ends();
        let next = leases.chain(grants).chain(objects).filter(|&end| end > self.now).min();
        let left = next.map_or(0, |end| end.left_at(self.now).0);
        left.saturating_sub(self.random.random_range(0..2))
    }

    pub(crate) fn key(&mut self) -> u8 {
        // A few keys are asked for more often than others.
        self.random.random_range(0..self.keys).min(self.random.random_range(0..self.keys))
    }

    pub(crate) fn content(&mut self) -> Content {
        self.versions += 1;
        let length = match self.random.random_range(0..4) {
            0 => self.random.random_range(0..200),
            1 => self.random.random_range(0..16_500),
            _ => self.random.random_range(0..self.len_max),
        };
        Content { version: self.versions, length }
    }

    pub(crate) fn terms(&mut self) -> Terms {
        let now = self.now;
        let random = &mut self.random;
        let condition = match random.random_range(0..5) {
            0 => Condition::IfAbsent,
            1 => Condition::IfPresent,
            _ => Condition::Always,
        };
        let soon = |random: &mut rand::rngs::StdRng, most| now + Millis(random.random_range(1..most));
        Terms {
            condition,
            keep_ttl: random.random_ratio(1, 8),
            expires: random.random_ratio(1, 4).then(|| soon(random, 20_000)),
            parent: random.random_ratio(1, 3).then(|| vec![random.random_range(0..self.keys)].into_boxed_slice()),
            soft_pin: random.random_ratio(1, 8).then(|| soon(random, 30_000)),
            pin: random.random_ratio(1, 30),
        }
    }

    pub(crate) fn client(&mut self) -> usize {
        self.random.random_range(0..self.clients.len())
    }

    pub(crate) fn pin(&mut self) {
        let key = self.key();
        let until = self.random.random_ratio(1, 2).then(|| self.until());
        let now = self.now;
        if self.random.random_ratio(1, 2) {
            return self.pin_once_or_more(key, until);
        }
        match self.store.unpin(now, &[key]) {
            None => self.absent(key),
            Some(left) => {
                let object = self.model.get(now, key).expect("only what was written can be unpinned");
                object.timed_pins.retain(|&until| until > now);
                if object.endless_pins > 0 {
                    object.endless_pins -= 1;
                } else if let Some(first) = (0..object.timed_pins.len()).min_by_key(|&at| object.timed_pins[at]) {
                    // One that ran out unnoticed may have been taken instead: then fewer are left for certain.
                    object.timed_pins.swap_remove(first);
                }
                assert!(left >= object.pins(now), "{left} pins of {object:?}");
            }
        }
    }

    pub(crate) fn pin_once_or_more(&mut self, key: u8, until: Option<Instant>) {
        let now = self.now;
        for _ in 0..self.random.random_range(1..4) {
            match self.store.pin(now, &[key], until) {
                Ok(None) => return self.absent(key),
                Ok(Some(count)) => {
                    let object = self.model.get(now, key).expect("only what was written can be pinned");
                    match until {
                        Some(until) => object.timed_pins.push(until),
                        None => object.endless_pins += 1,
                    }
                    assert!(count >= object.pins(now), "{count} pins of {object:?}");
                }
                Err(StoreError::Quota { .. }) => return self.counts.quota += 1,
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub(crate) fn expire(&mut self) {
        let key = self.key();
        self.expire_key(key);
    }

    pub(crate) fn expire_key(&mut self, key: u8) {
        let now = self.now;
        let at =
            self.random.random_ratio(3, 4).then(|| Instant(now.0 - 1_000) + Millis(self.random.random_range(0..9_000)));
        let allow = self.random.random_ratio(4, 5);
        let mut told = None;
        let done = self.store.expire(now, &[key], at, |present| {
            told = Some(present);
            allow
        });
        match told {
            None => self.absent(key),
            Some(present) => {
                let object = self.model.get(now, key).expect("only what was written expires");
                assert_eq!((present, done), (object.expires, allow));
                if done {
                    object.expires = at;
                }
            }
        }
        match self.store.ttl(now, &[key]) {
            Ttl::Missing => self.absent(key),
            ttl => {
                let expires = self.model.get(now, key).expect("only what was written lives").expires;
                assert_eq!(ttl, expires.map_or(Ttl::Endless, Ttl::Until));
            }
        }
    }

    pub(crate) fn remove(&mut self) {
        if self.random.random_ratio(1, 20) {
            self.store.clear();
            self.model.clear();
            return;
        }
        let key = self.key();
        self.remove_key(key);
    }

    pub(crate) fn remove_key(&mut self, key: u8) {
        if self.store.remove(self.now, &[key]) {
            assert!(self.model.get(self.now, key).is_some(), "only what was written is removed");
            self.model.remove(key);
        } else {
            self.absent(key);
        }
    }

    pub(crate) fn repeat_commit(&mut self) {
        self.committed.retain(|&(until, ..)| until > self.now);
        let Some((_, session, grant, committed)) = self.committed.choose(&mut self.random) else { return };
        match self.store.seal(self.now, *grant, *session, None) {
            Ok(Seal::Done(again)) => assert_eq!(again, *committed),
            other => panic!("the answer to a commit is remembered: {other:?}"),
        }
        assert!(!self.store.abort(*grant, *session), "what is published cannot be aborted");
        self.counts.repeated += 1;
    }

    pub(crate) fn stat(&mut self) {
        let key = self.key();
        let now = self.now;
        let Some(stat) = self.store.stat(now, &[key]) else { return self.absent(key) };
        let object: &Object = self.model.get(now, key).expect("only what was written lives");
        assert_eq!((stat.generation, stat.expires), (object.generation, object.expires));
        assert_eq!((stat.length, stat.crc), (ByteLen(object.content.length as u64), object.content.crc()));
        assert!(stat.pins >= object.pins(now));
        assert!(stat.dram.is_some() || self.flash.is_some(), "there is no flash here");
        if let Some((segment, offset)) = stat.dram {
            assert!(offset + stat.length.get() <= self.segments[segment_index(segment)].len() as u64);
        }
        // What has expired goes when it is looked at; a scan only passes it over.
        for key in 0..self.keys {
            self.store.contains(now, &[key]);
        }
        let mut seen = Vec::new();
        let mut cursor = 0;
        loop {
            cursor = self.store.scan(now, cursor, 7, |key| seen.push(key[0]));
            if cursor == 0 {
                break;
            }
        }
        seen.sort_unstable();
        assert!(seen.windows(2).all(|pair| pair[0] < pair[1]), "a quiet scan tells each key once: {seen:?}");
        assert_eq!(seen.len() as u64, self.store.len());
        let dice = self.random.random();
        assert!(self.store.random_key(now, dice).is_some_and(|key| seen.contains(&key[0])));
    }

    pub(crate) fn administer(&mut self) {
        match self.random.random_range(0..3) {
            0 => {
                let most = self.random.random_range(0..10);
                assert!(self.store.evict(self.now, most) <= most);
            }
            1 => {
                let total = self.store.accounting().total;
                let capacity = total / 100 * self.random.random_range(30..=130);
                self.store.set_capacity(ByteLen(capacity));
            }
            _ => {
                let high = self.random.random_range(50..=100);
                self.store.set_watermarks(high, self.random.random_range(30..=high));
            }
        }
    }

    pub(crate) fn drop_guards(&mut self) {
        let most = self.random.random_range(0..=self.reading.len());
        for _ in 0..most {
            let at = self.random.random_range(0..self.reading.len());
            let (guard, content) = self.reading.swap_remove(at);
            content.check(guard.bytes(), "a guarded object when its reader leaves");
            if self.random.random_ratio(1, 20) {
                // As if it had found other bytes: nobody finds the object any more, unless it was replaced already, or is on
                // flash.
                let generation = guard.generation();
                guard.condemn();
                let key = self.model.key_of(generation).filter(|_| self.flash.is_some());
                let stat = key.and_then(|key| self.store.stat(self.now, &[key]));
                if stat.is_none_or(|stat| stat.generation != generation) {
                    self.model.remove_placement(generation);
                }
            }
        }
    }

    /// A client dies: the server ends what its session was lent, and drops what it was doing for it.
    pub(crate) fn die(&mut self, client: usize) {
        self.counts.deaths += 1;
        let session = self.clients[client].session;
        self.arriving.retain(|set| set.client != client);
        self.store.end_session(session);
        for grant in &mut self.grants {
            if grant.client == client {
                // Dropping the guard of a seal gives its slot back, or into quarantine.
                grant.state = State::Ended;
            }
        }
        self.leases.retain(|lease| lease.session != session);
        self.network.close_session(session);
        self.poll_fences();
        self.forget_ended();
        self.clients[client].session = self.open_session();
    }
}

fn segment_index(segment: SegmentId) -> usize {
    segment.0 as usize
}
