//! Tiers: what there is, one more, one less.

use super::memory::MemoryUse;
use crate::config::Value as _;
use crate::dispatch::{Ctx, Flow};
use crate::error::flash;
use crate::fabrics::{Fabrics, State};
use crate::handler::aside::Aside;
use crate::handler::job::Job;
use crate::node::Node;
use protocol::base::ByteLen;
use protocol::command::{CommandId, Detach, TierAttach, TierDetach, TierScrub};
use protocol::resp::{ErrorWord, WireError, Writer};
use std::path::PathBuf;
use std::sync::Arc;
use storage::flash::fabric::Target;
use storage::flash::tier::{DeviceState, DeviceStatus, FlashError};

/// What the names of flash devices begin with.
const FLASH: &str = "flash.";

/// The word for what a device does.
pub(crate) fn state_word(state: &DeviceState) -> &'static str {
    match state {
        DeviceState::On => "online",
        DeviceState::Off { .. } => "offline",
        DeviceState::Full => "full",
        DeviceState::Leaving => "draining",
    }
}

/// Bytes of the day's write budget that are left, -1 without one.
pub(crate) fn budget_left(device: &DeviceStatus) -> i64 {
    device.budget_left.map_or(-1, |left| i64::try_from(left.get()).unwrap_or(i64::MAX))
}

/// Share of the device that the present scrub has done, -1 while there is none.
pub(crate) fn scrub_percent(device: &DeviceStatus) -> i64 {
    device.scrub.percent.map_or(-1, i64::from)
}

/// Share of a device's bytes that its drain has brought away, -1 while there is none.
pub(crate) fn drain_percent(device: &DeviceStatus) -> i64 {
    device.drain.map_or(-1, |drain| i64::from(drain.percent))
}

/// `TIER LIST`
pub(crate) fn tier_list(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let node = ctx.node;
    let memory = MemoryUse::of(node);
    let usage = node.store.usage();
    let devices = node.tier().map(|tier| tier.status()).unwrap_or_default();
    let fabrics = fabrics(node);
    let attachments = fabrics.map(|fabrics| fabrics.list()).unwrap_or_default();
    let waiting: Vec<_> = attachments
        .iter()
        .filter_map(|it| match &it.state {
            State::Waiting { why } => Some((&it.target, why)),
            State::Attached { .. } => None,
        })
        .collect();
    let mut reply = ctx.reply();
    reply.array(1 + devices.len() + waiting.len());
    reply.map(7);
    reply.field("name").bulk(b"dram");
    reply.field("kind").bulk(b"dram");
    reply.field("state").bulk(b"online");
    reply.field("capacity").count(memory.capacity);
    reply.field("used").count(memory.slots);
    reply.field("free").count(memory.capacity.saturating_sub(memory.slots));
    reply.field("objects").count(usage.objects + usage.on_both - usage.on_flash);
    for device in devices {
        let why = if let DeviceState::Off { why } = &device.state { Some(why.clone()) } else { None };
        let remote = fabrics.and_then(|fabrics| Some((fabrics, fabrics.of_device(device.id)?)));
        reply.map(32 + usize::from(why.is_some()) + if remote.is_some() { FABRIC_FIELDS } else { 0 });
        reply.field("name").bulk_display(format_args!("{FLASH}{}", device.id));
        reply.field("kind").bulk(b"flash");
        reply.field("state").bulk(state_word(&device.state).as_bytes());
        if let Some(why) = why {
            reply.field("why").bulk(why.as_bytes());
        }
        reply.field("capacity").count(device.size.get());
        reply.field("used").count(device.used.get());
        reply.field("free").count(device.size.get().saturating_sub(device.used.get()));
        reply.field("path").bulk(device.path.as_os_str().as_encoded_bytes());
        reply.field("engine").bulk(device.engine.as_bytes());
        reply.field("segment-len").count(device.segment_len.get());
        reply.field("segments").count(device.segments);
        reply.field("segments-free").count(device.segments_free);
        reply.field("segments-quarantined").count(device.segments_quarantined);
        reply.field("reads").count(device.reads);
        reply.field("read-bytes").count(device.read.get());
        reply.field("hits").count(device.hits);
        reply.field("writes").count(device.spills);
        reply.field("written-bytes").count(device.written.get());
        reply.field("reinserted").count(device.reinserted);
        reply.field("adopted").count(device.adopted);
        reply.field("reclaimed").count(device.reclaimed);
        reply.field("dropped").count(device.dropped);
        reply.field("errors").count(device.errors);
        reply.field("mismatches").count(device.mismatches);
        reply.field("queue").count(device.in_flight as u64);
        reply.field("budget-left").integer(budget_left(&device));
        reply.field("drain-percent").integer(drain_percent(&device));
        reply.field("scrub-percent").integer(scrub_percent(&device));
        reply.field("scrub-passes").count(device.scrub.passes);
        reply.field("scrub-bytes").count(device.scrub.bytes.get());
        reply.field("scrub-records").count(device.scrub.records);
        reply.field("scrub-rotten").count(device.scrub.rotten);
        reply.field("scrub-returned").count(device.scrub.returned);
        if let Some((fabrics, target)) = remote {
            fabric_fields(&mut reply, fabrics, &target);
        }
    }
    for (target, why) in waiting {
        reply.map(4 + FABRIC_FIELDS);
        reply.field("name").bulk(target.nqn.as_bytes());
        reply.field("kind").bulk(b"flash");
        reply.field("state").bulk(b"waiting");
        reply.field("why").bulk(why.as_bytes());
        if let Some(fabrics) = fabrics {
            fabric_fields(&mut reply, fabrics, target);
        }
    }
    Ok(Flow::Go)
}

