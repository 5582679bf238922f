//! Registered memory, and windows on parts of it.

use super::{Domain, destroyed};
use ibverbs_sys as sys;
use ibverbs_sys::ibv_access_flags as flags;
use parking_lot::{Mutex, MutexGuard};
use protocol::base::{ByteLen, StableMemory};
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

/// Memory to be registered: pages of this process alone.
#[derive(Debug)]
pub struct Pages(memmap2::MmapRaw);

impl Pages {
    /// `len` bytes, zero.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn new(len: usize) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self(memmap2::MmapMut::map_anon(len)?.into())))
    }
}

// SAFETY: the mapping is made once, readable and writable, and ends with the value; a raw mapping hands out no `&mut`.
unsafe impl StableMemory for Pages {
    fn base(&self) -> *mut u8 {
        self.0.as_mut_ptr()
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

/// Where bytes lie on the other side, and the key to them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Remote {
    /// Address there.
    pub addr: u64,
    /// The key.
    pub rkey: u32,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Remote(..)")
    }
}

/// Why memory was not registered: where the limit of locked memory may be in the way, it is named, with what to do.
fn refusal(error: io::Error, len: usize) -> io::Error {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
    match limit {
        Some(limit) if matches!(error.kind(), io::ErrorKind::OutOfMemory | io::ErrorKind::WouldBlock) => {
            let (len, limit) = (ByteLen(len as u64), ByteLen(limit));
            let text = format!(
                "{len} are to be registered, and this process may lock {limit} in all: raise the limit of locked memory \
                 (`ulimit -l unlimited`, LimitMEMLOCK=infinity in a systemd unit, --ulimit memlock=-1 for a container), \
                 or register less ({error})"
            );
            io::Error::new(io::ErrorKind::OutOfMemory, text)
        }
        _ => error,
    }
}

/// What peers may do with a region by its own key. Windows give rights of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RemoteAccess {
    /// Peers may read all of it.
    pub read: bool,
    /// Peers may write all of it.
    pub write: bool,
    /// Windows may be bound to it.
    pub windows: bool,
}

/// Memory that the device may reach.
pub struct Region {
    pub(super) raw: NonNull<sys::ibv_mr>,
    // Released after the registration, in this order.
    memory: Arc<dyn StableMemory>,
    domain: Arc<Domain>,
}

// SAFETY: the handle is read only; libibverbs locks the rest.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Registers memory, all of it. Pages that were never touched are made now.
    ///
    /// # Errors
    /// `OutOfMemory` if more would be locked than the process may lock (`ulimit -l`, systemd's `LimitMEMLOCK`), or
    /// what the device answers.
    pub fn register(
        domain: &Arc<Domain>,
        memory: Arc<dyn StableMemory>,
        access: RemoteAccess,
    ) -> io::Result<Arc<Self>> {
        let mut asked = flags::IBV_ACCESS_LOCAL_WRITE;
        for (wanted, flag) in [
            (access.read, flags::IBV_ACCESS_REMOTE_READ),
            (access.write, flags::IBV_ACCESS_REMOTE_WRITE),
            (access.windows, flags::IBV_ACCESS_MW_BIND),
        ] {
            if wanted {
                asked |= flag;
            }
        }
        let asked = i32::try_from(asked.0).expect("a few low bits");
        // SAFETY: `ibv_reg_mr` needs a domain, and memory that stays mapped as long as the region lives.
        // - The domain is alive, and held.
        // - `StableMemory` keeps `base..base + len` mapped until `memory` drops, which is after the registration.
        let raw = unsafe { sys::ibv_reg_mr(domain.raw.as_ptr(), memory.base().cast(), memory.len(), asked) };
        let raw = NonNull::new(raw).ok_or_else(|| refusal(io::Error::last_os_error(), memory.len()))?;
        Ok(Arc::new(Self { raw, memory, domain: Arc::clone(domain) }))
    }

    /// Bytes in it.
    pub fn len(&self) -> usize {
        self.memory.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.memory.is_empty()
    }

    /// The memory.
    pub fn memory(&self) -> &Arc<dyn StableMemory> {
        &self.memory
    }

    /// What a peer names to reach the byte at `offset`, if the region lets it.
    pub fn remote(&self, offset: usize) -> Remote {
        // SAFETY: the handle is alive, and its keys do not change.
        let rkey = unsafe { self.raw.as_ref() }.rkey;
        Remote { addr: self.addr(offset), rkey }
    }

    pub(super) fn domain(&self) -> &Arc<Domain> {
        &self.domain
    }

    pub(super) fn addr(&self, offset: usize) -> u64 {
        self.memory.base().addr() as u64 + offset as u64
    }

    pub(super) fn lkey(&self) -> u32 {
        // SAFETY: the handle is alive, and its keys do not change.
        unsafe { self.raw.as_ref() }.lkey
    }

    /// Whether `length` bytes at `offset` are all in it.
    pub fn covers(&self, offset: usize, length: usize) -> bool {
        offset.checked_add(length).is_some_and(|end| end <= self.len())
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: queue pairs and windows that used it held it and are gone.
        if !destroyed("memory region", unsafe { sys::ibv_dereg_mr(self.raw.as_ptr()) }) {
            // The device may still reach it.
            std::mem::forget(Arc::clone(&self.memory));
            std::mem::forget(Arc::clone(&self.domain));
        }
    }
}

