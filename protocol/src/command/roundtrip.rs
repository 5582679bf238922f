//! Every typed request reads back as it was written: tests over random ones.

use super::*;
use crate::base::{ByteLen, Crc, GrantId, LeaseId, Lent, Millis, Via};
use crate::resp::{Arg, Framer, Limits, Step};
use bytes::BytesMut;
use proptest::option;
use proptest::prelude::*;

/// Writes with `encode`, frames what was written and hands the arguments to `test`.
fn framed(encode: impl FnOnce(&mut BytesMut), test: impl FnOnce(&crate::resp::Args<'_>)) {
    let mut out = BytesMut::new();
    encode(&mut out);
    let limits = Limits { stream_len_min: usize::MAX, ..Limits::default() };
    let mut framer = Framer::new(limits);
    assert_eq!(framer.poll(&out), Ok(Step::Command { consumed: out.len() }));
    let args = framer.args(&out);
    resolve(&args).expect("a known command with as many words as it must have");
    test(&args);
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..20),
        prop::sample::select(vec![b"VIA".to_vec(), b"lease".to_vec(), b"LEN".to_vec(), b"shm".to_vec()]),
    ]
}

fn keys() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(key(), 1..6)
}

fn millis() -> impl Strategy<Value = Millis> {
    (1..u64::MAX).prop_map(Millis)
}

fn via() -> impl Strategy<Value = ViaChoice> {
    prop::sample::select(vec![
        ViaChoice::Auto,
        ViaChoice::Only(Via::Shm),
        ViaChoice::Only(Via::Tcp),
        ViaChoice::Only(Via::Rdma),
    ])
}

fn source() -> impl Strategy<Value = ShmSource> {
    (any::<u32>(), any::<u64>()).prop_map(|(fd, offset)| ShmSource { fd, offset })
}

/// What [`PutOptions`] borrows, owned.
type Options = (ViaChoice, [Option<Millis>; 2], [Option<Vec<u8>>; 2], Option<u32>, [bool; 3]);

fn options() -> impl Strategy<Value = Options> {
    (
        via(),
        prop::array::uniform2(option::of(millis())),
        prop::array::uniform2(option::of(key())),
        option::of(any::<u32>()),
        prop::array::uniform3(any::<bool>()),
    )
}

fn borrow((via, [ttl, soft_pin], [parent, prefer], replicas, [pin, replace, durable]): &Options) -> PutOptions<'_> {
    PutOptions {
        via: *via,
        ttl: *ttl,
        parent: parent.as_deref(),
        soft_pin: *soft_pin,
        pin: *pin,
        replicas: *replicas,
        prefer: prefer.as_deref(),
        replace: *replace,
        durable: *durable,
    }
}

fn refs(keys: &[Vec<u8>]) -> Vec<&[u8]> {
    keys.iter().map(Vec::as_slice).collect()
}

macro_rules! reads_back {
    ($request:expr, $parse:expr) => {{
        let request = $request;
        framed(
            |out| {
                request.encode(out);
            },
            |args| assert_eq!($parse(args).as_ref(), Ok(&request)),
        );
    }};
}

