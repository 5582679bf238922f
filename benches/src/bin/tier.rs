//! How near to what the device gives do spills and reads of the whole flash tier come: store, spiller, log, engine?
//!
//! Workload: objects of `--lengths` in DRAM, all of them dirty; `spill` is how fast the tier writes them to one file, checksums
//! on. `read` takes objects that lie on flash alone at random, `--depth` at once, verified, into DRAM. fio does the same with
//! `--ioengine=io_uring --direct=1`, the same length and depth, on the same file system. Only payload counts.
//!
//! ```text
//! cargo run --release -p mooncake-benches --bin tier -- [--dir PATH] [--size 1GiB] [--depth 16] [--runs 5]
//! ```
//!
//! Each run measures fio, then the tier; a line gives medians in GB/s (10^9) and the median of the runs' ratios. Bars: spills
//! 0.90, reads 0.95.

use anyhow::{Context, Result, ensure};
use clap::Parser;
use protocol::base::{ByteLen, Clock, Instant, StableMemory};
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{RngCore, SeedableRng};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use storage::flash::tier::{DataDir, DeviceConfig, Fetched, Progress, Tier, TierClock, TierConfig};
use storage::{Account, Found, HugePages, Segment, Store, StoreConfig, Terms};

/// The flash tier beside fio.
#[derive(Parser, Clone)]
struct Options {
    /// Directory for files; what is made there is removed at the end
    #[arg(long, default_value = "target/tier-bench")]
    dir: PathBuf,
    /// Bytes written and read
    #[arg(long, default_value = "512MiB")]
    size: ByteLen,
    /// Lengths of payload
    #[arg(long, value_delimiter = ',', default_value = "256KiB,1MiB,4MiB")]
    lengths: Vec<ByteLen>,
    /// Reads at once
    #[arg(long, default_value_t = 16)]
    depth: usize,
    /// Runs, of which medians are taken
    #[arg(long, default_value_t = 5)]
    runs: usize,
}

struct Wall(std::time::Instant);