impl std::fmt::Debug for Region {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Region({} bytes)", self.len())
    }
}

/// A type 2 memory window: the right to a part of a region, given and taken back by requests of a queue pair.
#[derive(Debug)]
pub struct MemoryWindow {
    /// `None` once destroyed.
    raw: Option<NonNull<sys::ibv_mw>>,
    first_rkey: u32,
    /// Held while a request that binds it is posted.
    posting: Mutex<()>,
    // Released after the window, in this order.
    regions: Vec<Arc<Region>>,
    domain: Arc<Domain>,
}

// SAFETY: libibverbs locks what threads share.
unsafe impl Send for MemoryWindow {}
// SAFETY: as above.
unsafe impl Sync for MemoryWindow {}

impl MemoryWindow {
    /// Makes one, bound to nothing.
    ///
    /// # Errors
    /// If the device has none, or no more.
    pub fn new(domain: &Arc<Domain>) -> io::Result<Self> {
        // SAFETY: the domain is alive.
        let raw = unsafe { sys::ibv_alloc_mw(domain.raw.as_ptr(), sys::IBV_MW_TYPE_2) };
        let raw = NonNull::new(raw).ok_or_else(io::Error::last_os_error)?;
        // SAFETY: the handle was just made.
        let first_rkey = unsafe { raw.as_ref() }.rkey;
        Ok(Self {
            raw: Some(raw),
            first_rkey,
            posting: Mutex::default(),
            regions: Vec::new(),
            domain: Arc::clone(domain),
        })
    }

    /// The key that it was made with. Each binding takes the [`next_key`](Self::next_key) of the one before.
    pub fn first_key(&self) -> u32 {
        self.first_rkey
    }

    /// The key after `rkey`: the same window, another tag. After 256 it comes again.
    pub fn next_key(rkey: u32) -> u32 {
        sys::ibv_inc_rkey(rkey)
    }

    /// Keeps a region for as long as the window may be bound to it.
    pub fn hold(&mut self, region: &Arc<Region>) {
        if !self.holds(region) {
            self.regions.push(Arc::clone(region));
        }
    }

    /// For a binding to a region that it holds.
    pub(super) fn raw_for(&self, region: &Arc<Region>) -> Option<NonNull<sys::ibv_mw>> {
        self.raw.filter(|_| self.holds(region))
    }

    /// Nobody else posts a request that binds it meanwhile.
    pub(super) fn begin_posting(&self) -> MutexGuard<'_, ()> {
        self.posting.try_lock().expect("a window is bound by one request at a time")
    }

    /// A request that binds it to `rkey` was posted. Drivers take the key that a window has from here.
    pub(super) fn posted(&self, _: &MutexGuard<'_, ()>, rkey: u32) {
        if let Some(mut raw) = self.raw {
            // SAFETY: the handle is alive, and libibverbs leaves this field of a type 2 window to its owner, who reads and
            // writes it with the lock.
            unsafe { raw.as_mut() }.rkey = rkey;
        }
    }

    fn holds(&self, region: &Arc<Region>) -> bool {
        self.regions.iter().any(|held| Arc::ptr_eq(held, region))
    }

    /// Destroys it: whatever it was bound to, no access through it is let in any more. Says whether that is certain.
    pub fn destroy(mut self) -> bool {
        self.release()
    }

    fn release(&mut self) -> bool {
        let Some(raw) = self.raw.take() else { return true };
        // SAFETY: the window is alive, and nobody has its handle any more.
        let done = destroyed("memory window", unsafe { sys::ibv_dealloc_mw(raw.as_ptr()) });
        if !done {
            // Peers may still reach them.
            std::mem::take(&mut self.regions).into_iter().for_each(std::mem::forget);
            std::mem::forget(Arc::clone(&self.domain));
        }
        done
    }
}

impl Drop for MemoryWindow {
    fn drop(&mut self) {
        self.release();
    }
}
