//! Values in RESP, as any Redis client moves them; and objects over a connection that has nothing else.

use crate::call::Repeat;
use crate::lease::millis;
use crate::link::{DIRECT_LEN_MIN, Deadline, Link, Place, walk_check};
use crate::put::{Committed, PutOptions};
use crate::query::Stat;
use crate::session::next_on;
use crate::verified::{Promise, Proof};
use crate::{Client, ClientError};
use bytes::BytesMut;
use protocol::base::{Crc, Instant};
use protocol::command::{Pin, Set, SetCondition, SetExpiry};
use protocol::resp::{Arg, Encoder};
use std::time::Duration;

/// Reads of an object that is replaced again and again, before the caller is told.
const ATTEMPTS_MAX: u32 = 3;

impl Client {
    /// Stores a value, in place of what was there, for `ttl` or for ever.
    ///
    /// # Errors
    /// [`ClientError`]; `OOM` if there is no room.
    pub fn set(&mut self, key: &[u8], value: &[u8], ttl: Option<Duration>) -> Result<(), ClientError> {
        self.call(Repeat::Harmless, |session, deadline| {
            let link = session.in_band();
            let expiry = ttl.map_or(SetExpiry::Never, |ttl| SetExpiry::In(millis(ttl)));
            request_set(link, Set { expiry, ..Set::new(key, Arg::Bytes(value)) }, deadline, |_| {})?;
            link.flush(deadline)?;
            next_on(link, deadline, |walk| walk.skip())
        })
    }

