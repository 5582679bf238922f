//! How near to what the device gives do the engine's spills and reads come, and what do checksums cost?
//!
//! Workload: one file, written whole before, on the file system asked for; O_DIRECT; `--depth` records at once.
//! A record is a header of 4 KiB with a checksum for each 64 KiB, and a payload of `--lengths`, from and to memory registered
//! with the ring, as the log does it. `write` goes through the file from its beginning, as a log does; `read` takes records at
//! random. fio does the same with `--ioengine=io_uring --direct=1 --fixedbufs --registerfiles`, the same length, depth and
//! order, without headers and checksums. Only payload counts.
//!
//! ```text
//! cargo run --release -p mooncake-benches --bin flash -- [--file PATH] [--size 1GiB] [--depth 16] [--seconds 2] [--runs 5]
//! ```
//!
//! Each run measures fio, the engine with checksums and without, one right after another; a line gives the medians of all runs
//! in GB/s (10^9), the ratio of the engine's to fio's of the same run, median, and what checksums cost. Bars: writes 0.90,
//! reads 0.95, checksums at most 5 %. The device decides at best; on a shared machine the order of the runs shows by how much
//! it varies.

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use protocol::base::{ByteLen, Crc, RawSpan, StableMemory};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use storage::flash::engine::{Done, Engine, EngineKind, EngineOptions, Op, Scratch, ScratchPool, open};
use storage::{HugePages, PlainMemory, Segment};

const HEADER_LEN: usize = 4096;
const CHUNK_LEN: usize = 64 << 10;
/// Before each measurement.
const PAUSE: Duration = Duration::from_millis(300);

/// Beside fio: writes and reads of the flash engine.
#[derive(Parser, Clone)]
struct Options {
    /// File to write; removed at the end
    #[arg(long, default_value = "target/flash-bench")]
    file: PathBuf,
    /// Its size
    #[arg(long, default_value = "1GiB")]
    size: ByteLen,
    /// Lengths of payload
    #[arg(long, value_delimiter = ',', default_value = "256KiB,1MiB,4MiB")]
    lengths: Vec<ByteLen>,
    /// Records at once
    #[arg(long, default_value_t = 16)]
    depth: usize,
    /// Length of each measurement
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Runs, of which medians are taken
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// `auto`, `io_uring` or `syscall`
    #[arg(long, default_value = "auto")]
    engine: EngineKind,
    /// Where payloads lie
    #[arg(long, value_enum, default_value_t = Memory::Segment)]
    memory: Memory,
    /// Without headers: what they cost
    #[arg(long)]
    bare: bool,
    /// Only the engine: the ratios to fio are left out
    #[arg(long)]
    without_fio: bool,
}

/// Whose pages the device moves. Small ones, scattered, halve what some virtual disks give.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Memory {
    /// As the server's DRAM: a memfd, which has huge pages where the machine gives them to shared memory
    Segment,
    /// Private memory, which has huge pages nearly everywhere
    Anonymous,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Write,
    Read,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let name = measure(&options, |line| println!("{line}"));
    let _ = std::fs::remove_file(&options.file);
    println!("engine: {}", name?);
    Ok(())
}

/// All lengths, both ways. Answers the engine's name.
fn measure(options: &Options, mut say: impl FnMut(String)) -> Result<&'static str> {
    let longest = options.lengths.iter().copied().max().context("no lengths")?;
    let mut bench = Bench::new(options, longest)?;
    bench.fill()?;
    say(format!(
        "{:<6} {:>9}  {:>6} {:>6} {:>6}  {:>8} {:>10}",
        "way", "length", "fio", "ours", "no crc", "ours/fio", "crc costs"
    ));
    for &length in &options.lengths {
        for way in [Way::Write, Way::Read] {
            if way == Way::Read {
                bench.lay_out(length)?;
            }
            let mut rows = Vec::new();
            for run in 0..options.runs.max(1) {
                let mut row = [f64::NAN; 3];
                // Each has its turn to be first: some devices give more to who comes after a pause.
                for turn in run..run + 3 {
                    std::thread::sleep(PAUSE);
                    row[turn % 3] = match turn % 3 {
                        0 if options.without_fio => continue,
                        0 => fio(options, way, length)?,
                        1 => bench.run(way, length, true)?,
                        _ => bench.run(way, length, false)?,
                    };
                }
                rows.push(row);
            }
            let column = |pick: &dyn Fn(&[f64; 3]) -> f64| median(rows.iter().map(pick).collect());
            let shown = format!("{way:?}").to_lowercase();
            say(format!(
                "{shown:<6} {:>9}  {:>6.2} {:>6.2} {:>6.2}  {:>8.2} {:>8.1} %",
                length.to_string(),
                column(&|row| row[0]),
                column(&|row| row[1]),
                column(&|row| row[2]),
                column(&|row| row[1] / row[0]),
                column(&|row| (1.0 - row[1] / row[2]) * 100.0),
            ));
        }
    }
    Ok(bench.name)
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// GB/s of payload.
fn rate(bytes: u64, took: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a figure to look at")]
    let bytes = bytes as f64;
    bytes / took.as_secs_f64() / 1e9
}

