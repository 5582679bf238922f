//! Reading: in band, under a lease, and by looking into memory.

use crate::world::{DEADLINE_MAX, Lease, PROBE_GRACE, World};
use protocol::base::{ByteLen, Instant, Millis};
use rand::Rng as _;
use storage::{Found, Leased, StoreError};

impl World {
    /// Reads a key in band and compares.
    pub(crate) fn get(&mut self, key: u8) {
        let depth = self.random.random_ratio(1, 3).then(|| self.random.random_range(0..10));
        let found = if self.random.random_ratio(1, 3) {
            self.store.read_checked(self.now, &[key], depth)
        } else {
            self.store.read(self.now, &[key], depth, <[u8]>::to_vec)
        };
        match found.expect("few readers") {
            None => self.absent(key),
            Some(found) => {
                self.found(key, found);
                self.model.get(self.now, key).expect("compared").read();
            }
        }
    }

    pub(crate) fn peek(&mut self, key: u8) {
        let checked = self.random.random_ratio(1, 2);
        match self.store.peek(self.now, &[key], checked).expect("few readers") {
            None => self.absent(key),
            Some(found) => self.found(key, found),
        }
    }

    pub(crate) fn found(&mut self, key: u8, found: Found) {
        match found {
            Found::Small(bytes) => self.compare(key, None, None, &bytes),
            Found::Large(guard) => {
                self.compare(key, Some(guard.generation()), Some(guard.crc()), guard.bytes());
                if self.random.random_ratio(1, 4) {
                    let content = self.model.get(self.now, key).expect("compared").content;
                    self.reading.push((guard, content));
                }
            }
            Found::Flash(read) => self.found_on_flash(key, read),
        }
    }

    pub(crate) fn leased(&mut self, key: u8, client: usize, leased: &Leased) {
        let now = self.now;
        let object = self.model.get(now, key).unwrap_or_else(|| panic!("key {key} came back from the dead"));
        object.read();
        let content = object.content;
        assert_eq!((leased.generation, leased.crc), (object.generation, content.crc()), "key {key}");
        assert_eq!(leased.length, ByteLen(content.length as u64), "key {key}");
        let bytes = self.span_at(leased.segment, leased.offset, content.length as u64);
        content.check_span(&bytes, "an object just leased");
        self.counts.leases += 1;
        let (lease, generation, deadline) = (leased.lease, leased.generation, leased.deadline);
        self.leases.push(Lease { session: self.clients[client].session, lease, generation, content, deadline, bytes });
    }

    pub(crate) fn until(&mut self) -> Instant {
        self.now + Millis(self.random.random_range(1..=DEADLINE_MAX.0))
    }

    pub(crate) fn lease(&mut self) {
        let (key, client, until) = (self.key(), self.client(), self.until());
        let leased = self.store.lease(self.now, &[key], until, self.clients[client].session, None);
        let Ok(leased) = leased else {
            assert!(matches!(leased, Err(StoreError::Quota { .. })), "{leased:?}");
            self.counts.quota += 1;
            // It was looked for all the same.
            self.model.get(self.now, key).expect("what is refused is there").read();
            return;
        };
        match leased {
            // On flash alone perhaps: then it is promoted first.
            None => match self.flash.as_ref().and_then(|_| self.store.flash_read(self.now, &[key])) {
                None => self.absent(key),
                Some(read) => {
                    assert!(read.promote);
                    self.found_on_flash(key, read);
                    self.model.get(self.now, key).expect("compared").read();
                }
            },
            Some(leased) => self.leased(key, client, &leased),
        }
    }

    pub(crate) fn renew_or_release(&mut self) {
        if self.leases.is_empty() {
            return;
        }
        let at = self.random.random_range(0..self.leases.len());
        let until = self.until();
        let lease = &mut self.leases[at];
        if lease.deadline > self.now {
            lease.content.check_span(&lease.bytes, "a leased object");
        }
        let end = self.store.lease_end(self.now, lease.lease, lease.session);
        assert!(end == Ok(lease.deadline) || lease.deadline <= self.now, "{end:?}");
        match self.random.random_range(0..4) {
            0 => match self.store.renew(self.now, lease.lease, lease.session, until) {
                Ok(end) => {
                    assert!(lease.deadline > self.now && end == until.max(lease.deadline));
                    lease.deadline = end;
                }
                Err(error) => assert!(error == StoreError::NoLease && lease.deadline <= self.now),
            },
            1 => match self.store.read_leased(self.now, lease.lease, lease.session) {
                Ok(guard) => {
                    assert!(lease.deadline > self.now);
                    lease.content.check(guard.bytes(), "an object read by its lease");
                    self.reading.push((guard, lease.content));
                }
                Err(error) => assert!(error == StoreError::NoLease && lease.deadline <= self.now),
            },
            _ => {
                let released = self.store.release(lease.lease, lease.session);
                assert!(released || lease.deadline <= self.now, "what is held can be released");
                self.leases.swap_remove(at);
            }
        }
    }