impl Clock for Wall {
    fn now(&self) -> Instant {
        Instant(1 + u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

impl TierClock for Wall {
    fn unix_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    // All of it lies in one segment of DRAM at first, which has at most 1 GiB.
    anyhow::ensure!(options.size.get() <= 768 << 20, "--size: at most 768 MiB");
    std::fs::create_dir_all(&options.dir)?;
    for &length in &options.lengths {
        let mut rows = Vec::new();
        for _ in 0..options.runs.max(1) {
            let fio_write = fio(&options, length, "write")?;
            let (spill, read) = tier(&options, length)?;
            let fio_read = fio(&options, length, "randread")?;
            let _ = std::fs::remove_file(options.dir.join("fio"));
            rows.push([fio_write, spill, spill / fio_write, fio_read, read, read / fio_read]);
        }
        let median = |column: usize| {
            let mut values: Vec<f64> = rows.iter().map(|row| row[column]).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        println!(
            "{length}: write fio {:.2} tier {:.2} ratio {:.2}; read fio {:.2} tier {:.2} ratio {:.2}",
            median(0),
            median(1),
            median(2),
            median(3),
            median(4),
            median(5)
        );
    }
    std::fs::remove_dir_all(&options.dir)?;
    Ok(())
}

/// Spills, then reads; GB/s of each.
fn tier(options: &Options, length: ByteLen) -> Result<(f64, f64)> {
    let data = options.dir.join("data");
    let _ = std::fs::remove_dir_all(&data);
    let clock = Arc::new(Wall(std::time::Instant::now()));
    let count = usize::try_from(options.size.get() / length.get())?;
    let dram = Arc::new(Segment::create(
        ByteLen((options.size.get() + count as u64 * 8192).next_multiple_of(2 << 20) + (64 << 20)),
        HugePages::Auto,
    )?);
    dram.prefault(0, 1)?;
    let data_dir = DataDir::open(&data)?;
    let mut device = DeviceConfig::new(data.join("flash"), Some(ByteLen(options.size.get() * 3 / 2 + (256 << 20))));
    device.segment_len = ByteLen::mib(64);
    device.depth = options.depth.max(16);
    let boot_epoch = data_dir.next_boot_epoch(std::slice::from_ref(&device))?;
    let config = StoreConfig { boot_epoch, reserved_client_percent_max: 100, ..StoreConfig::default() };
    let memories: Vec<Arc<dyn StableMemory>> = vec![dram];
    let store = Store::new(config, memories.clone());
    let tier_config = TierConfig { devices: vec![device], close_spill: None, ..TierConfig::new(&data) };
    let tier = Tier::open(
        tier_config,
        data_dir,
        store.clone(),
        memories,
        Arc::clone(&clock) as Arc<dyn TierClock>,
        Arc::new(Progress::default()),
    )?;
    store.set_spill_mark(100);
    let account = Account::new();
    let mut value = vec![0; usize::try_from(length.get())?];
    let mut random = SmallRng::seed_from_u64(length.get());
    let key = |number: usize| format!("key:{number}");
    for number in 0..count {
        random.fill_bytes(&mut value);
        store.set(clock.now(), key(number).as_bytes(), &value, &account, &Terms::default())?;
    }
    let began = std::time::Instant::now();
    store.set_spill_mark(0);
    while tier.status()[0].spills < count as u64 {
        ensure!(began.elapsed() < Duration::from_secs(120), "spills go on: {:?}", tier.status());
        std::thread::sleep(Duration::from_micros(200));
    }
    let bytes = (count as u64 * length.get()) as f64;
    let spill = bytes / began.elapsed().as_secs_f64() / 1e9;
    store.evict(clock.now(), u64::MAX);
    let mut order: Vec<usize> = (0..count).collect();
    order.shuffle(&mut random);
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let began = std::time::Instant::now();
    let local = tokio::task::LocalSet::new();
    let read = local.block_on(&runtime, async {
        let order = std::rc::Rc::new(std::cell::RefCell::new(order));
        let tasks: Vec<_> = (0..options.depth)
            .map(|_| {
                let (order, store, tier) = (std::rc::Rc::clone(&order), store.clone(), tier.clone());
                let (clock, account) = (Arc::clone(&clock), Arc::clone(&account));
                tokio::task::spawn_local(async move {
                    let mut bytes = 0u64;
                    loop {
                        let Some(number) = order.borrow_mut().pop() else { return Ok::<u64, anyhow::Error>(bytes) };
                        let found = store.read(clock.now(), key(number).as_bytes(), None, <[u8]>::to_vec)?;
                        let Some(Found::Flash(read)) = found else { continue };
                        match tier.fetch(clock.now(), read, &account).await? {
                            Some(Fetched::Guard(guard)) => bytes += guard.len() as u64,
                            Some(Fetched::Small(value)) => bytes += value.len() as u64,
                            None => anyhow::bail!("a record does not read"),
                        }
                    }
                })
            })
            .collect();
        let mut bytes = 0;
        for task in tasks {
            bytes += task.await??;
        }
        Ok::<u64, anyhow::Error>(bytes)
    })?;
    ensure!(read >= options.size.get() / 2, "only {read} bytes were on flash alone");
    let read = read as f64 / began.elapsed().as_secs_f64() / 1e9;
    tier.close();
    std::fs::remove_dir_all(&data)?;
    Ok((spill, read))
}

/// GB/s of fio.
fn fio(options: &Options, length: ByteLen, rw: &str) -> Result<f64> {
    let file: &Path = &options.dir.join("fio");
    let output = Command::new("fio")
        .args(["--name=peer", "--ioengine=io_uring", "--direct=1", "--minimal", "--fallocate=native"])
        .arg(format!("--filename={}", file.display()))
        .arg(format!("--rw={rw}"))
        .arg(format!("--bs={}", length.get()))
        .arg(format!("--iodepth={}", if rw == "write" { 8 } else { options.depth }))
        .arg(format!("--size={}", options.size.get()))
        .output()
        .context("run fio")?;
    ensure!(output.status.success(), "fio: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let fields: Vec<&str> = text.trim().split(';').collect();
    // Version 3 of the terse format: bandwidth of reads in field 7, of writes in field 48, in KiB/s.
    let field = if rw == "write" { 47 } else { 6 };
    let kib: f64 = fields.get(field).context("a field of fio's")?.parse()?;
    Ok(kib * 1024.0 / 1e9)
}
