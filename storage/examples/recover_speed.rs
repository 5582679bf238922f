//! How long does a start take to read the tables of sealed flash?
//!
//! Question: seconds a TiB, for objects of 64 KiB and of 1 MiB, without putting them into an index. Workload: a sparse file of
//! segments of 256 MiB, of which only headers and footers are there; read through the engine, past the page cache, each kind
//! several times. Unit: seconds a TiB of sealed flash, and bytes read. The sketch: 1 TiB has 4,096 footers, of 0.4 MB or
//! 0.03 MB each, which a device of 1 GB/s reads in 1.8 s or 0.1 s.
//!
//! `cargo run --release -p mooncake-storage --example recover_speed -- [DIRECTORY] [GIB]`

use protocol::base::{ByteLen, Crc, Generation};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use storage::flash::engine::{EngineOptions, open};
use storage::flash::format::{
    DeviceId, Geometry, Head, Life, Nonce, RecordLayout, Row, SegmentHeader, Superblock, Table,
};
use storage::flash::recover::{EngineSource, Found, Progress, Visitor, recover, superblock};

const SEGMENT_LEN: ByteLen = ByteLen::mib(256);
const ROUNDS: usize = 5;

struct Count(AtomicU64);

impl Visitor for Count {
    fn meta(&self, _: u32) -> Option<Vec<u8>> {
        None
    }

    fn found(&self, segment: u32, found: Found) {
        let Found::Sealed { table, .. } = found else { panic!("segment {segment} is sealed") };
        self.0.fetch_add(table.iter().map(|(row, key)| row.generation.0 + key.len() as u64).sum(), Ordering::Relaxed);
    }

    fn progress(&self, _: &Progress) {}
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let directory = PathBuf::from(args.next().unwrap_or_else(|| ".".to_owned()));
    let gib: u64 = args.next().map_or(Ok(32), |gib| gib.parse())?;
    for object_len in [64 << 10, 1 << 20] {
        let path = directory.join("recover_speed.flash");
        let records = make(&path, ByteLen::gib(gib), object_len)?;
        let mut seconds = Vec::new();
        let mut read = 0;
        for _ in 0..ROUNDS {
            let mut engine = open(&path, &EngineOptions::default())?;
            let began = Instant::now();
            let mut source = EngineSource::new(&mut *engine)?;
            let device = superblock(&mut source)?;
            let summary = recover(&mut source, &device, &Count(AtomicU64::new(0)), 2);
            seconds.push(began.elapsed().as_secs_f64());
            assert_eq!(summary.records, records, "all are found");
            read = summary.bytes_read;
        }
        std::fs::remove_file(&path)?;
        seconds.sort_by(f64::total_cmp);
        let median = seconds[ROUNDS / 2];
        println!(
            "objects of {}: {records} records in {gib} GiB, {} read in {median:.3} s (from {:.3} to {:.3}): {:.2} s a TiB",
            ByteLen(object_len),
            ByteLen(read),
            seconds[0],
            seconds[ROUNDS - 1],
            median * 1024.0 / gib as f64,
        );
    }
    Ok(())
}

/// A device full of sealed segments, without the records that its footers tell of.
fn make(path: &Path, len: ByteLen, object_len: u64) -> Result<u64, Box<dyn std::error::Error>> {
    let geometry = Geometry::of(len.get(), SEGMENT_LEN.get()).ok_or("too short")?;
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(path)?;
    file.set_len(geometry.device_len())?;
    let device = DeviceId::random();
    let superblock = Superblock { device, number: 0, geometry, boot_epoch: 1, update: 1, formatted_ms: 1 };
    file.write_all_at(&superblock.encode(0), 0)?;
    let (mut generation, mut records) = (0, 0);
    for segment in 0..geometry.segment_count {
        let life = Life { segment, life: 1, nonce: Nonce::random() };
        let header = SegmentHeader { device, life, head: Head::New, opened_ms: 1 };
        file.write_all_at(&header.encode(), geometry.offset_of(segment))?;
        let (mut table, mut page) = (Table::new(), 1);
        loop {
            let key = format!("model:llama-3-70b:layer:{:03}:block:{generation:032x}", generation % 80);
            let layout = RecordLayout::of(key.len(), object_len);
            if page + layout.pages() + table.footer_pages_with(key.len()) > geometry.pages() {
                break;
            }
            let row = Row {
                page: u16::try_from(page)?,
                key_len: u16::try_from(key.len())?,
                length: u32::try_from(object_len)?,
                crc: Crc(0),
                generation: Generation(generation),
                expires_ms: 0,
            };
            table.push(row, key.as_bytes());
            page += layout.pages();
            generation += 1;
        }
        records += table.len() as u64;
        let footer = table.encode(&life, 1);
        file.write_all_at(&footer, geometry.offset_of(segment + 1) - footer.len() as u64)?;
    }
    file.sync_all()?;
    Ok(records)
}