proptest! {
    #[test]
    fn puts_read_back(key in key(), len: u64, options in options(), write in option::of((any::<u32>(), source()))) {
        let write = write.map(|(crc, from)| (Crc(crc), from));
        reads_back!(Put { key: &key, len: ByteLen(len), options: borrow(&options), write }, Put::parse);
    }

    #[test]
    fn commits_and_aborts_read_back(grant: u64, crc: u32, bytes in option::of(any::<u64>()), from in option::of(source())) {
        let grant = GrantId(grant);
        reads_back!(Commit { grant, crc: Crc(crc), bytes: bytes.map(ByteLen), from, pull: None }, Commit::parse);
        let pull = from.map(|from| RemoteMemory { addr: from.offset, rkey: from.fd });
        reads_back!(Commit { grant, crc: Crc(crc), bytes: bytes.map(ByteLen), from: None, pull }, Commit::parse);
        reads_back!(Abort { grant }, Abort::parse);
    }

    #[test]
    fn batches_read_back(keys in keys(), len: u64, options in options(), via in via(), span in millis(), ids in prop::collection::vec((any::<u64>(), any::<u32>()), 1..6)) {
        let items = refs(&keys).into_iter().map(|key| (key, ByteLen(len))).collect();
        reads_back!(MPut { items, options: borrow(&options) }, MPut::parse);
        let pull = |id: u64, rkey: u32| rkey.is_multiple_of(2).then_some(RemoteMemory { addr: id, rkey });
        let items = ids.iter().map(|&(id, crc)| MCommitItem { grant: GrantId(id), crc: Crc(crc), pull: pull(id, crc) });
        reads_back!(MCommit { items: items.collect() }, MCommit::parse);
        reads_back!(MLease { span, keys: refs(&keys), via }, MLease::parse);
        reads_back!(MRelease { leases: ids.iter().map(|&(id, _)| LeaseId(id)).collect() }, MRelease::parse);
    }

    #[test]
    fn leases_and_pins_read_back(key in key(), id: u64, span in millis(), via in via(), ttl in option::of(millis())) {
        let lease = LeaseId(id);
        reads_back!(Lease { key: &key, span, via }, Lease::parse);
        for lent in [Lent::Lease(LeaseId::of(id)), Lent::Grant(GrantId::of(id))] {
            reads_back!(Renew { lent, span }, Renew::parse);
        }
        reads_back!(Release { lease }, Release::parse);
        reads_back!(Pin { key: &key, ttl }, Pin::parse);
        reads_back!(Unpin { key: &key }, Unpin::parse);
    }

    #[test]
    fn lookups_read_back(keys in keys(), lease in option::of(millis())) {
        let keys = refs(&keys);
        let option = matches!(keys[..], [_, .., word, _] if word.eq_ignore_ascii_case(b"lease"));
        prop_assume!(lease.is_some() || !option);
        reads_back!(Lookup { keys, lease }, Lookup::parse);
    }

    #[test]
    fn sets_read_back(key in key(), value in prop::collection::vec(any::<u8>(), 0..50), nx in option::of(any::<bool>()), get: bool, kind in 0..4, time in 1..i64::MAX as u64) {
        let condition = nx.map(|nx| if nx { SetCondition::Absent } else { SetCondition::Present });
        let expiry = [SetExpiry::Never, SetExpiry::Keep, SetExpiry::In(Millis(time)), SetExpiry::AtUnix(Millis(time))][kind as usize];
        reads_back!(Set { key: &key, value: Arg::Bytes(&value), condition, get, expiry }, Set::parse);
        // A value that is sent by another way belongs where the encoder says.
        let mut whole = BytesMut::new();
        Set { key: &key, value: Arg::Bytes(&value), condition, get, expiry }.encode(&mut whole);
        let mut around = BytesMut::new();
        let taken = Set { key: &key, value: Arg::Taken { len: value.len() as u64 }, condition, get, expiry };
        let at = taken.encode(&mut around).expect("a place");
        prop_assert_eq!([&around[..at], &value, &around[at..]].concat(), whole.to_vec());
    }

    #[test]
    fn times_to_live_read_back(key in key(), time: i64, unix: bool, flags in 0..7usize) {
        let at = if unix { ExpireAt::Unix(time) } else { ExpireAt::In(time) };
        let (nx, xx, gt, lt) = [
            (false, false, false, false), (true, false, false, false), (false, true, false, false), (false, false, true, false),
            (false, false, false, true), (false, true, true, false), (false, true, false, true),
        ][flags];
        let condition = ExpireCondition { nx, xx, gt, lt };
        let command = if unix { CommandId::PExpireAt } else { CommandId::PExpire };
        reads_back!(Expire { key: &key, at, condition }, |args| Expire::parse(command, args));
    }

    #[test]
    fn scans_and_evictions_read_back(cursor: u64, pattern in option::of(key()), count in 1..i64::MAX as u64, kind in option::of(key())) {
        reads_back!(Scan { cursor, pattern: pattern.as_deref(), count, kind: kind.as_deref() }, Scan::parse);
        reads_back!(Evict { bytes: ByteLen(count) }, Evict::parse);
    }

    #[test]
    fn tiers_read_back(name in key(), size in option::of(key()), drain: bool) {
        reads_back!(TierAttach::Path { path: &name, size: size.as_deref() }, TierAttach::parse);
        let target = vec![&b"transport=tcp"[..], b"nqn=nqn.x:y"];
        reads_back!(TierAttach::Fabric { target: target.clone(), format: drain }, TierAttach::parse);
        for how in [Detach::Drain, Detach::NoDrain, Detach::Cancel] {
            reads_back!(TierDetach { name: &name, how }, TierDetach::parse);
        }
        reads_back!(TierScrub { name: size.as_deref() }, TierScrub::parse);
    }

    #[test]
    fn sessions_read_back(
        buffers in 0..=Attach::BUFFERS_MAX,
        compact: bool,
        numbers in any::<(u32, u32)>(),
        gid in any::<[u8; 16]>(),
        small in any::<(u16, u8, u8)>(),
        (name, room) in (key(), any::<u64>()),
    ) {
        let ((qpn, psn), (lid, mtu, reads)) = (numbers, small);
        reads_back!(Attach::Rdma(RdmaEnd { qpn, psn, gid, lid, mtu, reads }), Attach::parse);
        let to = RemoteMemory { addr: room, rkey: qpn };
        reads_back!(GetInto { key: &name, to, room }, GetInto::parse);
        reads_back!(Attach::Shm { buffers, compact }, Attach::parse);
        reads_back!(Attach::Tcp, Attach::parse);
    }
}

