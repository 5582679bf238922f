//! Values that look like records: a client that knows the format, and everything but the secret of a segment's life, writes
//! headers of records into its payloads, on every page. The segments are reused and the server is killed, so that recovery
//! walks over them.

use super::load::Load;
use super::{Ledger, Plan, Summary, device, flags, look_at_all, start};
use crate::raw::{Raw, Value};
use anyhow::{Context as _, bail, ensure};
use protocol::base::{Crc, Generation};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::sync::Arc;
use std::time::Duration;
use storage::flash::format::{Life, Nonce, PAGE_LEN, Record};
use tempfile::TempDir;

const KEYS: usize = 800;
const FLASH: &str = "128 MiB";
/// Segments of the device, and lives that they may be in.
const SEGMENTS: u32 = 16;
/// Pages of forged headers in one value.
const PAGES: usize = 128;
/// Forged values between two kills.
const AT_ONCE: usize = 25;

/// Runs the campaign; a run is one value of forged records. `progress` hears how many were written.
///
/// # Errors
/// With what was broken.
pub fn run(plan: &Plan, mut progress: impl FnMut(usize)) -> anyhow::Result<Summary> {
    let mut rng = StdRng::seed_from_u64(plan.seed);
    let dir = Arc::new(TempDir::with_prefix("mooncake-forge-")?);
    let flags = flags(plan, &dir.path().join("flash.0"), FLASH, &dir.path().join("data"));
    let ledger = Arc::new(Ledger::new("forge", KEYS));
    let mut server = start(&dir, &flags)?;
    let (mut done, mut kills, mut reclaimed) = (0, 0, 0);
    while done < plan.runs {
        let load = Load::start(server.addr(), &ledger, rng.random())?;
        let mut raw = Raw::tcp(server.addr())?;
        let mut last = 0;
        for _ in 0..AT_ONCE.min(plan.runs - done) {
            let (key, value) = (format!("carrier:{done}"), forged(&mut rng));
            match raw.try_ask(&[b"SET", key.as_bytes(), &value])? {
                Value::Simple(_) => {}
                other => bail!("SET answered {other:?}"),
            }
            done += 1;
            last = done;
        }
        // Out of DRAM and onto flash, some of it.
        std::thread::sleep(Duration::from_millis(rng.random_range(100..500)));
        reclaimed += device(&mut raw, "reclaimed")?.parse::<u64>()?;
        load.announce_the_end();
        server.kill();
        load.stop().with_context(|| format!("after {last} forgeries"))?;
        drop(server);
        kills += 1;
        server = start(&dir, &flags).with_context(|| format!("after {last} forgeries"))?;
        let mut raw = Raw::tcp(server.addr())?;
        let keys = raw.try_ask(&["KEYS", "forged:*"])?;
        ensure!(keys.items().is_empty(), "after {last} forgeries there is {keys:?}");
        let found = look_at_all(&server, &ledger, None).with_context(|| format!("after {last} forgeries"))?;
        ensure!(found.stale == 0, "after {last} forgeries {} keys are stale", found.stale);
        progress(done);
    }
    let mut summary = Summary::default();
    summary.say("values of forged records", done);
    summary.say("forged headers", done * PAGES);
    summary.say("kills and recoveries", kills);
    summary.say("segments reused", reclaimed);
    summary.say("forgeries indexed", 0);
    Ok(summary)
}

/// A record's header on every page, with all that can be guessed, guessed: the next segment, life and page.
fn forged(rng: &mut StdRng) -> Vec<u8> {
    let mut value = vec![0; PAGES * PAGE_LEN];
    let begin: u16 = rng.random_range(0..2048 - 256);
    let life =
        Life { segment: rng.random_range(0..SEGMENTS), life: rng.random_range(1..6), nonce: Nonce(rng.random()) };
    for (page, header) in (begin..).zip(value.chunks_exact_mut(PAGE_LEN)) {
        let key = format!("forged:{page}");
        let payload = b"what nobody may ever read";
        let record = Record {
            page,
            generation: Generation(u64::MAX >> 1),
            length: payload.len() as u64,
            crc: Crc::of(payload),
            expires_ms: 0,
            key: key.as_bytes(),
        };
        record.encode(&life, &[], payload, header);
    }
    value
}