struct Bench {
    options: Options,
    memory: Arc<dyn StableMemory>,
    headers: ScratchPool,
    name: &'static str,
    dice: u64,
}

/// A record under way.
struct Slot {
    header: Scratch,
    payload: RawSpan,
    record: u64,
}

impl Bench {
    fn new(options: &Options, longest: ByteLen) -> Result<Self> {
        let longest = usize::try_from(longest.get())?;
        ensure!(longest.is_multiple_of(HEADER_LEN), "lengths are multiples of 4 KiB");
        let len = ByteLen(((longest * options.depth) as u64).next_multiple_of(2 << 20));
        let memory: Arc<dyn StableMemory> = match options.memory {
            Memory::Segment => {
                let segment = Segment::create(len, HugePages::Auto).context("memory for the payloads")?;
                segment.prefault(0, 1).context("memory for the payloads")?;
                Arc::new(segment)
            }
            Memory::Anonymous => Arc::new(PlainMemory::new(usize::try_from(len.get())?)?),
        };
        let headers = ScratchPool::new(HEADER_LEN, options.depth)?;
        let mut this = Self { options: options.clone(), memory, headers, name: "", dice: 0x9e37_79b9 };
        let mut bytes = vec![0; HEADER_LEN];
        for at in (0..this.memory.len()).step_by(HEADER_LEN) {
            bytes.fill_with(|| this.random().to_le_bytes()[0]);
            let to = RawSpan::new(Arc::clone(&this.memory), at, HEADER_LEN).context("inside")?;
            protocol::base::copy_into(&bytes, &to);
        }
        Ok(this)
    }

    fn random(&mut self) -> u64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.dice.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn open(&self) -> Result<Box<dyn Engine>> {
        let options = EngineOptions {
            kind: self.options.engine,
            depth: self.options.depth,
            preallocate: Some(self.options.size),
            fixed: vec![Arc::clone(&self.memory), self.headers.memory()],
            ..Default::default()
        };
        Ok(open(&self.options.file, &options)?)
    }

    fn payload(&self, slot: usize, length: usize) -> Result<RawSpan> {
        RawSpan::new(Arc::clone(&self.memory), slot * length, length).context("memory for all slots")
    }

    /// Writes the file once, so that nobody finds it unwritten.
    fn fill(&mut self) -> Result<()> {
        let mut engine = self.open()?;
        self.name = engine.name();
        let step = 1 << 20;
        let part = self.payload(0, step.min(self.memory.len()))?;
        let mut done = Vec::new();
        for offset in (0..engine.len()).step_by(part.len()) {
            let len = part.len().min(usize::try_from(engine.len() - offset)?);
            engine.submit(Op::write(0, offset, vec![part.part(0, len).context("inside")?]));
            while engine.in_flight() >= engine.depth() {
                engine.wait(None, &mut done);
            }
        }
        engine.submit(Op::sync(0));
        while engine.in_flight() > 0 {
            engine.wait(None, &mut done);
        }
        for done in done {
            done.result.context("fill the file")?;
        }
        Ok(())
    }

    /// Writes records all over the file, to be read.
    fn lay_out(&mut self, length: ByteLen) -> Result<()> {
        let length = usize::try_from(length.get())?;
        let mut engine = self.open()?;
        let records = engine.len() / self.stride(length);
        self.pump(&mut *engine, Way::Write, length, true, Until::Record(records)).map(drop)
    }

    /// GB/s of payload through the engine.
    fn run(&mut self, way: Way, length: ByteLen, checked: bool) -> Result<f64> {
        let length = usize::try_from(length.get())?;
        let stride = self.stride(length);
        let mut engine = self.open()?;
        let records = engine.len() / stride;
        ensure!(records > self.options.depth as u64, "the file is too short for records of {length}");
        let until = Until::Time(Instant::now() + Duration::from_secs_f64(self.options.seconds));
        let started = Instant::now();
        let moved = self.pump(&mut *engine, way, length, checked, until)?;
        Ok(rate(moved, started.elapsed()))
    }

    /// Bytes from one record to the next.
    fn stride(&self, length: usize) -> u64 {
        (length + if self.options.bare { 0 } else { HEADER_LEN }) as u64
    }

