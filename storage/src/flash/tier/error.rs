//! Why the tier could not do what was asked. A record that proved unreadable is not here: it is a miss.

use super::Holds;
use crate::error::StoreError;
use crate::flash::fabric::FabricError;
use std::io;
use std::path::PathBuf;

/// Refusals of the flash tier. The server gives each its word on the wire.
#[derive(Debug, thiserror::Error)]
pub enum FlashError {
    /// A setting makes no sense.
    #[error("{0}")]
    Config(String),
    /// Another process uses the directory or device.
    #[error("{path} is in use by another process")]
    Locked {
        /// Which.
        path: PathBuf,
    },
    /// The system refused.
    #[error("{what}: {source}")]
    Io {
        /// What was tried, with its path.
        what: String,
        /// Why not.
        source: io::Error,
    },
    /// No device can take or give anything at the moment.
    #[error("flash is off: {why}")]
    Off {
        /// Of the device, or that there is none.
        why: String,
    },
    /// No device has room for the object.
    #[error("no room on flash for an object of {len} bytes")]
    NoRoom {
        /// Its length.
        len: u64,
    },
    /// What a device holds has no other place to go.
    #[error(
        "the device holds {held} bytes and there is room for {room} elsewhere: attach another first, or let it go with NODRAIN"
    )]
    NoRoomElsewhere {
        /// Bytes of its records.
        held: u64,
        /// What other devices and DRAM can take.
        room: u64,
    },
    /// A device that is off cannot be read, so what it holds cannot be brought away.
    #[error(
        "the device is off ({why}), so what it holds cannot be brought away: wait until it is back, or let it go with NODRAIN"
    )]
    CannotDrain {
        /// Why it is off.
        why: String,
    },
    /// Its drain is under way.
    #[error("flash.{id} is being drained already: CANCEL calls that off, NODRAIN lets it go at once")]
    Draining {
        /// Its number.
        id: u32,
    },
    /// There is no drain to call off.
    #[error("flash.{id} is not being drained")]
    NotDraining {
        /// Its number.
        id: u32,
    },
    /// Somebody wanted the device to stay, or to go at once.
    #[error("the drain was called off")]
    CalledOff,
    /// The object that was to be made durable is not there any more.
    #[error("the object was removed meanwhile")]
    Gone,
    /// No such device.
    #[error("no flash device has the number {id}")]
    NoDevice {
        /// As asked.
        id: u32,
    },
    /// A namespace on another machine cannot be had.
    #[error(transparent)]
    Fabric(#[from] FabricError),
    /// It would have to be formatted, and nobody said so.
    #[error("{path} {holds}: it is not used before `TIER ATTACH … FORMAT` says that what is there may go")]
    Unformatted {
        /// The device.
        path: PathBuf,
        /// What was found.
        holds: Holds,
    },
    /// The tier is being closed.
    #[error("the flash tier is closed")]
    Closed,
    /// DRAM had no room for the object, or its client holds too much.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl FlashError {
    /// An [`io::Error`] with what was tried.
    pub fn io(what: impl Into<String>, source: io::Error) -> Self {
        Self::Io { what: what.into(), source }
    }
}