fn refused(line: &str) -> String {
    let buf = crate::resp::ArgBuf::new(line.split(' '));
    let args = buf.args();
    let error = match resolve(&args).expect("a known command").id {
        CommandId::Put => Put::parse(&args).map(drop),
        CommandId::Commit => Commit::parse(&args).map(drop),
        CommandId::Abort => Abort::parse(&args).map(drop),
        CommandId::MPut => MPut::parse(&args).map(drop),
        CommandId::MCommit => MCommit::parse(&args).map(drop),
        CommandId::Lease => Lease::parse(&args).map(drop),
        CommandId::MLease => MLease::parse(&args).map(drop),
        CommandId::Release => Release::parse(&args).map(drop),
        CommandId::Lookup => Lookup::parse(&args).map(drop),
        CommandId::Pin => Pin::parse(&args).map(drop),
        CommandId::Attach => Attach::parse(&args).map(drop),
        CommandId::Get => GetInto::parse(&args).map(drop),
        CommandId::Set => Set::parse(&args).map(drop),
        CommandId::Scan => Scan::parse(&args).map(drop),
        CommandId::TierAttach => TierAttach::parse(&args).map(drop),
        CommandId::TierDetach => TierDetach::parse(&args).map(drop),
        id => Expire::parse(id, &args).map(drop),
    };
    error.expect_err(line).to_string()
}