    /// Returns a value; `None` if there is none. It was checked by the server, not here: see [`fetch`](Self::fetch).
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn get(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, ClientError> {
        self.call(Repeat::Harmless, |session, deadline| {
            let link = session.in_band();
            let mut value = Vec::new();
            request_get(link, key);
            link.flush(deadline)?;
            Ok(link.next_bulk(Place::Vec(&mut value), deadline)?.map(|_| value))
        })
    }

    /// Receives a value into the start of `buffer` and returns its length; `None` if there is none. A value as long as the
    /// buffer is copied by the kernel only.
    ///
    /// # Errors
    /// [`ClientError::BufferTooSmall`], with the buffer's bytes undefined.
    pub fn get_into(&mut self, key: &[u8], buffer: &mut [u8]) -> Result<Option<usize>, ClientError> {
        self.call(Repeat::Harmless, |session, deadline| {
            let link = session.in_band();
            request_get(link, key);
            link.flush(deadline)?;
            link.next_bulk(Place::Buffer(buffer), deadline)
        })
    }
}

fn request_get(link: &mut Link, key: &[u8]) {
    link.request(|out| {
        Encoder::encode(out, |out| {
            out.word("GET").word(key);
        })
    });
}

pub(crate) fn request_stat(link: &mut Link, key: &[u8]) {
    link.request(|out| {
        Encoder::encode(out, |out| {
            out.word("STAT").word(key);
        })
    });
}

/// Adds a `SET` and what `more` adds behind it to what waits to be sent. A large value goes out at once, with all that
/// waits, from the caller's own memory.
fn request_set(
    link: &mut Link,
    set: Set<'_>,
    deadline: Deadline,
    more: impl FnOnce(&mut Link),
) -> Result<(), ClientError> {
    let large = set.value.bytes().filter(|value| value.len() >= DIRECT_LEN_MIN);
    let Some(value) = large else {
        link.request(|out: &mut BytesMut| set.encode(out));
        more(link);
        return Ok(());
    };
    let around = Set { value: Arg::Taken { len: value.len() as u64 }, ..set };
    let at = link.request(|out| around.encode(out)).expect("a payload was left out");
    more(link);
    link.flush_around(value, at, deadline)
}

/// Puts an object by `SET`. What `SET` has no word for is left out where it is a hint, and refused where it is a promise.
pub(crate) fn put(
    link: &mut Link,
    key: &[u8],
    bytes: &[u8],
    options: &PutOptions<'_>,
    deadline: Deadline,
) -> Result<Committed, ClientError> {
    request_put(link, key, bytes, options, deadline)?;
    link.flush(deadline)?;
    let committed = put_answered(link, deadline)?;
    pin_if_asked(link, key, options, deadline)?;
    Ok(committed)
}

/// Asks for what [`put_answered`] takes.
pub(crate) fn request_put(
    link: &mut Link,
    key: &[u8],
    bytes: &[u8],
    options: &PutOptions<'_>,
    deadline: Deadline,
) -> Result<(), ClientError> {
    if options.durable {
        return Err(ClientError::Unsupported("DURABLE is for objects in two phases"));
    }
    let set = Set {
        condition: (!options.replace).then_some(SetCondition::Absent),
        expiry: options.ttl.map_or(SetExpiry::Never, |ttl| SetExpiry::In(millis(ttl))),
        ..Set::new(key, Arg::Bytes(bytes))
    };
    request_set(link, set, deadline, |link| request_stat(link, key))
}

/// Takes the replies to `SET` and `STAT`, both of them whatever the first is.
pub(crate) fn put_answered(link: &mut Link, deadline: Deadline) -> Result<Committed, ClientError> {
    let stored = match next_on(link, deadline, |walk| Ok(!walk.is_null())) {
        Err(error) if error.breaks_connection() => return Err(error),
        stored => stored,
    };
    let stat = next_on(link, deadline, |walk| if walk.is_null() { Ok(None) } else { Stat::read(walk).map(Some) });
    if !stored? {
        return Err(ClientError::wire(b"EXISTS a live object has this key; use `replace`"));
    }
    // It was stored, and is gone again: no generation of it is left to tell.
    let stat = stat?.ok_or(ClientError::Stale("the object was removed as soon as it was stored"))?;
    Ok(Committed { generation: stat.generation, len: stat.len })
}

/// Pins what was put, if that was asked for. Not in the same write: what was not stored must not be pinned.
pub(crate) fn pin_if_asked(
    link: &mut Link,
    key: &[u8],
    options: &PutOptions<'_>,
    deadline: Deadline,
) -> Result<(), ClientError> {
    if options.pin {
        link.request(|out| Pin { key, ttl: None }.encode(out));
        link.flush(deadline)?;
        next_on(link, deadline, |walk| walk.skip())?;
    }
    Ok(())
}

/// Fetches an object by `STAT` and `GET` in one exchange: what came must have the checksum that was told.
pub(crate) fn fetch(
    link: &mut Link,
    key: &[u8],
    buffer: &mut [u8],
    deadline: Deadline,
) -> Result<Option<Proof>, ClientError> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        request_fetch(link, key);
        link.flush(deadline)?;
        match fetched(link, buffer, deadline) {
            // Replaced between the two: then they tell of two objects.
            Err(ClientError::Checksum { .. } | ClientError::Stale(_)) if attempts < ATTEMPTS_MAX => {}
            outcome => return outcome,
        }
    }
}

/// Asks for what [`fetched`] takes.
pub(crate) fn request_fetch(link: &mut Link, key: &[u8]) {
    request_stat(link, key);
    request_get(link, key);
}

/// Takes the replies to `STAT` and `GET`, both of them whatever the first is.
pub(crate) fn fetched(link: &mut Link, buffer: &mut [u8], deadline: Deadline) -> Result<Option<Proof>, ClientError> {
    let stat = {
        let address = std::sync::Arc::clone(link.address());
        let mut walk = link.next(deadline)?;
        walk_check(walk).and_then(|()| {
            if walk.is_null() {
                return Ok(None);
            }
            Stat::read(&mut walk).map(Some).map_err(|what| crate::link::unexpected(&address, what))
        })
    };
    let got = link.next_bulk(Place::Buffer(buffer), deadline);
    let (Some(stat), Some(len)) = (stat?, got?) else { return Ok(None) };
    if len as u64 != stat.len {
        return Err(ClientError::Stale("it was replaced while it was read"));
    }
    // The bytes are the client's own copy: nothing can happen to them any more.
    let promise = Promise { generation: stat.generation, length: stat.len, crc: stat.crc, until: Instant::NEVER };
    promise.prove(Crc::of(&buffer[..len]), stat.generation).map(Some)
}