/// Fields of a device on another machine.
const FABRIC_FIELDS: usize = 3;

fn fabric_fields(reply: &mut Writer<'_>, fabrics: &Fabrics, target: &Target) {
    reply.field("nvmeof").bulk_display(target);
    reply.field("link").bulk(fabrics.link(target).as_bytes());
    reply.field("host-nqn").bulk(fabrics.host_nqn().as_bytes());
}

/// Refuses where there is no tier to change.
fn check_tier(ctx: &Ctx<'_>) -> Result<(), WireError> {
    if ctx.node.tier().is_some() {
        return Ok(());
    }
    Err(WireError::new(ErrorWord::Denied, "this node has no flash tier: start it with a `data-dir`"))
}

/// `TIER ATTACH path [size]`, `TIER ATTACH nvmeof name=value … [FORMAT]`
pub(crate) fn tier_attach(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let attach = TierAttach::parse(&ctx.args)?;
    check_tier(ctx)?;
    let text = |bytes| std::str::from_utf8(bytes).map_err(|_| WireError::err("a path of this node is UTF-8"));
    match attach {
        TierAttach::Path { path, size } => {
            let path = PathBuf::from(text(path)?);
            if !path.is_absolute() || path.as_os_str().as_encoded_bytes().contains(&b',') {
                return Err(WireError::err("the path is absolute, and has no comma"));
            }
            let size = match size {
                None => None,
                Some(size) => Some(
                    ByteLen::parse(text(size)?)
                        .ok_or_else(|| WireError::err(format!("the size is {}", ByteLen::ALLOWED)))?,
                ),
            };
            let known = ctx.node.tier().map(|tier| tier.status()).unwrap_or_default();
            if known.iter().any(|device| device.path == path) {
                return Err(WireError::new(ErrorWord::Exists, format!("{} is attached already", path.display())));
            }
            tracing::info!(client = ctx.session.client.id, "TIER ATTACH {}", path.display());
            Ok(attach_aside(move |node| node.attach_device(path, size)))
        }
        TierAttach::Fabric { target, format } => {
            let words = target.into_iter().map(text).collect::<Result<Vec<_>, _>>()?.join(" ");
            let target: Target = words.parse().map_err(|why: String| WireError::err(format!("nvmeof: {why}")))?;
            if fabrics(ctx.node).is_some_and(|fabrics| fabrics.list().iter().any(|it| it.target == target)) {
                return Err(WireError::new(ErrorWord::Exists, format!("{target} is attached already")));
            }
            tracing::info!(client = ctx.session.client.id, format, "TIER ATTACH nvmeof {target}");
            Ok(attach_aside(move |node| node.attach_fabric(&target, format)))
        }
    }
}

