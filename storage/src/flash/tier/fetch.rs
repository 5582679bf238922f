//! Reads of objects: one for all who want the same, into DRAM when it is worth it, and of what comes next in a chain.
//!
//! Invariants:
//! - At most one read of a generation is under way; who asks meanwhile shares its outcome.
//! - The number of reads under way and the bytes of those that go past DRAM are bounded.

use super::{Fetched, FlashError, Inner, Tier};
use crate::flash::log::{Filled, ReadJob, Target, Verdict};
use crate::slot::Account;
use crate::store::flash::FlashRead;
use parking_lot::Mutex;
use protocol::base::{Generation, Instant};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// A value of up to this length that is not to be kept goes past DRAM.
const OWN_LEN_MAX: u64 = 16 << 10;
/// Bytes of reads past DRAM because there was no room in it.
const OVERFLOW_MAX: u64 = 64 << 20;
/// Successors of a chain that are read ahead.
const AHEAD: usize = 4;
/// Links of chains that are remembered.
const LINKS_MAX: usize = 64 << 10;

type Answer = Result<Option<Fetched>, FlashError>;

/// One read under way.
#[derive(Default)]
struct Flight {
    promote: bool,
    waiters: Vec<oneshot::Sender<Answer>>,
}

/// See the module's text.
#[derive(Default)]
pub(super) struct Fetches {
    flights: Mutex<HashMap<Generation, Flight>>,
    overflow: AtomicU64,
    prefetching: AtomicU64,
    links: Mutex<Links>,
}

/// Which key follows which.
#[derive(Default)]
struct Links {
    next: HashMap<Box<[u8]>, Box<[u8]>>,
    order: VecDeque<Box<[u8]>>,
}

/// Bytes counted somewhere until it is dropped.
struct Charge {
    tier: Arc<Inner>,
    bytes: u64,
    of: fn(&Fetches) -> &AtomicU64,
}