    /// Keeps `depth` records under way. Answers bytes of payload moved.
    fn pump(&mut self, engine: &mut dyn Engine, way: Way, length: usize, checked: bool, until: Until) -> Result<u64> {
        let stride = self.stride(length);
        let records = engine.len() / stride;
        let mut slots: Vec<Slot> = (0..self.options.depth)
            .map(|slot| {
                let header = self.headers.take().context("a header for each slot")?;
                Ok(Slot { header, payload: self.payload(slot, length)?, record: 0 })
            })
            .collect::<Result<_>>()?;
        let (mut next, mut moved) = (0, 0);
        let mut idle: Vec<usize> = (0..slots.len()).collect();
        let mut done: Vec<Done> = Vec::new();
        loop {
            let more = match until {
                Until::Time(end) => Instant::now() < end,
                Until::Record(end) => next < end,
            };
            if more && let Some(number) = idle.pop() {
                let slot = &mut slots[number];
                slot.record = if way == Way::Write { next % records } else { self.random() % records };
                next += 1;
                if way == Way::Write {
                    stamp(slot, checked)?;
                }
                let mut parts = vec![slot.header.span(HEADER_LEN), slot.payload.clone()];
                if self.options.bare {
                    parts.remove(0);
                }
                let (tag, offset) = (number as u64, slot.record * stride);
                engine.submit(if way == Way::Write {
                    Op::write(tag, offset, parts)
                } else {
                    Op::read(tag, offset, parts)
                });
                if !idle.is_empty() {
                    continue;
                }
            } else if idle.len() == slots.len() {
                return Ok(moved);
            }
            engine.wait(None, &mut done);
            for Done { tag, result, .. } in done.drain(..) {
                result.context("the device")?;
                let number = usize::try_from(tag)?;
                if way == Way::Read && checked {
                    let verified = verify(&slots[number]);
                    if !self.options.bare {
                        verified?;
                    }
                }
                moved += length as u64;
                idle.push(number);
            }
        }
    }
}

enum Until {
    Time(Instant),
    Record(u64),
}

fn chunks(payload: &RawSpan) -> impl Iterator<Item = RawSpan> {
    let len = payload.len();
    (0..len).step_by(CHUNK_LEN).map(move |at| payload.part(at, CHUNK_LEN.min(len - at)).expect("inside"))
}

/// The record's number into its payload, and its number and checksums into its header.
fn stamp(slot: &mut Slot, checked: bool) -> Result<()> {
    let number = slot.record.to_le_bytes();
    protocol::base::copy_into(&number, &slot.payload.part(0, number.len()).context("inside")?);
    let crcs: Vec<Crc> =
        if checked { chunks(&slot.payload).map(|chunk| protocol::base::crc_of(&chunk)).collect() } else { Vec::new() };
    let header = slot.header.bytes_mut();
    header[..8].copy_from_slice(&number);
    for (at, crc) in crcs.iter().enumerate() {
        header[8 + at * 4..12 + at * 4].copy_from_slice(&crc.0.to_le_bytes());
    }
    Ok(())
}

/// That a record is the one asked for, byte for byte.
fn verify(slot: &Slot) -> Result<()> {
    let header = slot.header.bytes();
    ensure!(header[..8] == slot.record.to_le_bytes(), "record {} is another", slot.record);
    for (at, chunk) in chunks(&slot.payload).enumerate() {
        let crc = protocol::base::crc_of(&chunk).0.to_le_bytes();
        if header[8 + at * 4..12 + at * 4] != crc {
            bail!("record {}, chunk {at}: wrong checksum", slot.record);
        }
    }
    Ok(())
}

/// GB/s as fio sees them.
fn fio(options: &Options, way: Way, length: ByteLen) -> Result<f64> {
    let order = if way == Way::Write { "write" } else { "randread" };
    let output = Command::new("fio")
        .args(["--name=flash", "--ioengine=io_uring", "--direct=1", "--fixedbufs", "--registerfiles", "--thread"])
        .args(["--time_based", "--randrepeat=0", "--norandommap", "--fallocate=none", "--output-format=json"])
        .arg(format!("--filename={}", path_for_fio(&options.file)))
        .arg(format!("--size={}", options.size.get()))
        .arg(format!("--rw={order}"))
        .arg(format!("--bs={}", length.get()))
        .arg(format!("--iodepth={}", options.depth))
        .arg(format!("--runtime={}ms", options.seconds * 1e3))
        .output()
        .context("fio is not there (apt-get install fio), or run with --without-fio")?;
    ensure!(output.status.success(), "fio: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    let report: serde_json::Value = serde_json::from_str(&text[text.find('{').context("fio says nothing")?..])?;
    let side = if way == Way::Write { "write" } else { "read" };
    let rate = report["jobs"][0][side]["bw_bytes"].as_f64().context("fio's report has no rate")?;
    Ok(rate / 1e9)
}

/// fio takes a colon for the end of a name.
fn path_for_fio(path: &Path) -> String {
    path.display().to_string().replace(':', "\\:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tiny_run_moves_and_verifies_records_both_ways() {
        let file = std::env::temp_dir().join(format!("flash-bench-{}", std::process::id()));
        let arguments = ["flash", "--size", "8MiB", "--lengths", "64KiB,256KiB", "--depth", "4", "--seconds", "0.05"];
        let options = Options { file: file.clone(), runs: 1, without_fio: true, ..Options::parse_from(arguments) };
        let mut lines = Vec::new();
        measure(&options, |line| lines.push(line)).expect("runs");
        std::fs::remove_file(file).expect("was made");
        assert_eq!(lines.len(), 5, "{lines:?}");
    }
}
