//! `CLUSTER`: what a client of a cluster asks, answered for this one node, which has every slot.

use super::aside::{Aside, OBJECTS_MAX};
use super::generic::every_key;
use super::job::Job;
use crate::acl::guard::Sight;
use crate::dispatch::{Ctx, Flow};
use crate::node::Node;
use crc::{CRC_16_XMODEM, Crc, Table};
use protocol::base::Instant;
use protocol::command::{CommandId, parse_i64};
use protocol::resp::{WireError, Writer};

static CRC16: Crc<u16, Table<1>> = Crc::<u16, Table<1>>::new(&CRC_16_XMODEM);

/// Slots of a cluster.
const SLOTS: u16 = 16_384;

/// The slot of a key: of what stands between its first braces, if anything does.
pub(crate) fn slot_of(key: &[u8]) -> u16 {
    let tag = key.iter().position(|&byte| byte == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        let close = rest.iter().position(|&byte| byte == b'}')?;
        (close > 0).then(|| &rest[..close])
    });
    CRC16.checksum(tag.unwrap_or(key)) % SLOTS
}

/// Refuses where this node answers as one that is in no cluster.
pub(crate) fn check_enabled(ctx: &Ctx<'_>) -> Result<(), WireError> {
    if ctx.node.cluster_enabled {
        return Ok(());
    }
    Err(WireError::err("This instance has cluster support disabled"))
}

/// Address and port that clients reach this node by.
fn address(ctx: &Ctx<'_>) -> (String, u16) {
    // What this client reached it by is right for it, also where the node listens on every address.
    let laddr = ctx.session.client.laddr.parse::<std::net::SocketAddr>().ok();
    let addr = laddr.or(ctx.node.addresses().resp);
    addr.map_or_else(|| (String::new(), 0), |addr| (addr.ip().to_string(), addr.port()))
}

/// Everything of `CLUSTER` but the keys of a slot.
pub(crate) fn cluster(ctx: &mut Ctx<'_>, id: CommandId) -> Result<Flow, WireError> {
    check_enabled(ctx)?;
    let name = ctx.node.id.0.clone();
    let (ip, port) = address(ctx);
    let last = i64::from(SLOTS) - 1;
    match id {
        CommandId::ClusterMyId => ctx.reply().bulk(name.as_bytes()),
        CommandId::ClusterInfo => {
            let text = format!(
                "cluster_state:ok\r\ncluster_slots_assigned:{SLOTS}\r\ncluster_slots_ok:{SLOTS}\r\ncluster_slots_pfail:0\r\n\
                 cluster_slots_fail:0\r\ncluster_known_nodes:1\r\ncluster_size:1\r\ncluster_current_epoch:1\r\n\
                 cluster_my_epoch:1\r\ncluster_stats_messages_sent:0\r\ncluster_stats_messages_received:0\r\n\
                 total_cluster_links_buffer_limit_exceeded:0\r\n"
            );
            ctx.reply().verbatim(&text);
        }
        CommandId::ClusterNodes => {
            let text = format!("{name} {ip}:{port}@{port} myself,master - 0 0 1 connected 0-{last}\n");
            ctx.reply().verbatim(&text);
        }
        CommandId::ClusterSlots => {
            let mut reply = ctx.reply();
            reply.array(1);
            reply.array(3);
            reply.integer(0);
            reply.integer(last);
            reply.array(4);
            reply.bulk(ip.as_bytes());
            reply.count(port.into());
            reply.bulk(name.as_bytes());
            reply.array(0);
        }
        CommandId::ClusterShards => {
            let mut reply = ctx.reply();
            reply.array(1);
            reply.map(2);
            reply.field("slots").array(2);
            reply.integer(0);
            reply.integer(last);
            reply.field("nodes").array(1);
            reply.map(7);
            reply.field("id").bulk(name.as_bytes());
            reply.field("port").count(port.into());
            reply.field("ip").bulk(ip.as_bytes());
            reply.field("endpoint").bulk(ip.as_bytes());
            reply.field("role").bulk(b"master");
            reply.field("replication-offset").integer(0);
            reply.field("health").bulk(b"online");
        }
        _ => {
            let slot = slot_of(ctx.word(2)?);
            ctx.reply().integer(slot.into());
        }
    }
    Ok(Flow::Go)
}

fn slot(word: &[u8]) -> Result<u16, WireError> {
    let slot = parse_i64(word).and_then(|slot| u16::try_from(slot).ok()).filter(|&slot| slot < SLOTS);
    slot.ok_or_else(|| WireError::err("Invalid slot"))
}

/// Keys of a slot, at most so many, and how many there are.
fn keys_in(node: &Node, now: Instant, sight: &Sight, slot: u16, most: usize) -> (Vec<Vec<u8>>, u64) {
    let (mut keys, mut count) = (Vec::new(), 0);
    every_key(node, now, |key| {
        if slot_of(key) == slot && sight.has(key) {
            count += 1;
            if keys.len() < most {
                keys.push(key.to_vec());
            }
        }
    });
    (keys, count)
}

/// `CLUSTER COUNTKEYSINSLOT slot` and `CLUSTER GETKEYSINSLOT slot count`: all keys are looked at.
pub(crate) fn keys_in_slot(ctx: &mut Ctx<'_>, id: CommandId) -> Result<Flow, WireError> {
    check_enabled(ctx)?;
    let slot = slot(ctx.word(2)?)?;
    let most = match id {
        CommandId::ClusterGetKeysInSlot => {
            let count = parse_i64(ctx.word(3)?).and_then(|count| usize::try_from(count).ok());
            Some(count.ok_or_else(|| WireError::err("Invalid number of keys"))?)
        }
        _ => None,
    };
    let (now, sight) = (ctx.now, Sight::of(ctx.session));
    let look = move |node: &Node| {
        let (keys, count) = keys_in(node, now, &sight, slot, most.unwrap_or(0));
        move |reply: &mut Writer<'_>| match most {
            None => reply.count(count),
            Some(_) => {
                reply.array(keys.len());
                keys.iter().for_each(|key| reply.bulk(key));
            }
        }
    };
    if ctx.node.store.len() > OBJECTS_MAX && ctx.alone.is_none() {
        return Ok(Flow::Wait(Job::Aside(Aside::new(id, look))));
    }
    look(ctx.node)(&mut ctx.reply());
    Ok(Flow::Go)
}

/// `ASKING`, `READONLY`, `READWRITE`: this node has every slot and is no replica.
pub(crate) fn accept(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    check_enabled(ctx)?;
    ctx.reply().ok();
    Ok(Flow::Go)
}

#[cfg(test)]
mod tests {
    use super::slot_of;

    #[test]
    fn slots_are_those_of_every_cluster() {
        for (key, slot) in [("foo", 12182), ("123456789", 12739), ("", 0), ("a{foo}b", 12182), ("{}foo", 9500)] {
            assert_eq!(slot_of(key.as_bytes()), slot, "{key}");
        }
        assert_eq!(slot_of(b"{user1000}.following"), slot_of(b"{user1000}.followers"));
        assert_ne!(slot_of(b"foo{{bar}}zap"), slot_of(b"foo{bar}"));
    }
}
