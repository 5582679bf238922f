//! One record, read and checked against everything that is known of it.

use super::Source;
use crate::flash::format::{CHUNK_LEN, FormatError, Geometry, Life, PAGE_LEN, RecordView, Row};
use protocol::base::Crc;
use std::io;

/// Chunks that are read at once.
const CHUNKS_AT_ONCE: usize = 16;

/// What is wrong with a record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// It does not read.
    #[error("read it")]
    Io(#[from] io::Error),
    /// Its header is none.
    #[error(transparent)]
    Header(#[from] FormatError),
    /// Its header is valid and tells of another object than its segment's table.
    #[error("its header contradicts the segment's table")]
    Differs,
    /// A chunk of its payload is damaged.
    #[error("chunk {0} of its payload is damaged")]
    Chunk(usize),
    /// Its chunks are right and their sum is not.
    #[error("its payload has another checksum")]
    Payload,
}

/// Reads the record that a table tells of, and gives the parts of its payload to `each` in order, each after its checksum was
/// right.
///
/// # Errors
/// [`RecordError`]; what was given to `each` before is right.
pub fn read_record(
    source: &mut dyn Source,
    geometry: Geometry,
    life: &Life,
    row: &Row,
    key: &[u8],
    each: &mut dyn FnMut(&[u8]),
) -> Result<(), RecordError> {
    let layout = row.layout();
    let at = geometry.offset_of(life.segment) + u64::from(row.page) * PAGE_LEN as u64;
    let header = read(source, at, layout.header_len())?;
    let view = RecordView::decode(&header, life, row.page)?;
    let told = (view.generation, view.length, view.crc, view.expires_ms, view.key);
    if told != (row.generation, u64::from(row.length), row.crc, row.expires_ms, key) {
        return Err(RecordError::Differs);
    }
    if let Some(payload) = view.inline {
        if Crc::of(payload) != row.crc {
            return Err(RecordError::Payload);
        }
        each(payload);
        return Ok(());
    }
    let payload_at = at + layout.header_len() as u64;
    let (length, chunks) = (row.length as usize, view.chunks().collect::<Vec<_>>());
    let mut whole = Crc::default();
    for (n, expected) in chunks.chunks(CHUNKS_AT_ONCE).enumerate() {
        let first = n * CHUNKS_AT_ONCE;
        let from = first * CHUNK_LEN;
        let len = (expected.len() * CHUNK_LEN).min(length - from);
        let bytes = read(source, payload_at + from as u64, len.next_multiple_of(PAGE_LEN))?;
        for (n, (chunk, expected)) in bytes[..len].chunks(CHUNK_LEN).zip(expected).enumerate() {
            if Crc::of(chunk) != *expected {
                return Err(RecordError::Chunk(first + n));
            }
            whole = whole.then(*expected, chunk.len() as u64);
            each(chunk);
        }
    }
    if whole != row.crc {
        return Err(RecordError::Payload);
    }
    Ok(())
}

fn read(source: &mut dyn Source, at: u64, len: usize) -> io::Result<Vec<u8>> {
    source.read(&[(at, len)]).pop().unwrap_or_else(|| Err(io::ErrorKind::UnexpectedEof.into()))
}
