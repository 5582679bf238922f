//! Writing: in band, by reservation, and by grant.

use crate::content::Content;
use crate::world::{Applying, Arriving, COMMIT_MEMORY, DEADLINE_MAX, Grant, State, World};
use protocol::base::{ByteLen, Crc, Millis, copy_into, crc_of};
use rand::Rng as _;
use rand::seq::IndexedRandom as _;
use storage::{GRANT_SPAN_MAX, GrantTerms, Seal, StoreError, Terms};
use transport::{Access, Span, Transport as _};

impl World {
    pub(crate) fn set(&mut self) {
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
    pub(crate) fn look_before(&mut self, key: u8, terms: &Terms) {
        if terms.keep_ttl && !self.store.contains(self.now, &[key]) {
            self.absent(key);
        }
    }

    pub(crate) fn reserve(&mut self) {
        let (key, content, terms, client) = (self.key(), self.content(), self.terms(), self.client());
        match self.store.reserve(self.now, &[key], content.length as u64, &self.clients[client].account) {
            Ok(reservation) => {
                let charge = self.store.charge_of(content.length as u64, 1);
                self.arriving.push(Arriving { client, key, content, reservation, terms, charge });
            }
            Err(error) => self.refused(key, &error),
        }
    }

    pub(crate) fn arrive(&mut self) {
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

    pub(crate) fn grant(&mut self) {
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
            reserved: self.now,
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
    pub(crate) fn send(&mut self) {
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

    pub(crate) fn apply(&mut self) {
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

    pub(crate) fn seal(&mut self) {
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

    pub(crate) fn finish(&mut self) {
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

    /// As far as grants last, and some ask for more.
    pub(crate) fn renew_grant(&mut self) {
        if self.grants.is_empty() {
            return;
        }
        let at = self.random.random_range(0..self.grants.len());
        let longest = if self.random.random_ratio(1, 8) { GRANT_SPAN_MAX.0 + 10_000 } else { DEADLINE_MAX.0 };
        let until = self.now + Millis(self.random.random_range(1..=longest));
        let grant = &mut self.grants[at];
        let is_over = grant.granted.deadline <= self.now;
        match self.store.renew_grant(self.now, grant.granted.grant, grant.session, until) {
            Ok(end) => {
                assert!(!is_over && matches!(grant.state, State::Open), "an open grant is renewed, no other");
                assert_eq!(end, until.min(grant.reserved + GRANT_SPAN_MAX).max(grant.granted.deadline));
                grant.granted.deadline = end;
            }
            Err(StoreError::Busy) => assert!(matches!(grant.state, State::Sealing(..)), "busy with nothing"),
            Err(error) => {
                assert_eq!(error, StoreError::NoGrant);
                assert!(is_over || !matches!(grant.state, State::Open), "an open grant can be renewed");
            }
        }
    }

    pub(crate) fn abort(&mut self) {
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
}
