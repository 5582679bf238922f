//! Holds a client's buffer to its regions.
//!
//! Invariant: regions that are taken at the same time never overlap, and all come back.

use super::*;
use proptest::prelude::*;
use protocol::base::{copy_from, crc_of};
use rustix::fs::{FallocateFlags, MemfdFlags, Mode, OFlags};

const QUOTA: ByteLen = ByteLen::mib(1);

fn adopt(fd: impl Into<OwnedFd>) -> Result<PeerBuffer, AdoptError> {
    PeerBuffer::adopt(fd.into(), QUOTA, Populate::Lazy)
}

fn memfd_of(len: u64, seals: SealFlags) -> OwnedFd {
    let fd = memfd::create("x", len).expect("made");
    memfd::add_seals(&fd, seals).expect("sealed");
    fd
}

#[test]
fn what_a_client_fills_the_server_reads() {
    let client = ClientBuffer::create(ByteLen(100_000)).expect("made");
    assert_eq!(client.len(), 102_400, "whole pages");
    let server = adopt(client.fd().try_clone_to_owned().expect("a duplicate")).expect("adopted");
    let _first = client.take(5000).expect("room");
    let mut region = client.take(3000).expect("room");
    assert_eq!((region.offset(), region.len()), (8192, 3000));
    let bytes: Vec<u8> = (0..3000usize).map(|at| at.to_le_bytes()[0]).collect();
    let crc = region.fill(&bytes);
    assert!(region.as_slice() == bytes);
    let span = server.span(region.offset(), 3000).expect("inside");
    let mut seen = vec![0; 3000];
    assert_eq!(copy_from(&span, &mut seen), crc);
    assert!(seen == bytes);
    region.as_mut_slice()[0] ^= 1;
    assert_ne!(crc_of(&span), crc, "the client can write on: the server copies first");
    for (offset, len) in [(102_400, 1), (0, 102_401), (u64::MAX, 1), (1, u64::MAX)] {
        assert!(server.span(offset, len).is_none(), "{len} at {offset}");
    }
}

#[test]
fn nobody_else_can_write_a_clients_buffer() {
    let client = ClientBuffer::create(ByteLen(4096)).expect("made");
    assert!(memfd::map(client.fd(), 4096, Populate::Lazy, true).is_err(), "a second writable mapping");
    assert_eq!(rustix::io::pwrite(client.fd(), b"x", 0), Err(Errno::PERM));
    assert_eq!(rustix::fs::ftruncate(client.fd(), 0), Err(Errno::PERM));
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    assert_eq!(rustix::fs::fallocate(client.fd(), punch, 0, 4096), Err(Errno::PERM));
}

#[test]
fn only_sealed_memory_within_the_quota_is_adopted() {
    let both = SealFlags::SHRINK | SealFlags::GROW;
    assert_eq!(adopt(memfd_of(QUOTA.get(), both)).expect("the most").len() as u64, QUOTA.get());
    let refusal = |fd: OwnedFd| adopt(fd).expect_err("refused");
    assert!(matches!(refusal(memfd_of(4096, SealFlags::empty())), AdoptError::Unsealed));
    assert!(matches!(refusal(memfd_of(4096, SealFlags::SHRINK)), AdoptError::Unsealed));
    assert!(matches!(refusal(memfd_of(4096, SealFlags::GROW)), AdoptError::Unsealed));
    assert!(matches!(refusal(memfd_of(0, both)), AdoptError::Empty));
    let over = refusal(memfd_of(QUOTA.get() + 1, both));
    assert!(matches!(over, AdoptError::TooBig { len: ByteLen(1_048_577), quota: QUOTA }), "{over}");
    assert!(matches!(refusal(memfd_of(1 << 60, both)), AdoptError::TooBig { .. }), "sparse and vast");
    let forbidden = rustix::fs::memfd_create("x", MemfdFlags::CLOEXEC).expect("made");
    assert!(matches!(refusal(forbidden), AdoptError::Unsealed), "a memfd that allows no seals");
}

