//! Arena mode: clients write into the segments, and nobody believes a byte that was not checked.

use client::{Choice, Client, ClientError, Options, PutOptions, Transport};
use protocol::base::{RawSpan, copy_into};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tests::info::{memory, quiet_within};
use tests::payload;
use tests::{Raw, Server, Value};
use transport::shm::{Mapping, Populate, ShmError, map_writable};

const LIMIT: Duration = Duration::from_secs(10);

/// Lengths from a slab slot to several pieces of a copy.
const LENS: [usize; 5] = [100, 5_000, 300_001, 3 << 20, 9 << 20];

fn arena(args: &[&str]) -> Server {
    Server::start(&[&["--shm-write", "arena"], args].concat())
}

fn client(server: &Server, via: Choice) -> Client {
    let address = server.addr().to_string().parse().expect("an address");
    Client::connect(Options::new(address).via(via)).expect("connected")
}

/// A shared-memory session by hand.
struct Peer {
    raw: Raw,
    segments: Vec<Arc<Mapping>>,
}

impl Peer {
    fn attach(server: &Server) -> Result<Self, ShmError> {
        let mut raw = Raw::unix(&server.socket()).expect("the socket is there");
        let attached = raw.ask(&["ATTACH", "SHM"]);
        let mut segments = Vec::new();
        for (segment, fd) in attached.field("segments").items().iter().zip(&raw.fds) {
            let len = usize::try_from(segment.field("length").number()).expect("64-bit");
            segments.push(Arc::new(map_writable(fd, len, Populate::Lazy)?));
        }
        Ok(Self { raw, segments })
    }

    fn granted(&mut self, key: &str, len: usize) -> (String, RawSpan) {
        let granted = self.raw.ask(&["PUT", key, "LEN", &len.to_string(), "VIA", "shm"]);
        (granted.field("grant").text().to_owned(), self.span(&granted))
    }

    /// Where the locator of a grant or lease points.
    fn span(&self, lent: &Value) -> RawSpan {
        let locator = &lent.field("locators").items()[0];
        let number = |name| usize::try_from(locator.field(name).number()).expect("64-bit");
        let segment = &self.segments[number("fd")];
        segment.span(number("offset"), number("length")).expect("inside the segment")
    }

    /// Writes an object in place and publishes it; returns where it lies.
    fn put(&mut self, key: &str, bytes: &[u8]) -> RawSpan {
        let (grant, span) = self.granted(key, bytes.len());
        let crc = copy_into(bytes, &span).to_string();
        let committed = self.raw.ask(&["COMMIT", &grant, "CRC", &crc]);
        assert_eq!(committed.field("length").number(), bytes.len() as u64, "{committed:?}");
        span
    }
}

/// Changes one byte of a payload that was published.
fn scribble(span: &RawSpan, bytes: &[u8]) {
    let at = bytes.len() / 2;
    copy_into(&[!bytes[at]], &span.part(at, 1).expect("inside"));
}

fn counted(raw: &mut Raw, name: &str) -> u64 {
    let info = raw.ask(&["INFO", "all"]);
    let line = info.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("{name} in {}", info.text())).parse().expect("a number")
}

#[test]
fn objects_written_in_place_are_read_by_every_way() {
    let server = arena(&[]);
    let mut writer = client(&server, Choice::Shm);
    assert_eq!(writer.transport(), Some(Transport::Shm));
    let mut readers = [Choice::Shm, Choice::Tcp, Choice::InBand].map(|via| client(&server, via));
    let mut raw = Raw::to(&server);
    for len in LENS {
        let key = format!("block:{len}");
        let bytes = payload::make(key.as_bytes(), 1, len);
        let copied = counted(&mut raw, "shm_input_bytes");
        writer.put(key.as_bytes(), &bytes, &PutOptions::default()).expect("published");
        let copied = counted(&mut raw, "shm_input_bytes") - copied;
        assert_eq!(copied, if len < 8 << 20 { len as u64 } else { 0 }, "bytes that the server copied of {len}");
        for reader in &mut readers {
            let mut buffer = vec![0; len];
            let read = reader.fetch(key.as_bytes(), &mut buffer).expect("read").expect("there");
            assert!(read.bytes() == bytes, "{:?} of {len} bytes", reader.transport());
        }
        let bulk = Value::Bulk(bytes.clone());
        assert!(raw.ask(&["GET", &key]) == bulk, "GET of {len} bytes");
        assert!(raw.ask(&["MGET", "nosuch", &key, &key]) == Value::Array(vec![Value::Nil, bulk.clone(), bulk.clone()]));
        let part = Value::Bulk(bytes[10..len - 20].to_vec());
        assert!(raw.ask(&["GETRANGE", &key, "10", "-21"]) == part, "GETRANGE of {len} bytes");
        assert!(raw.ask(&["SET", &key, "new", "GET"]) == bulk, "SET GET of {len} bytes");
        assert_eq!(raw.ask(&["GET", &key]), Value::Bulk(b"new".to_vec()));
    }
    assert_eq!(raw.ask(&["GETRANGE", "nosuch", "0", "-1"]), Value::Bulk(Vec::new()));
    // Without memory of its own a client writes everything in place.
    let mut options = writer.options().clone();
    options.buffer_len = 0;
    let mut writer = Client::connect(options).expect("connected");
    let copied = counted(&mut raw, "shm_input_bytes");
    for len in LENS {
        writer
            .put(b"k", &payload::make(b"k", 2, len), &PutOptions { replace: true, ..PutOptions::default() })
            .expect("put");
        assert!(raw.ask(&["GET", "k"]) == Value::Bulk(payload::make(b"k", 2, len)), "{len} bytes");
    }
    assert_eq!(counted(&mut raw, "shm_input_bytes"), copied);
    assert_eq!(counted(&mut raw, "scribbled"), 0);
}

