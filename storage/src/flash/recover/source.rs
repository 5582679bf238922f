//! Where recovery reads from: an engine, or a file opened for reading.

use crate::flash::engine::{BLOCK, Engine, Op, Scratch, ScratchPool};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Longest read of one op, in bytes: a longer request is several.
const OP_LEN_MAX: usize = 512 << 10;
/// Ops in flight, each with a buffer of that length.
const OPS_IN_FLIGHT_MAX: usize = 32;

/// Reads of whole pages, several at once.
pub trait Source {
    /// Bytes of the device.
    fn len(&self) -> u64;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads each (offset, length) in whole; answers in their order. What lies outside the device is an error.
    fn read(&mut self, places: &[(u64, usize)]) -> Vec<io::Result<Vec<u8>>>;
}

/// A file or block device that nobody writes meanwhile, by plain reads.
#[derive(Debug)]
pub struct FileSource {
    file: File,
    len: u64,
}

impl FileSource {
    /// Of an open file; a block device's length is where it ends.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(file: File) -> io::Result<Self> {
        let len = rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0))?;
        Ok(Self { file, len })
    }
}

impl Source for FileSource {
    fn len(&self) -> u64 {
        self.len
    }

    fn read(&mut self, places: &[(u64, usize)]) -> Vec<io::Result<Vec<u8>>> {
        let read = |&(offset, len): &(u64, usize)| {
            let mut bytes = vec![0; len];
            self.file.read_exact_at(&mut bytes, offset)?;
            Ok(bytes)
        };
        places.iter().map(read).collect()
    }
}

impl Source for &[u8] {
    fn len(&self) -> u64 {
        <[u8]>::len(self) as u64
    }

    fn read(&mut self, places: &[(u64, usize)]) -> Vec<io::Result<Vec<u8>>> {
        let read = |&(offset, len): &(u64, usize)| {
            let offset = usize::try_from(offset).unwrap_or(usize::MAX);
            let bytes = offset.checked_add(len).and_then(|end| self.get(offset..end));
            bytes.map(<[u8]>::to_vec).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
        };
        places.iter().map(read).collect()
    }
}

/// An engine that does nothing else meanwhile.
pub struct EngineSource<'a> {
    engine: &'a mut dyn Engine,
    pool: ScratchPool,
}

impl<'a> EngineSource<'a> {
    /// Over `engine`.
    ///
    /// # Errors
    /// When there is no memory for buffers.
    pub fn new(engine: &'a mut dyn Engine) -> io::Result<Self> {
        Ok(Self { engine, pool: ScratchPool::new(OP_LEN_MAX, OPS_IN_FLIGHT_MAX)? })
    }
}

/// A part of a request that is being read.
struct Part {
    request: usize,
    at: usize,
    len: usize,
    scratch: Scratch,
}

impl Source for EngineSource<'_> {
    fn len(&self) -> u64 {
        self.engine.len()
    }

    fn read(&mut self, places: &[(u64, usize)]) -> Vec<io::Result<Vec<u8>>> {
        let device_len = self.engine.len();
        let inside = |offset: u64, len: usize| {
            let whole = offset.is_multiple_of(BLOCK as u64) && len.is_multiple_of(BLOCK) && len > 0;
            whole && offset.checked_add(len as u64).is_some_and(|end| end <= device_len)
        };
        let mut answers: Vec<io::Result<Vec<u8>>> = places
            .iter()
            .map(|&(offset, len)| match inside(offset, len) {
                true => Ok(vec![0; len]),
                false => Err(io::ErrorKind::UnexpectedEof.into()),
            })
            .collect();
        let mut parts = places.iter().enumerate().filter(|(_, (offset, len))| inside(*offset, *len)).flat_map(
            |(request, &(offset, len))| {
                (0..len).step_by(OP_LEN_MAX).map(move |at| (request, offset + at as u64, at, OP_LEN_MAX.min(len - at)))
            },
        );
        let mut in_flight: HashMap<u64, Part> = HashMap::new();
        let (mut tag, mut done) = (0, Vec::new());
        loop {
            while let Some(scratch) = self.pool.take() {
                let Some((request, offset, at, len)) = parts.next() else { break };
                self.engine.submit(Op::read(tag, offset, vec![scratch.span(len)]));
                in_flight.insert(tag, Part { request, at, len, scratch });
                tag += 1;
            }
            if in_flight.is_empty() {
                return answers;
            }
            self.engine.wait(None, &mut done);
            for done in done.drain(..) {
                let Some(part) = in_flight.remove(&done.tag) else { continue };
                match (done.result, &mut answers[part.request]) {
                    (Ok(()), Ok(bytes)) => {
                        bytes[part.at..part.at + part.len].copy_from_slice(&part.scratch.bytes()[..part.len]);
                    }
                    (Err(error), answer @ Ok(_)) => *answer = Err(error),
                    (_, Err(_)) => {}
                }
            }
        }
    }
}
