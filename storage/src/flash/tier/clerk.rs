//! A thread for what blocks and is nobody's I/O: syncs of the journal that somebody waits for.

use super::error::FlashError;
use parking_lot::Mutex;
use std::sync::mpsc;
use std::thread::JoinHandle;

/// Something to be done.
pub(super) type Chore = Box<dyn FnOnce() + Send>;

/// Does one chore after another. Ends when dropped, after the last.
pub(super) struct Clerk {
    chores: Mutex<Option<mpsc::Sender<Chore>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Clerk {
    pub(super) fn start() -> Result<Self, FlashError> {
        let (send, chores) = mpsc::channel::<Chore>();
        let thread = std::thread::Builder::new()
            .name("flash-clerk".to_owned())
            .spawn(move || chores.into_iter().for_each(|chore| chore()))
            .map_err(|error| FlashError::io("start the clerk", error))?;
        Ok(Self { chores: Mutex::new(Some(send)), thread: Mutex::new(Some(thread)) })
    }

    /// Takes a chore; drops it if the clerk has ended.
    pub(super) fn take(&self, chore: Chore) {
        if let Some(chores) = &*self.chores.lock() {
            let _ = chores.send(chore);
        }
    }

    /// Finishes what it has, and ends.
    pub(super) fn close(&self) {
        *self.chores.lock() = None;
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Clerk {
    fn drop(&mut self) {
        self.close();
    }
}