    pub(crate) fn lookup(&mut self) {
        let client = self.client();
        let keys: Vec<[u8; 1]> = (0..self.random.random_range(1..8)).map(|_| [self.key()]).collect();
        let lease = self.random.random_ratio(1, 2).then(|| (self.until(), self.clients[client].session));
        let graced_before = self.graced_bytes(&keys);
        let found = match self.store.lookup(self.now, |n| keys.get(n).map(|key| &key[..]), lease) {
            Ok(found) => found,
            Err(StoreError::Quota { .. }) if lease.is_some() => {
                self.counts.quota += 1;
                for &[key] in &keys {
                    if let Some(object) = self.model.get(self.now, key) {
                        object.read();
                    }
                }
                return;
            }
            Err(error) => panic!("{error}"),
        };
        let present = &keys[..found.prefix];
        if lease.is_some() && found.on_flash > 0 {
            assert!(found.leases.is_empty() && found.flash.len() <= found.on_flash);
            for read in found.flash {
                let key = read.key[0];
                assert!(present.contains(&[key]));
                self.found_on_flash(key, read);
                self.model.get(self.now, key).expect("compared").read();
            }
            return;
        }
        let mut bytes = 0;
        for &[key] in present {
            bytes += self.model.get(self.now, key).expect("only what was written is present").content.length as u64;
        }
        assert_eq!(found.bytes, bytes);
        if let Some(&[key]) = keys.get(found.prefix) {
            self.absent(key);
        }
        if lease.is_some() {
            assert_eq!(found.leases.len(), found.prefix);
            for (&[key], leased) in present.iter().zip(&found.leases) {
                self.leased(key, client, leased);
            }
        } else {
            assert!(found.leases.is_empty());
            let graced = self.graced_bytes(&[]) - graced_before;
            self.graced(present, graced);
        }
    }

    /// Bytes graced, once what has expired of these keys is gone.
    pub(crate) fn graced_bytes(&self, keys: &[[u8; 1]]) -> u64 {
        for key in keys {
            self.store.contains(self.now, key);
        }
        let sum = self.store.accounting();
        sum.graced + sum.flash_graced
    }

    /// Notes graces of keys just probed, where the bytes say for certain that each got one.
    pub(crate) fn graced(&mut self, keys: &[[u8; 1]], bytes: u64) {
        let mut fresh: Vec<u8> = keys.iter().map(|&[key]| key).collect();
        fresh.sort_unstable();
        fresh.dedup();
        let now = self.now;
        fresh.retain(|&key| self.model.get(now, key).is_some_and(|object| !object.grace_spent));
        let charge = |world: &Self, key| {
            let stat = world.store.stat(now, &[key]).expect("just probed");
            match stat.dram {
                Some(_) => stat.charge.get(),
                None => stat.length.get().next_multiple_of(4096) + 4096,
            }
        };
        let all: u64 = fresh.iter().map(|&key| charge(self, key)).sum();
        assert!(bytes <= all, "a grace is given once between two reads");
        if bytes == all {
            for key in fresh {
                let object = self.model.get(now, key).expect("just probed");
                (object.graced_until, object.grace_spent) = (Some(now + PROBE_GRACE), true);
            }
        } else {
            // Some got one: from now on it is not known which.
            for key in fresh {
                self.model.get(now, key).expect("just probed").grace_spent = false;
            }
        }
    }

    pub(crate) fn probe(&mut self) {
        let key = self.key();
        let before = self.graced_bytes(&[[key]]);
        if self.store.probe(self.now, &[key]) {
            assert!(self.model.get(self.now, key).is_some(), "key {key} came back from the dead");
            let graced = self.graced_bytes(&[]) - before;
            self.graced(&[[key]], graced);
        } else {
            self.absent(key);
        }
    }
}
