//! What may happen in one step.

use crate::content::Content;
use crate::model::Object;
use crate::world::{Applying, Arriving, COMMIT_MEMORY, DEADLINE_MAX, Grant, Lease, PROBE_GRACE, State, World};
use protocol::base::{ByteLen, Crc, Instant, Millis, SegmentId, copy_into, crc_of};
use rand::Rng as _;
use rand::seq::IndexedRandom as _;
use storage::{Condition, Found, GrantTerms, Leased, Seal, StoreError, Terms, Ttl};
use transport::{Access, Span, Transport as _};

impl World {
    /// One random thing happens, then some time passes.
    pub(crate) fn step(&mut self) {
        self.counts.steps += 1;
        match self.random.random_range(0..100) {
            0..12 => self.set(),
            12..17 => self.reserve(),
            17..22 => self.arrive(),
            22..32 => self.grant(),
            32..44 => self.send(),
            44..47 => self.apply(),
            47..54 => self.seal(),
            54..60 => self.finish(),
            60..62 => self.abort(),
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
    fn until_next_end(&mut self) -> u64 {
        let leases = self.leases.iter().map(|lease| lease.deadline);
        let grants = self.grants.iter().map(|grant| grant.granted.deadline);
        let objects = self.model.ends();
        let next = leases.chain(grants).chain(objects).filter(|&end| end > self.now).min();
        let left = next.map_or(0, |end| end.left_at(self.now).0);
        left.saturating_sub(self.random.random_range(0..2))
    }

    fn key(&mut self) -> u8 {
        // A few keys are asked for more often than others.
        self.random.random_range(0..self.keys).min(self.random.random_range(0..self.keys))
    }

    fn content(&mut self) -> Content {
        self.versions += 1;
        let length = match self.random.random_range(0..4) {
            0 => self.random.random_range(0..200),
            1 => self.random.random_range(0..16_500),
            _ => self.random.random_range(0..self.len_max),
        };
        Content { version: self.versions, length }
    }

    fn terms(&mut self) -> Terms {
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

    fn client(&mut self) -> usize {
        self.random.random_range(0..self.clients.len())
    }

    fn set(&mut self) {
        let (key, content, terms, client) = (self.key(), self.content(), self.terms(), self.client());
        if self.random.random_ratio(1, 4) {
            self.peek(key);
        }
        self.look_before(key, &terms);
        match self.store.set(self.now, &[key], &content.bytes(), &self.clients[client].account, &terms) {
            Ok(generation) => {
                self.model.note_generation(generation);
                self.published(key, content, generation, &terms);
                self.get(key);
            }
            Err(error) => self.refused(key, &error),
        }
    }

    /// Whether an expiry is kept depends on whether the store still has the object.
    fn look_before(&mut self, key: u8, terms: &Terms) {
        if terms.keep_ttl && !self.store.contains(self.now, &[key]) {
            self.absent(key);
        }
    }

    fn reserve(&mut self) {
        let (key, content, terms, client) = (self.key(), self.content(), self.terms(), self.client());
        match self.store.reserve(self.now, &[key], content.length as u64, &self.clients[client].account) {
            Ok(reservation) => {
                let charge = self.store.charge_of(content.length as u64, 1);
                self.arriving.push(Arriving { client, key, content, reservation, terms, charge });
            }
            Err(error) => self.refused(key, &error),
        }
    }

    fn arrive(&mut self) {
        if self.arriving.is_empty() {
            return;
        }
        let at = self.random.random_range(0..self.arriving.len());
        let Arriving { key, content, mut reservation, terms, .. } = self.arriving.swap_remove(at);
        assert_eq!(reservation.key(), &[key]);
        if self.random.random_ratio(1, 5) {
            return;
        }
        reservation.bytes_mut().copy_from_slice(&content.bytes());
        self.look_before(key, &terms);
        match reservation.publish(self.now, content.crc(), &terms) {
            Ok(committed) => {
                self.model.note_generation(committed.generation);
                assert_eq!(committed.length, ByteLen(content.length as u64));
                self.published(key, content, committed.generation, &terms);
            }
            Err(error) => self.refused(key, &error),
        }
    }

    fn grant(&mut self) {
        let (key, content, terms, client) = (self.key(), self.content(), self.terms(), self.client());
        let session = self.clients[client].session;
        let exposed = self.random.random_ratio(2, 3);
        let deadline = self.now + Millis(self.random.random_range(1..=DEADLINE_MAX.0));
        let asked = GrantTerms { session, deadline, exposed, terms: terms.clone() };
        let length = content.length as u64;
        let granted = match self.store.grant(self.now, &[key], length, &self.clients[client].account, asked) {
            Ok(granted) => granted,
            Err(error) => return self.refused(key, &error),
        };
        self.model.note_generation(granted.generation);
        let window = exposed.then(|| {
            let span = Span { segment: granted.segment, offset: granted.offset, length };
            self.network.open(session, Access::Write, span).expect("the session is open").id
        });
        let charge = self.store.charge_of(length, 1);
        self.grants.push(Grant {
            client,
            session,
            key,
            granted,
            content,
            terms,
            charge,
            window,
            sent: 0,
            state: State::Open,
            fencing: false,
        });
    }

    /// A client sends the next piece of something, by the window it was given or through the server. Rarely it scribbles,
    /// and it does not care whether its grant has ended.
    fn send(&mut self) {
        if self.grants.is_empty() {
            return;
        }
        let at = self.random.random_range(0..self.grants.len());
        let grant = &mut self.grants[at];
        let scribbles = self.random.random_ratio(1, 60);
        let bytes = grant.content.bytes();
        let from = if scribbles { self.random.random_range(0..=bytes.len()) } else { grant.sent };
        let most = self.random.random_range(0..=bytes.len().max(1) * 2);
        let to = bytes.len().min(from + most);
        let mut piece = bytes[from..to].to_vec();
        if scribbles {
            piece.iter_mut().for_each(|byte| *byte ^= 0x55);
        } else {
            grant.sent = to;
        }
        match grant.window {
            // Refused once the window is revoked.
            Some(window) => drop(self.network.write(grant.session, window, from as u64, piece)),
            None => {
                let length = piece.len() as u64;
                match self.store.write(self.now, grant.granted.grant, grant.session, from as u64, length) {
                    Ok(guard) => {
                        assert!(matches!(grant.state, State::Open), "only an open grant is written");
                        assert!(grant.granted.deadline > self.now, "and in time");
                        self.applying.push(Applying { grant: grant.granted, guard, bytes: piece });
                    }
                    Err(StoreError::NoGrant) => {
                        let over = grant.granted.deadline <= self.now || !matches!(grant.state, State::Open);
                        assert!(over, "an open grant can be written");
                    }
                    Err(StoreError::Busy) => grant.sent = from,
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }

    fn apply(&mut self) {
        let most = self.random.random_range(0..=self.applying.len());
        for _ in 0..most {
            let at = self.random.random_range(0..self.applying.len());
            let mut write = self.applying.swap_remove(at);
            if self.random.random_ratio(1, 2) {
                write.guard.bytes_mut().copy_from_slice(&write.bytes);
            } else {
                copy_into(&write.bytes, write.guard.span());
            }
        }
        self.forget_ended();
    }

    fn seal(&mut self) {
        if self.grants.is_empty() {
            return;
        }
        let at = self.random.random_range(0..self.grants.len());
        // Most clients commit when they have sent all.
        if self.grants[at].sent < self.grants[at].content.length && self.random.random_ratio(2, 3) {
            return;
        }
        let grant = &mut self.grants[at];
        let length = match self.random.random_range(0..6) {
            0 => Some(self.random.random_range(0..=grant.content.length)),
            1 => Some(grant.content.length),
            _ => None,
        };
        let asked = length.map(|length| length as u64);
        match self.store.seal(self.now, grant.granted.grant, grant.session, asked) {
            Ok(Seal::Begun(guard)) => {
                assert!(matches!(grant.state, State::Open), "sealed once");
                let content = Content { length: length.unwrap_or(grant.content.length), ..grant.content };
                assert_eq!((guard.span().len(), guard.exposed()), (content.length, grant.window.is_some()));
                grant.state = State::Sealing(guard, content);
            }
            Ok(Seal::Done(_)) => panic!("a grant that was not published"),
            Err(StoreError::NoGrant) => {
                assert!(grant.granted.deadline <= self.now || matches!(grant.state, State::Ended));
            }
            Err(StoreError::Busy) => {
                let writing = self.applying.iter().any(|write| write.grant.grant == grant.granted.grant);
                assert!(writing || matches!(grant.state, State::Sealing(..)), "busy with nothing");
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn finish(&mut self) {
        let sealing: Vec<usize> =
            (0..self.grants.len()).filter(|&at| matches!(self.grants[at].state, State::Sealing(..))).collect();
        let Some(&at) = sealing.choose(&mut self.random) else { return };
        let gives_up = self.random.random_ratio(1, 10);
        let wrong = self.random.random_ratio(1, 10);
        let State::Sealing(guard, content) = std::mem::replace(&mut self.grants[at].state, State::Ended) else {
            unreachable!("chosen for it")
        };
        if gives_up {
            drop(guard);
            return;
        }
        if guard.exposed() {
            // The fence is pending.
            self.grants[at].state = State::Sealing(guard, content);
            return;
        }
        let grant = self.grants.swap_remove(at);
        let actual = crc_of(guard.span());
        let claimed = if wrong { Crc(content.crc().0 ^ 1) } else { content.crc() };
        self.look_before(grant.key, &grant.terms);
        match guard.finish(self.now, claimed, actual) {
            Ok(committed) => {
                assert_eq!(committed.generation, grant.granted.generation);
                assert_eq!((&committed.key[..], committed.length), (&[grant.key][..], ByteLen(content.length as u64)));
                self.published(grant.key, content, committed.generation, &grant.terms);
                self.committed.push((self.now + COMMIT_MEMORY, grant.session, grant.granted.grant, committed));
                self.get(grant.key);
            }
            Err(StoreError::Crc { .. }) => {
                assert_ne!(claimed, actual);
                self.counts.crc_refused += 1;
            }
            Err(error) => {
                assert_eq!(claimed, actual, "a wrong payload is refused for that");
                self.refused(grant.key, &error);
            }
        }
    }

    fn abort(&mut self) {
        if self.grants.is_empty() {
            return;
        }
        let at = self.random.random_range(0..self.grants.len());
        let grant = &mut self.grants[at];
        let aborted = self.store.abort(grant.granted.grant, grant.session);
        assert_eq!(aborted, matches!(grant.state, State::Open), "an open grant can be aborted, no other");
        if aborted {
            grant.state = State::Ended;
        }
    }

    /// Reads a key in band and compares.
    pub(crate) fn get(&mut self, key: u8) {
        let depth = self.random.random_ratio(1, 3).then(|| self.random.random_range(0..10));
        match self.store.read(self.now, &[key], depth, <[u8]>::to_vec).expect("few readers") {
            None => self.absent(key),
            Some(found) => {
                self.found(key, found);
                self.model.get(self.now, key).expect("compared").read();
            }
        }
    }

    fn peek(&mut self, key: u8) {
        match self.store.peek(self.now, &[key]) {
            None => self.absent(key),
            Some(found) => self.found(key, found),
        }
    }

    fn found(&mut self, key: u8, found: Found) {
        match found {
            Found::Small(bytes) => self.compare(key, None, None, &bytes),
            Found::Large(guard) => {
                self.compare(key, Some(guard.generation()), Some(guard.crc()), guard.bytes());
                if self.random.random_ratio(1, 4) {
                    let content = self.model.get(self.now, key).expect("compared").content;
                    self.reading.push((guard, content));
                }
            }
        }
    }

    fn leased(&mut self, key: u8, client: usize, leased: &Leased) {
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

    fn until(&mut self) -> Instant {
        self.now + Millis(self.random.random_range(1..=DEADLINE_MAX.0))
    }

    fn lease(&mut self) {
        let (key, client, until) = (self.key(), self.client(), self.until());
        match self.store.lease(self.now, &[key], until, self.clients[client].session, None).expect("few users") {
            None => self.absent(key),
            Some(leased) => self.leased(key, client, &leased),
        }
    }

    fn renew_or_release(&mut self) {
        if self.leases.is_empty() {
            return;
        }
        let at = self.random.random_range(0..self.leases.len());
        let until = self.until();
        let lease = &mut self.leases[at];
        if lease.deadline > self.now {
            lease.content.check_span(&lease.bytes, "a leased object");
        }
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

    fn lookup(&mut self) {
        let client = self.client();
        let keys: Vec<[u8; 1]> = (0..self.random.random_range(1..8)).map(|_| [self.key()]).collect();
        let lease = self.random.random_ratio(1, 2).then(|| (self.until(), self.clients[client].session));
        let graced_before = self.graced_bytes(&keys);
        let found = self.store.lookup(self.now, |n| keys.get(n).map(|key| &key[..]), lease).expect("few users");
        let present = &keys[..found.prefix];
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
            let graced = self.store.accounting().graced - graced_before;
            self.graced(present, graced);
        }
    }

    /// Bytes graced, once what has expired of these keys is gone.
    fn graced_bytes(&self, keys: &[[u8; 1]]) -> u64 {
        for key in keys {
            self.store.contains(self.now, key);
        }
        self.store.accounting().graced
    }

    /// Notes graces of keys just probed, where the bytes say for certain that each got one.
    fn graced(&mut self, keys: &[[u8; 1]], bytes: u64) {
        let mut fresh: Vec<u8> = keys.iter().map(|&[key]| key).collect();
        fresh.sort_unstable();
        fresh.dedup();
        let now = self.now;
        fresh.retain(|&key| self.model.get(now, key).is_some_and(|object| !object.grace_spent));
        let charge = |world: &Self, key| world.store.stat(now, &[key]).expect("just probed").charge.get();
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

    fn probe(&mut self) {
        let key = self.key();
        let before = self.graced_bytes(&[[key]]);
        if self.store.probe(self.now, &[key]) {
            assert!(self.model.get(self.now, key).is_some(), "key {key} came back from the dead");
            let graced = self.store.accounting().graced - before;
            self.graced(&[[key]], graced);
        } else {
            self.absent(key);
        }
    }

    fn pin(&mut self) {
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

    fn pin_once_or_more(&mut self, key: u8, until: Option<Instant>) {
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

    fn expire(&mut self) {
        let key = self.key();
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

    fn remove(&mut self) {
        if self.random.random_ratio(1, 20) {
            self.store.clear();
            self.model.clear();
            return;
        }
        let key = self.key();
        if self.store.remove(self.now, &[key]) {
            assert!(self.model.get(self.now, key).is_some(), "only what was written is removed");
            self.model.remove(key);
        } else {
            self.absent(key);
        }
    }

    fn repeat_commit(&mut self) {
        self.committed.retain(|&(until, ..)| until > self.now);
        let Some((_, session, grant, committed)) = self.committed.choose(&mut self.random) else { return };
        match self.store.seal(self.now, *grant, *session, None) {
            Ok(Seal::Done(again)) => assert_eq!(again, *committed),
            other => panic!("the answer to a commit is remembered: {other:?}"),
        }
        assert!(!self.store.abort(*grant, *session), "what is published cannot be aborted");
        self.counts.repeated += 1;
    }

    fn stat(&mut self) {
        let key = self.key();
        let now = self.now;
        let Some(stat) = self.store.stat(now, &[key]) else { return self.absent(key) };
        let object: &Object = self.model.get(now, key).expect("only what was written lives");
        assert_eq!((stat.generation, stat.expires), (object.generation, object.expires));
        assert_eq!((stat.length, stat.crc), (ByteLen(object.content.length as u64), object.content.crc()));
        assert!(stat.pins >= object.pins(now));
        assert!(stat.offset + stat.length.get() <= self.segments[segment_index(stat.segment)].len() as u64);
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

    fn administer(&mut self) {
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

    fn drop_guards(&mut self) {
        let most = self.random.random_range(0..=self.reading.len());
        for _ in 0..most {
            let at = self.random.random_range(0..self.reading.len());
            let (guard, content) = self.reading.swap_remove(at);
            content.check(guard.bytes(), "a guarded object when its reader leaves");
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