impl Charge {
    /// `None` if that were more than `bytes_max` in all.
    fn take(tier: &Arc<Inner>, of: fn(&Fetches) -> &AtomicU64, bytes: u64, bytes_max: u64) -> Option<Self> {
        let before = of(&tier.fetches).fetch_add(bytes, Ordering::Relaxed);
        let charge = Self { tier: Arc::clone(tier), bytes, of };
        (before + bytes <= bytes_max || before == 0).then_some(charge)
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        (self.of)(&self.tier.fetches).fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Tier {
    pub(super) async fn fetch_one(&self, now: Instant, read: FlashRead, account: &Arc<Account>) -> Answer {
        let (key, promote, slot) = (read.key.clone(), read.promote, read.place.slot);
        let answer = match self.join(&read) {
            Some(answer) => answer,
            None => {
                let permits = Arc::clone(&self.0.reads);
                let permit = permits.acquire_owned().await.map_err(|_| FlashError::Closed)?;
                self.begin(now, read, account, Some(permit))?
            }
        };
        let fetched = answer.await.unwrap_or(Err(FlashError::Closed))?;
        if fetched.is_some() {
            if let Some(device) = self.0.device_of(slot) {
                device.figures.hits.fetch_add(1, Ordering::Relaxed);
            }
            if promote {
                self.read_ahead(now, &key);
            }
        }
        Ok(fetched)
    }

    /// Waits for a read that is under way, if one is.
    fn join(&self, read: &FlashRead) -> Option<oneshot::Receiver<Answer>> {
        let mut flights = self.0.fetches.flights.lock();
        let flight = flights.get_mut(&read.generation)?;
        flight.promote |= read.promote;
        let (tell, told) = oneshot::channel();
        flight.waiters.push(tell);
        Some(told)
    }

    /// Hands a read to its device; its outcome.
    fn begin(
        &self,
        now: Instant,
        read: FlashRead,
        account: &Arc<Account>,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<oneshot::Receiver<Answer>, FlashError> {
        let (tell, told) = oneshot::channel();
        let Some(device) = self.0.device_of(read.place.slot) else {
            // Its device was let go.
            self.0.store.drop_record(&read.key, read.generation, read.place);
            let _ = tell.send(Ok(None));
            return Ok(told);
        };
        if device.figures.why_off().is_some() {
            let _ = tell.send(Ok(None));
            return Ok(told);
        }
        let inner = &self.0;
        let (target, charge) = if read.length <= OWN_LEN_MAX && !read.promote {
            (Target::Own, None)
        } else {
            match inner.store.promote(now, &read, account) {
                Ok(promotion) => (Target::Slot(promotion), None),
                Err(error) => match Charge::take(inner, |fetches| &fetches.overflow, read.length, OVERFLOW_MAX) {
                    Some(charge) => (Target::Own, Some(charge)),
                    None => return Err(error.into()),
                },
            }
        };
        {
            // Somebody may have begun the same meanwhile.
            let mut flights = inner.fetches.flights.lock();
            let known = flights.contains_key(&read.generation);
            let flight = flights.entry(read.generation).or_default();
            flight.promote |= read.promote;
            flight.waiters.push(tell);
            if known {
                return Ok(told);
            }
        }
        self.send(&device, read, target, (permit, charge));
        Ok(told)
    }

    fn send(
        &self,
        device: &crate::flash::device::Device,
        read: FlashRead,
        target: Target,
        held: (Option<OwnedSemaphorePermit>, Option<Charge>),
    ) {
        let inner = Arc::clone(&self.0);
        let generation = read.generation;
        let answer = Box::new(move |verdict| {
            inner.landed(generation, verdict);
            drop(held);
        });
        device.read(ReadJob { read, target, answer });
    }

    pub(super) fn prefetch_all(&self, now: Instant, reads: Vec<FlashRead>) {
        let bytes_max = self.0.config.prefetch_bytes_in_flight.get();
        for read in reads {
            if self.0.fetches.flights.lock().contains_key(&read.generation) {
                continue;
            }
            let Some(device) = self.0.device_of(read.place.slot).filter(|device| device.is_on()) else { continue };
            let Some(charge) = Charge::take(&self.0, |fetches| &fetches.prefetching, read.length, bytes_max) else {
                return;
            };
            let Ok(permit) = Arc::clone(&self.0.reads).try_acquire_owned() else { return };
            let Ok(promotion) = self.0.store.promote(now, &read, &self.0.account) else { return };
            {
                let mut flights = self.0.fetches.flights.lock();
                if flights.contains_key(&read.generation) {
                    continue;
                }
                flights.insert(read.generation, Flight { promote: true, waiters: Vec::new() });
            }
            self.send(&device, read, Target::Slot(promotion), (Some(permit), Some(charge)));
        }
    }

    /// Reads what follows a key in its chain, as far as that is known.
    fn read_ahead(&self, now: Instant, key: &[u8]) {
        let mut reads = Vec::new();
        {
            let links = self.0.fetches.links.lock();
            let mut at = key;
            for _ in 0..AHEAD {
                let Some(next) = links.next.get(at) else { break };
                reads.extend(self.0.store.flash_prefetch(now, next));
                at = next;
            }
        }
        if !reads.is_empty() {
            self.prefetch_all(now, reads);
        }
    }

    pub(super) fn learn<'a>(&self, keys: impl Iterator<Item = &'a [u8]>) {
        // A hint: not worth waiting for.
        let Some(mut links) = self.0.fetches.links.try_lock() else { return };
        let mut before: Option<&[u8]> = None;
        for key in keys {
            if let Some(before) = before
                && links.next.get(before).is_none_or(|next| **next != *key)
            {
                if links.next.insert(before.into(), key.into()).is_none() {
                    links.order.push_back(before.into());
                }
                if links.order.len() > LINKS_MAX
                    && let Some(oldest) = links.order.pop_front()
                {
                    links.next.remove(&oldest);
                }
            }
            before = Some(key);
        }
    }
}

impl Inner {
    /// A read is over: everybody who waits gets the same.
    fn landed(&self, generation: Generation, verdict: Verdict) {
        let Some(Flight { promote, mut waiters }) = self.fetches.flights.lock().remove(&generation) else { return };
        let fetched = match verdict {
            Verdict::Missed => None,
            Verdict::Verified(Filled::Own(bytes)) => Some(Fetched::Small(bytes)),
            Verdict::Verified(Filled::Slot(promotion)) => {
                let guard = if promote || waiters.len() > 1 {
                    promotion.publish(self.clock.now()).unwrap_or_else(|promotion| promotion.anonymous())
                } else {
                    promotion.anonymous()
                };
                Some(Fetched::Guard(guard))
            }
        };
        let last = waiters.pop();
        for waiter in waiters {
            let shared = fetched.as_ref().map(|fetched| match fetched {
                Fetched::Small(bytes) => Fetched::Small(bytes.clone()),
                Fetched::Guard(guard) => {
                    guard.again().map_or_else(|| Fetched::Small(guard.bytes().to_vec()), Fetched::Guard)
                }
            });
            let _ = waiter.send(Ok(shared));
        }
        if let Some(last) = last {
            let _ = last.send(Ok(fetched));
        }
    }
}