#[test]
fn an_object_scribbled_over_is_missed_in_band_and_removed() {
    let server = arena(&[]);
    let mut peer = Peer::attach(&server).expect("attached");
    let mut raw = Raw::to(&server);
    let mut removed = 0;
    for len in LENS {
        let bytes = payload::make(b"k", 1, len);
        for (words, missed) in [
            (&["GET", "k"][..], Value::Nil),
            (&["MGET", "k"], Value::Array(vec![Value::Nil])),
            (&["GETRANGE", "k", "0", "3"], Value::Bulk(Vec::new())),
            (&["SET", "k", "v", "XX", "GET"], Value::Nil),
        ] {
            let span = peer.put("k", &bytes);
            assert!(raw.ask(&["GET", "k"]) == Value::Bulk(bytes.clone()), "{len} bytes as they were committed");
            scribble(&span, &bytes);
            let told = raw.ask(words);
            assert!(told == missed, "{words:?} of {len} bytes");
            removed += 1;
            assert_eq!(counted(&mut raw, "scribbled"), removed, "{words:?} of {len} bytes");
            raw.ask(&["DEL", "k"]);
        }
    }
    assert_eq!(raw.ask(&["DBSIZE"]), Value::Int(0));
    quiet_within(&server, LIMIT);
}

#[test]
fn an_object_scribbled_over_never_reaches_the_caller_of_a_client() {
    let server = arena(&[]);
    let mut peer = Peer::attach(&server).expect("attached");
    for via in [Choice::Shm, Choice::Tcp, Choice::InBand] {
        let mut reader = client(&server, via);
        for len in LENS {
            let bytes = payload::make(b"k", 1, len);
            let span = peer.put("k", &bytes);
            scribble(&span, &bytes);
            let mut buffer = vec![0; len];
            let read = reader.fetch(b"k", &mut buffer);
            let told = matches!(read, Err(ClientError::Checksum { .. } | ClientError::Stale(_)));
            assert!(told || (via == Choice::InBand && matches!(read, Ok(None))), "{via:?} of {len} bytes: {read:?}");
            peer.raw.ask(&["DEL", "k"]);
        }
    }
}

#[test]
fn a_commit_of_other_bytes_than_claimed_publishes_nothing() {
    let server = arena(&[]);
    let mut peer = Peer::attach(&server).expect("attached");
    for len in LENS {
        let bytes = payload::make(b"k", 1, len);
        let (grant, span) = peer.granted("k", len);
        let crc = copy_into(&bytes, &span).to_string();
        scribble(&span, &bytes);
        let refused = peer.raw.ask(&["COMMIT", &grant, "CRC", &crc]);
        assert!(refused.is_error("CRC"), "{refused:?}");
        assert_eq!(peer.raw.ask(&["GET", "k"]), Value::Nil);
    }
    quiet_within(&server, LIMIT);
}

#[test]
fn slots_come_back_from_writers_that_do_not_commit() {
    let server = arena(&["--grant-ms", "100"]);
    let before = memory(&server).used;
    let mut peer = Peer::attach(&server).expect("attached");
    for len in LENS {
        let (expired, span) = peer.granted("k", len);
        copy_into(&vec![1; len], &span);
        quiet_within(&server, LIMIT);
        let late = peer.raw.ask(&["COMMIT", &expired, "CRC", "00000000"]);
        assert!(late.is_error("NOGRANT"), "{late:?}");
        let (aborted, _) = peer.granted("k", len);
        assert_eq!(peer.raw.ask(&["ABORT", &aborted]), Value::Int(1));
        quiet_within(&server, LIMIT);
        peer.granted("k", len);
    }
    drop(peer);
    quiet_within(&server, LIMIT);
    let after = memory(&server);
    assert_eq!(after.used - after.slab_free, before, "{after:?}");
    assert!(!server.log().contains("fence"), "{}", server.log());
}

#[test]
fn in_copy_mode_no_client_maps_a_segment_writable() {
    let server = Server::start(&[]);
    let refused = Peer::attach(&server).err().expect("sealed");
    let denied = |source: &io::Error| source.kind() == io::ErrorKind::PermissionDenied;
    assert!(matches!(&refused, ShmError::Os { source, .. } if denied(source)), "{refused:?}");
    let mut raw = Raw::unix(&server.socket()).expect("the socket is there");
    raw.ask(&["ATTACH", "SHM"]);
    let granted = raw.ask(&["PUT", "k", "LEN", "100", "VIA", "shm"]);
    assert!(!granted.field("locators").items()[0].has("fd"), "{granted:?}");
}
