//! `--recover-only`: the flash tier is recovered, every object on it is read and verified, and what was found is printed.
//!
//! Invariants:
//! - Nobody is served, and nothing that was there is given up: what cannot be read is told, and left where it is.

use crate::config::Config;
use crate::handler::tier_cmd::state_word;
use crate::node::Node;
use anyhow::Context as _;
use protocol::base::ByteLen;
use std::sync::Arc;
use std::time::{Duration, Instant};
use storage::flash::tier::Tier;
use storage::{Account, Found};
use tokio::task::JoinSet;

/// Reads at once.
const READS_MAX: usize = 32;
/// Keys that one look at the index takes.
const LOOK_COUNT: usize = 256;
/// Pause between two lines about how far it is.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// What verification found.
#[derive(Debug, Default)]
struct Verified {
    right: u64,
    bytes: u64,
    unreadable: Vec<String>,
}

/// The key of an object, its length, and whether it could be read.
type Read = (Vec<u8>, u64, bool);

/// Keys of unreadable objects that are named.
const NAMED_MAX: usize = 20;

/// Recovers, verifies, and prints. Answers whether everything could be read.
///
/// # Errors
/// When the tier cannot be opened.
pub fn recover_only(mut config: Config) -> anyhow::Result<bool> {
    let started = Instant::now();
    // Memory that rests somewhere is neither looked at nor needed.
    config.dram_path = None;
    let node = Node::new(config)?;
    anyhow::ensure!(node.flash.is_some(), "there is no flash tier to recover (`nvme`, `data-dir`)");
    node.open_flash().context("open the flash tier")?;
    let tier = node.tier().expect("it was just opened");
    println!("recovered in {:.3} s", started.elapsed().as_secs_f64());
    println!("objects: {}", node.store.len());
    let started = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")?;
    let verified = runtime.block_on(verify(&node, tier));
    let seconds = started.elapsed().as_secs_f64();
    println!("verified: {} of {} in {seconds:.3} s", verified.right, ByteLen(verified.bytes));
    println!("unreadable: {}", verified.unreadable.len());
    for key in verified.unreadable.iter().take(NAMED_MAX) {
        println!("  {key}");
    }
    for device in tier.status() {
        println!(
            "flash.{}: {}, {}, {} by {}, {} segments of {} ({} free, {} set aside)",
            device.id,
            device.path.display(),
            state_word(&device.state),
            device.size,
            device.engine,
            device.segments,
            device.segment_len,
            device.segments_free,
            device.segments_quarantined
        );
    }
    node.close_flash(true);
    Ok(verified.unreadable.is_empty())
}

/// Reads every object that lies on flash. The tier checks each byte on the way.
async fn verify(node: &Node, tier: &Tier) -> Verified {
    let account = Account::new();
    let mut verified = Verified::default();
    let mut reads = JoinSet::new();
    let (mut cursor, mut said) = (0, Instant::now());
    loop {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        cursor = node.store.scan(node.now(), cursor, LOOK_COUNT, |key| keys.push(key.to_vec()));
        for key in keys {
            let Ok(Some(Found::Flash(read))) = node.store.peek(node.now(), &key, false) else { continue };
            while reads.len() >= READS_MAX {
                note(&mut verified, reads.join_next().await);
            }
            let (tier, account, now) = (tier.clone(), Arc::clone(&account), node.now());
            reads.spawn(async move {
                let length = read.length;
                let readable = matches!(tier.fetch(now, read, &account).await, Ok(Some(_)));
                (key, length, readable)
            });
        }
        if said.elapsed() >= SAY_EVERY {
            said = Instant::now();
            tracing::info!("verified {} objects, {}", verified.right, ByteLen(verified.bytes));
        }
        if cursor == 0 {
            break;
        }
    }
    while !reads.is_empty() {
        note(&mut verified, reads.join_next().await);
    }
    verified
}

fn note(verified: &mut Verified, done: Option<Result<Read, tokio::task::JoinError>>) {
    match done {
        Some(Ok((_, length, true))) => {
            verified.right += 1;
            verified.bytes += length;
        }
        Some(Ok((key, _, false))) => verified.unreadable.push(key.escape_ascii().to_string()),
        Some(Err(_)) | None => {}
    }
}