/// Attaching takes as long as the device, and the network to it.
fn attach_aside(attach: impl FnOnce(&Node) -> Result<u32, FlashError> + Send + 'static) -> Flow {
    Flow::Wait(Job::Aside(Aside::new(CommandId::TierAttach, move |node| {
        let before = node.store.len();
        let attached = attach(node);
        let found = node.store.len().saturating_sub(before);
        move |reply: &mut Writer<'_>| match attached {
            Ok(id) => {
                reply.map(2);
                reply.field("name").bulk_display(format_args!("{FLASH}{id}"));
                reply.field("objects").count(found);
            }
            Err(error) => reply.wire_error(&flash(&error)),
        }
    })))
}

/// Devices on other machines.
pub(crate) fn fabrics(node: &Node) -> Option<&Arc<Fabrics>> {
    node.flash.as_ref().map(|flash| &flash.fabrics)
}

/// The flash device of a name.
fn device_of(ctx: &Ctx<'_>, name: &[u8]) -> Result<u32, WireError> {
    let id = std::str::from_utf8(name).ok().and_then(|name| name.strip_prefix(FLASH)?.parse::<u32>().ok());
    let known = ctx.node.tier().map(|tier| tier.status()).unwrap_or_default();
    id.filter(|id| known.iter().any(|device| device.id == *id))
        .ok_or_else(|| WireError::new(ErrorWord::Denied, "there is no such tier: TIER LIST has their names"))
}

/// `TIER SCRUB [name]`
pub(crate) fn tier_scrub(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let TierScrub { name } = TierScrub::parse(&ctx.args)?;
    check_tier(ctx)?;
    let id = name.map(|name| device_of(ctx, name)).transpose()?;
    tracing::info!(client = ctx.session.client.id, id, "TIER SCRUB");
    if let Some(tier) = ctx.node.tier() {
        tier.scrub(id).map_err(|error| flash(&error))?;
    }
    ctx.reply().ok();
    Ok(Flow::Go)
}

/// `TIER DETACH name [NODRAIN | CANCEL]`
pub(crate) fn tier_detach(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let TierDetach { name, how } = TierDetach::parse(&ctx.args)?;
    if name.eq_ignore_ascii_case(b"dram") {
        return Err(WireError::new(ErrorWord::Denied, "the DRAM tier stays as long as the node runs"));
    }
    check_tier(ctx)?;
    if let Some(fabrics) = fabrics(ctx.node)
        && let Ok(nqn) = std::str::from_utf8(name)
        && fabrics.list().iter().any(|it| it.target.nqn == nqn && matches!(it.state, State::Waiting { .. }))
    {
        let (fabrics, nqn) = (Arc::clone(fabrics), nqn.to_owned());
        tracing::info!(client = ctx.session.client.id, "TIER DETACH {nqn}");
        return Ok(Flow::Wait(Job::Aside(Aside::new(CommandId::TierDetach, move |node| {
            let given_up = fabrics.give_up(node, &nqn);
            move |reply: &mut Writer<'_>| {
                if given_up {
                    reply.ok();
                } else {
                    reply.wire_error(&WireError::new(
                        ErrorWord::Busy,
                        "it was attached meanwhile: TIER LIST has its name",
                    ));
                }
            }
        }))));
    }
    let id = device_of(ctx, name)?;
    tracing::info!(client = ctx.session.client.id, ?how, "TIER DETACH {FLASH}{id}");
    if how == Detach::Cancel {
        if let Some(tier) = ctx.node.tier() {
            tier.call_off(id).map_err(|error| flash(&error))?;
        }
        ctx.reply().ok();
        return Ok(Flow::Go);
    }
    Ok(Flow::Wait(Job::Aside(Aside::new(CommandId::TierDetach, move |node| {
        let detached = node.detach_device(id, how == Detach::Drain);
        move |reply: &mut Writer<'_>| match detached {
            Ok(()) => reply.ok(),
            Err(error) => reply.wire_error(&flash(&error)),
        }
    }))))
}