#[test]
fn what_makes_no_sense_is_refused_and_told_why() {
    const SYNTAX: &str = "ERR syntax error";
    const NUMBER: &str = "ERR value is not an integer or out of range";
    let long_key = format!("LEASE {} 5", "k".repeat(crate::base::KEY_LEN_MAX + 1));
    for (line, error) in [
        ("PUT k LEN x", NUMBER),
        ("PUT k LEN -1", NUMBER),
        ("PUT k TTL 5", "ERR PUT needs LEN and the object's bytes"),
        ("PUT k LEN 5 LEN 6", SYNTAX),
        ("PUT k LEN 5 VIA pigeon", "ERR VIA is one of auto, rdma, shm, tcp"),
        ("PUT k LEN 5 VIA auto VIA shm", SYNTAX),
        ("PUT k LEN 5 TTL", SYNTAX),
        ("PUT k LEN 5 TTL 0", "ERR a span of time is at least 1 ms"),
        ("PUT k LEN 5 WHAT", SYNTAX),
        ("PUT k LEN 5 CRC 00000000", "ERR CRC and FROM go together"),
        ("PUT k LEN 5 FROM 0 0", "ERR CRC and FROM go together"),
        ("COMMIT 0123456789abcdef CRC 123", "ERR a checksum is 8 hex digits"),
        ("COMMIT 0123456789abcdef BYTES 5", "ERR COMMIT needs CRC and the checksum of the bytes"),
        ("COMMIT nope CRC 00000000", "NOGRANT no such grant"),
        ("ABORT nope", "NOGRANT no such grant"),
        ("MPUT 2 a 5 b", "ERR the count of items does not fit the arguments"),
        ("MPUT 0 a 5", "ERR the count of items does not fit the arguments"),
        ("MPUT 18446744073709551615 a 5", "ERR the count of items does not fit the arguments"),
        ("MPUT 1 a 5 b 5", SYNTAX),
        ("MCOMMIT 0123456789abcdef 00000000 0123456789abcdef", SYNTAX),
        ("LEASE k 5 VIA", SYNTAX),
        ("LEASE k 5 VIA shm x", SYNTAX),
        ("LEASE k soon", NUMBER),
        (&long_key, "TOOBIG a key has at most 16 KiB, this one 16.00 KiB"),
        ("MLEASE 5 k VIA pigeon", "ERR VIA is one of auto, rdma, shm, tcp"),
        ("RELEASE nope", "NOLEASE no such lease"),
        ("LOOKUP k LEASE soon", NUMBER),
        ("PIN k TTL", SYNTAX),
        ("PIN k FOR 5", SYNTAX),
        ("ATTACH RDMA 1 2 3", SYNTAX),
        ("ATTACH RDMA QPN 1 PSN 2", "ERR ATTACH RDMA needs QPN, PSN, GID, MTU and READS of the client's queue pair"),
        ("ATTACH RDMA GID 00", "ERR a GID is 32 hex digits"),
        ("ATTACH RDMA GID +0000000000000000000000000000000", "ERR a GID is 32 hex digits"),
        ("GET k INTO 1 2 x", NUMBER),
        ("GET k ONTO 1 2 3", SYNTAX),
        ("COMMIT 0123456789abcdef CRC 00000000 FROM 0 0 PULL 0 0", "ERR the bytes lie in one place: FROM or PULL"),
        ("ATTACH SHM COMPACT COMPACT", "ERR syntax error"),
        ("ATTACH SHM BUFFERS 17", "TOOBIG at most 16 buffers"),
        ("ATTACH X", "ERR ATTACH takes SHM, TCP or RDMA"),
        ("SET k v NX XX", SYNTAX),
        ("SET k v EX 5 PX 5", SYNTAX),
        ("SET k v EX 0", "ERR invalid expire time in 'set' command"),
        ("SET k v PX -5", "ERR invalid expire time in 'set' command"),
        ("SET k v EX 9223372036854775807", "ERR invalid expire time in 'set' command"),
        ("SET k v EX x", NUMBER),
        ("SET k v WHAT", SYNTAX),
        ("EXPIRE k 9223372036854775807", "ERR invalid expire time in 'expire' command"),
        ("EXPIRE k 1 NX GT", "ERR NX and XX, GT or LT options at the same time are not compatible"),
        ("EXPIRE k 1 GT LT", "ERR GT and LT options at the same time are not compatible"),
        ("EXPIRE k 1 WHAT", "ERR Unsupported option WHAT"),
        ("TIER ATTACH /a 1GiB x", SYNTAX),
        ("TIER ATTACH nvmeof nqn=a x", SYNTAX),
        ("TIER ATTACH nvmeof FORMAT FORMAT", SYNTAX),
        ("TIER DETACH flash.0 DRAIN", SYNTAX),
        ("SCAN x", "ERR invalid cursor"),
        ("SCAN 0 COUNT 0", SYNTAX),
        ("SCAN 0 COUNT x", NUMBER),
        ("SCAN 0 MATCH", SYNTAX),
    ] {
        assert_eq!(refused(line), error, "{line}");
    }
}
