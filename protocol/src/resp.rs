//! RESP, the serialisation of Redis: requests read, replies written. No I/O.
//!
//! Role: bytes to argument lists ([`Framer`]) and replies to bytes ([`Writer`]). What the arguments mean is told by
//! [`command`](crate::command).
//!
//! Invariants:
//! - Nothing a peer sends makes this allocate more than the caps in [`Limits`] allow, recurse, or scan a byte twice.
//! - Whatever is written is one well-formed reply: no text can carry a line end into a status or an error line.

mod args;
mod encoder;
mod inline;
mod request;
mod wire_error;
mod writer;

pub use args::{Arg, ArgBuf, Args, ArgsIter};
pub use encoder::Encoder;
pub use request::{Framer, Limits, ProtocolError, Step};
pub use wire_error::{ErrorWord, WireError};
pub use writer::Writer;
