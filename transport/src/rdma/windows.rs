//! Memory windows to be bound, and how long their keys rest.
//!
//! Invariants:
//! - A window has 256 keys, which come round. After each round it rests, so that no key is given out again within
//!   [`KEY_REST`] of the moment when it was last valid.
//! - Windows are used in turn, the one that was free longest first, and never more are made than the device has.

use super::verbs::{Domain, MemoryWindow};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time before a key is given out again.
pub const KEY_REST: Duration = Duration::from_secs(600);
/// Bindings of a window before it rests: one for each key.
const ROUND: u32 = 256;

/// Keys of one window, in order.
#[derive(Debug, Clone, Copy)]
pub struct Keys {
    last: u32,
    used: u32,
}

impl Keys {
    fn first(key: u32) -> Self {
        Self { last: key, used: 0 }
    }

    fn next(&mut self) -> u32 {
        self.last = MemoryWindow::next_key(self.last);
        self.used += 1;
        self.last
    }
}

/// A window and its keys.
#[derive(Debug)]
pub struct Keyed<W> {
    /// The window.
    pub window: W,
    keys: Keys,
}

impl<W> Keyed<W> {
    /// The window, and its keys until it is [given back](WindowPool::give_back).
    pub fn split(self) -> (W, Keyed<()>) {
        (self.window, Keyed { window: (), keys: self.keys })
    }

    /// The key of its next binding.
    pub fn next_key(&mut self) -> u32 {
        self.keys.next()
    }
}

impl Keyed<()> {
    /// The window again.
    pub fn join<W>(self, window: W) -> Keyed<W> {
        Keyed { window, keys: self.keys }
    }
}

#[derive(Debug)]
struct Inner<W> {
    free: VecDeque<Keyed<W>>,
    /// By the end of their rest.
    resting: VecDeque<(Instant, Keyed<W>)>,
    made: u32,
}

/// See the module's text.
#[derive(Debug)]
pub struct WindowPool<W> {
    inner: Mutex<Inner<W>>,
    most: u32,
}

impl<W> WindowPool<W> {
    /// One that makes at most `most`.
    pub fn new(most: u32) -> Self {
        Self { inner: Mutex::new(Inner { free: VecDeque::new(), resting: VecDeque::new(), made: 0 }), most }
    }

    /// Windows there are.
    pub fn made(&self) -> u32 {
        self.inner.lock().made
    }

    /// One to be bound, or `None` if all are bound or rest.
    ///
    /// # Errors
    /// If one more could not be made.
    pub fn take(&self, now: Instant, make: impl FnOnce() -> io::Result<(W, u32)>) -> io::Result<Option<Keyed<W>>> {
        let mut inner = self.inner.lock();
        while inner.resting.front().is_some_and(|(until, _)| *until <= now) {
            let (_, mut rested) = inner.resting.pop_front().expect("looked at above");
            rested.keys.used = 0;
            inner.free.push_back(rested);
        }
        if let Some(window) = inner.free.pop_front() {
            return Ok(Some(window));
        }
        if inner.made == self.most {
            return Ok(None);
        }
        inner.made += 1;
        drop(inner);
        match make() {
            Ok((window, first_key)) => Ok(Some(Keyed { window, keys: Keys::first(first_key) })),
            Err(error) => {
                self.inner.lock().made -= 1;
                Err(error)
            }
        }
    }

    /// A window is bound to nothing any more.
    pub fn give_back(&self, now: Instant, window: Keyed<W>) {
        let mut inner = self.inner.lock();
        if window.keys.used < ROUND {
            inner.free.push_back(window);
        } else {
            inner.resting.push_back((now + KEY_REST, window));
        }
    }

    /// A window is no more.
    pub fn forget(&self) {
        self.inner.lock().made -= 1;
    }
}

impl WindowPool<MemoryWindow> {
    /// As [`take`](Self::take), of a domain.
    ///
    /// # Errors
    /// If the device has no more.
    pub fn take_of(&self, domain: &Arc<Domain>) -> io::Result<Option<Keyed<MemoryWindow>>> {
        self.take(Instant::now(), || {
            let window = MemoryWindow::new(domain)?;
            let key = window.first_key();
            Ok((window, key))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    /// Many bindings, each held for a while: no key within its rest.
    #[test]
    fn no_key_comes_again_before_it_has_rested() {
        let pool = WindowPool::new(5);
        let mut made = 0;
        let start = Instant::now();
        let mut valid_until: HashMap<u32, Instant> = HashMap::new();
        let (mut bound, mut refused) = (0, 0);
        for step in 0..20_000u64 {
            let now = start + Duration::from_millis(step * 100);
            let taken = pool.take(now, || {
                made += 1;
                Ok(((), made << 8))
            });
            let Some(mut window) = taken.expect("made") else {
                refused += 1;
                continue;
            };
            let key = window.next_key();
            if let Some(last) = valid_until.get(&key) {
                assert!(*last + KEY_REST <= now, "key {key:#x} after {:?}", now - *last);
            }
            let back = now + Duration::from_millis(50);
            valid_until.insert(key, back);
            pool.give_back(back, window);
            bound += 1;
        }
        assert_eq!(pool.made(), 5);
        assert!(bound >= 5 * 256 * 3, "only {bound} bindings in 2,000 s");
        assert!(refused > 0, "the pool was never exhausted, so nothing was tried");
    }

    #[test]
    fn windows_are_made_up_to_the_limit_and_after_one_is_gone() {
        let pool = WindowPool::new(1);
        let now = Instant::now();
        assert!(pool.take(now, || Err(io::ErrorKind::OutOfMemory.into())).is_err());
        let _window = pool.take(now, || Ok(((), 0))).expect("made").expect("one");
        assert!(pool.take(now, || Ok(((), 0))).expect("no error").is_none());
        pool.forget();
        assert!(pool.take(now, || Ok(((), 0))).expect("made").is_some());
    }
}