#[test]
fn what_is_no_memory_is_refused() {
    let refusal = |fd: OwnedFd| adopt(fd).expect_err("refused");
    let (pipe, _write_end) = std::io::pipe().expect("a pipe");
    assert!(matches!(refusal(pipe.into()), AdoptError::NotAMemfd));
    let (socket, _other) = std::os::unix::net::UnixStream::pair().expect("a pair");
    assert!(matches!(refusal(socket.into()), AdoptError::NotAMemfd));
    let device = std::fs::File::open("/dev/zero").expect("opened");
    assert!(matches!(refusal(device.into()), AdoptError::NotAMemfd));
    let directory = std::fs::File::open(".").expect("opened");
    assert!(matches!(refusal(directory.into()), AdoptError::NotAMemfd | AdoptError::Unsealed));
    let path_only = rustix::fs::open(".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).expect("opened");
    assert!(matches!(refusal(path_only), AdoptError::NotAMemfd));
    // A file on tmpfs has seals, but never these.
    let file = std::env::current_exe().and_then(std::fs::File::open).expect("opened");
    assert!(matches!(refusal(file.into()), AdoptError::NotAMemfd | AdoptError::Unsealed));
}

#[test]
fn memory_that_may_only_be_written_cannot_be_mapped() {
    use std::os::fd::AsRawFd as _;
    let fd = memfd_of(4096, SealFlags::SHRINK | SealFlags::GROW);
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let write_only = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).expect("reopened");
    assert!(matches!(adopt(write_only).expect_err("refused"), AdoptError::Map(_)));
}

#[test]
fn a_hole_punched_under_the_server_reads_as_zeros() {
    let fd = memfd_of(8192, SealFlags::SHRINK | SealFlags::GROW);
    rustix::io::pwrite(&fd, &[7; 8192], 0).expect("written");
    let server = adopt(fd.try_clone().expect("a duplicate")).expect("adopted");
    let mut seen = [1; 8192];
    copy_from(&server.span(0, 8192).expect("inside"), &mut seen);
    assert!(seen == [7; 8192]);
    assert_eq!(rustix::fs::ftruncate(&fd, 0), Err(Errno::PERM));
    rustix::fs::fallocate(&fd, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, 8192).expect("punched");
    copy_from(&server.span(0, 8192).expect("inside"), &mut seen);
    assert!(seen == [0; 8192]);
}

#[test]
fn a_buffer_of_no_bytes_or_too_many_is_not_made() {
    assert!(matches!(ClientBuffer::create(ByteLen(0)), Err(ShmError::Length(0))));
    assert!(ClientBuffer::create(ByteLen(u64::MAX)).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever is taken and given back, in whatever order: no two regions overlap, and in the end one run is free.
    #[test]
    fn regions_never_overlap_and_all_come_back(steps in prop::collection::vec((0usize..30_000, any::<prop::sample::Index>()), 1..60)) {
        const LEN: usize = 256 * 1024;
        let client = ClientBuffer::create(ByteLen(LEN as u64)).expect("made");
        let mut held: Vec<BufferRegion> = Vec::new();
        for (len, index) in steps {
            if len % 3 == 0 && !held.is_empty() {
                held.swap_remove(index.index(held.len()));
                continue;
            }
            if let Some(region) = client.take(len) {
                let of = |r: &BufferRegion| r.offset..r.offset + r.held;
                prop_assert!(of(&region).end <= LEN);
                prop_assert!(region.offset.is_multiple_of(REGION_ALIGN));
                for other in &held {
                    prop_assert!(of(other).end <= of(&region).start || of(&region).end <= of(other).start);
                }
                held.push(region);
            }
        }
        held.clear();
        prop_assert_eq!(&*client.shared.free.lock(), &BTreeMap::from([(0, LEN)]));
        prop_assert!(client.take(LEN + 1).is_none());
        prop_assert!(client.take(LEN).is_some());
    }
}
