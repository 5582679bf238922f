//! Bulk connections and the pool of them, against a server of these tests that is told how to answer.
//!
//! Invariants:
//! - Nothing waits longer than [`LIMIT`], whatever the other side does.

use super::super::pool::{BulkPool, STRIPE_LEN_MIN};
use super::*;
use std::collections::HashMap;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

const LIMIT: Duration = Duration::from_secs(30);
const TOKEN: Token = Token(*b"an open sesame!!");
const GENERATION: Generation = Generation(41);

fn soon() -> Instant {
    Instant::now() + LIMIT
}

/// What the server under the test's control holds, by grant and lease alike.
type Slots = Arc<Mutex<HashMap<u64, Vec<u8>>>>;

/// A server that applies frames as it should, and sends in pieces of at most `sent_max` bytes.
fn serve(slots: Slots, sent_max: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let addr = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, slots) = (stream.expect("accepted"), Arc::clone(&slots));
            std::thread::spawn(move || serve_one(stream, &slots, sent_max));
        }
    });
    addr
}

fn serve_one(mut stream: TcpStream, slots: &Slots, sent_max: usize) {
    stream.set_nodelay(true).expect("set");
    let mut header = [0; HEADER_LEN];
    while stream.read_exact(&mut header).is_ok() {
        let header = RequestHeader::decode(&header).expect("a client of ours");
        let mut payload = vec![0; usize::try_from(header.request.payload_len()).expect("fits")];
        stream.read_exact(&mut payload).expect("the payload follows");
        let (answer, bytes) = apply(header, &payload, &mut slots.lock().expect("sound"));
        for chunk in [&answer.encode()[..], &bytes].concat().chunks(sent_max) {
            if stream.write_all(chunk).is_err() {
                return;
            }
        }
    }
}

fn apply(header: RequestHeader, payload: &[u8], slots: &mut HashMap<u64, Vec<u8>>) -> (ResponseHeader, Vec<u8>) {
    let range = |offset: u64, length: u64, slot: &Vec<u8>| {
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(usize::try_from(length).ok()?)?;
        (end <= slot.len()).then_some(start..end)
    };
    let refuse = |status| (header.refused(status), Vec::new());
    match header.request {
        Request::Hello { token } if token == TOKEN => (header.done(), Vec::new()),
        Request::Hello { .. } => refuse(Status::Denied),
        Request::Ping => (header.done(), Vec::new()),
        Request::Write { grant, offset, length, crc } => {
            let Some(slot) = slots.get_mut(&grant.0) else { return refuse(Status::NoGrant) };
            let Some(range) = range(offset, length, slot) else { return refuse(Status::TooBig) };
            if crc.is_some_and(|crc| crc != Crc::of(payload)) {
                return refuse(Status::Crc);
            }
            slot[range].copy_from_slice(payload);
            (header.written(GENERATION), Vec::new())
        }
        Request::Read { lease, offset, length } => {
            let Some(slot) = slots.get(&lease.0) else { return refuse(Status::NoLease) };
            let Some(range) = range(offset, length, slot) else { return refuse(Status::TooBig) };
            (header.reading(GENERATION, length, Crc::of(slot)), slot[range].to_vec())
        }
    }
}

fn slots_of(lens: &[(u64, usize)]) -> Slots {
    Arc::new(Mutex::new(lens.iter().map(|&(id, len)| (id, vec![0; len])).collect()))
}

fn some_bytes(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|at| ((at ^ seed).wrapping_mul(0x9e37_79b1) >> 9).to_le_bytes()[0]).collect()
}

#[test]
fn what_is_written_is_read_whatever_the_length_and_the_pieces_it_comes_in() {
    for sent_max in [1 << 20, 7, 65] {
        let len_max = if sent_max < 1000 { 10_000 } else { 3 << 20 };
        let slots = slots_of(&[(1, len_max)]);
        let mut bulk = BulkConnection::connect(serve(slots, sent_max), TOKEN, soon()).expect("connected");
        for len in [0, 1, 63, 64, 65, 4096, len_max] {
            let bytes = some_bytes(len, len);
            bulk.write(GrantId(1), 0, &bytes, soon()).expect("written");
            let mut back = vec![0xee; len];
            let answer = bulk.read(LeaseId(1), 0, &mut back, soon()).expect("read");
            assert!(back == bytes, "{len} bytes in pieces of {sent_max}");
            assert_eq!(answer.generation, GENERATION);
        }
    }
}

#[test]
fn a_transfer_longer_than_a_frame_is_several() {
    let len = usize::try_from(PIECE_LEN_MAX).expect("fits") + 4097;
    let slots = slots_of(&[(1, len)]);
    let mut bulk = BulkConnection::connect(serve(Arc::clone(&slots), 1 << 20), TOKEN, soon()).expect("connected");
    let bytes = vec![0x5a; len];
    // The checksum of the whole is no frame's: it must not be sent as one's.
    let piece = WritePiece { grant: GrantId(1), offset: 0, bytes: &bytes, crc: Some(Crc(1)) };
    assert_eq!(bulk.write_batch(&[piece], soon()).expect("sent"), [Ok(GENERATION)]);
    assert!(slots.lock().expect("sound")[&1] == bytes);
    let mut back = vec![0; len];
    bulk.read(LeaseId(1), 0, &mut back, soon()).expect("read");
    assert!(back == bytes);
}

#[test]
fn one_pieces_refusal_is_that_pieces() {
    for sent_max in [1 << 20, 50] {
        let slots = slots_of(&[(1, 100), (2, 5000)]);
        let mut bulk = BulkConnection::connect(serve(slots, sent_max), TOKEN, soon()).expect("connected");
        let (small, large) = (some_bytes(100, 1), some_bytes(5000, 2));
        let piece = |grant, offset, bytes, crc| WritePiece { grant: GrantId(grant), offset, bytes, crc };
        let answers = bulk
            .write_batch(
                &[
                    piece(1, 0, &small, Some(Crc::of(&small))),
                    piece(9, 0, &large, None),
                    piece(2, 0, &large, None),
                    piece(2, 1, &large, None),
                    piece(2, 0, &small, Some(Crc(0))),
                ],
                soon(),
            )
            .expect("sent");
        let refused = [Err(Status::TooBig), Err(Status::Crc)];
        assert_eq!(answers, [Ok(GENERATION), Err(Status::NoGrant), Ok(GENERATION), refused[0], refused[1]]);

        let mut places = [vec![0; 100], vec![0; 64], vec![0; 5000], vec![0; 4000], vec![0; 1]];
        let mut pieces: Vec<ReadPiece<'_>> = places
            .iter_mut()
            .zip([(1, 0), (9, 0), (2, 0), (2, 4000), (1, 99)])
            .map(|(bytes, (lease, offset))| ReadPiece { lease: LeaseId(lease), offset, bytes })
            .collect();
        let answers = bulk.read_batch(&mut pieces, soon()).expect("read");
        let done = |bytes: &[u8]| Ok(ReadAnswer { generation: GENERATION, crc: Crc::of(bytes) });
        let expected = [done(&small), Err(Status::NoLease), done(&large), Err(Status::TooBig), done(&small)];
        assert_eq!(answers, expected, "sent in {sent_max}");
        assert!(places[0] == small && places[2] == large && places[4] == small[99..], "sent in {sent_max}");
        bulk.ping(soon()).expect("the connection lives on");
    }
}

#[test]
fn a_long_batch_is_answered_whole_and_in_order() {
    let count = 5 * FRAMES_IN_FLIGHT_MAX + 3;
    let slots = slots_of(&(0..count as u64).map(|id| (id, 3000)).collect::<Vec<_>>());
    let mut bulk = BulkConnection::connect(serve(slots, 1 << 20), TOKEN, soon()).expect("connected");
    let values: Vec<Vec<u8>> = (0..count).map(|at| some_bytes(3000, at)).collect();
    let pieces: Vec<WritePiece<'_>> = (0u64..)
        .zip(&values)
        .map(|(id, bytes)| WritePiece { grant: GrantId(id), offset: 0, bytes, crc: None })
        .collect();
    assert!(bulk.write_batch(&pieces, soon()).expect("sent").iter().all(Result::is_ok));
    let mut places = vec![vec![0; 3000]; count];
    let mut pieces: Vec<ReadPiece<'_>> =
        (0u64..).zip(&mut places).map(|(id, bytes)| ReadPiece { lease: LeaseId(id), offset: 0, bytes }).collect();
    assert!(bulk.read_batch(&mut pieces, soon()).expect("read").iter().all(Result::is_ok));
    assert!(places == values);
}

#[test]
fn a_token_that_opens_nothing_is_refused() {
    let addr = serve(slots_of(&[]), 1 << 20);
    let refused = BulkConnection::connect(addr, Token([0; 16]), soon()).expect_err("refused");
    assert!(matches!(refused, BulkError::Refused(Status::Denied)), "{refused}");
}

/// A server that takes a hello and answers the next request with `answer`, then holds still.
fn answers_once(answer: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let addr = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accepted");
        let mut header = [0; HEADER_LEN];
        stream.read_exact(&mut header).expect("a hello");
        let hello = RequestHeader::decode(&header).expect("a hello");
        stream.write_all(&hello.done().encode()).expect("answered");
        stream.read_exact(&mut header).expect("a request");
        stream.write_all(&answer).expect("answered");
        // Until the client hangs up.
        assert_eq!(stream.read(&mut header).unwrap_or(0), 0);
    });
    addr
}

#[test]
fn an_answer_to_another_question_ends_the_connection() {
    let request = Request::Read { lease: LeaseId(1), offset: 0, length: 8 };
    let read = RequestHeader { tag: 1, request };
    let good = read.reading(GENERATION, 8, Crc(0));
    let check = |answer: Vec<u8>, expected: fn(&BulkError) -> bool, why: &str| {
        let mut bulk = BulkConnection::connect(answers_once(answer), TOKEN, soon()).expect("connected");
        let error = bulk.read(LeaseId(1), 0, &mut [0; 8], soon()).expect_err(why);
        assert!(expected(&error), "{why}: {error:?}");
        assert!(bulk.is_broken(), "{why}");
        assert!(matches!(bulk.ping(soon()), Err(BulkError::Broken(_))), "{why}");
    };
    let out_of_step: fn(&BulkError) -> bool = |error| matches!(error, BulkError::OutOfStep(_));
    check(ResponseHeader { tag: 2, ..good }.encode().to_vec(), out_of_step, "another tag");
    check(ResponseHeader { length: 9, ..good }.encode().to_vec(), out_of_step, "more bytes than asked for");
    check(ResponseHeader { length: 0, ..good }.encode().to_vec(), out_of_step, "no bytes");
    let write = Request::Write { grant: GrantId(1), offset: 0, length: 8, crc: None };
    let write = RequestHeader { tag: 1, request: write };
    check(write.written(GENERATION).encode().to_vec(), out_of_step, "another kind");
    check(vec![b'H'; HEADER_LEN], |error| matches!(error, BulkError::Frame(FrameError::Magic)), "garbage");
}

#[test]
fn a_deadline_ends_every_wait_and_the_connection() {
    // The answer stops in the middle of its payload.
    let request = Request::Read { lease: LeaseId(1), offset: 0, length: 8 };
    let header = RequestHeader { tag: 1, request }.reading(GENERATION, 8, Crc(0));
    for cut in [0, 10, HEADER_LEN, HEADER_LEN + 3] {
        let answer = [&header.encode()[..], &[1; 8]].concat();
        let mut bulk = BulkConnection::connect(answers_once(answer[..cut].to_vec()), TOKEN, soon()).expect("connected");
        let started = Instant::now();
        let deadline = started + Duration::from_millis(50);
        let error = bulk.read(LeaseId(1), 0, &mut [0; 8], deadline).expect_err("no answer");
        assert!(matches!(error, BulkError::Timeout), "cut at {cut}: {error:?}");
        assert!(started.elapsed() >= Duration::from_millis(50), "cut at {cut}: {:?}", started.elapsed());
        assert!(started.elapsed() < LIMIT / 2, "cut at {cut}: {:?}", started.elapsed());
        assert!(bulk.is_broken());
    }
}

#[test]
fn a_long_transfer_is_striped_and_comes_together_again() {
    let len = 3 * STRIPE_LEN_MIN + 12_345;
    let slots = slots_of(&[(1, len), (2, len)]);
    let mut pool = BulkPool::connect(serve(slots, 1 << 20), TOKEN, 3, None, soon()).expect("connected");
    assert_eq!(pool.width(), 3);
    let bytes = some_bytes(len, 3);
    pool.write(GrantId(1), 0, &bytes, soon()).expect("written");
    let mut back = vec![0; len];
    let answer = pool.read(LeaseId(1), 0, &mut back, soon()).expect("read");
    assert!(back == bytes);
    assert_eq!(answer.crc, Crc::of(&bytes));
    let refused = pool.write(GrantId(9), 0, &bytes, soon()).expect_err("refused");
    assert!(matches!(refused, BulkError::Refused(Status::NoGrant)), "{refused}");

    let pieces = [1, 2, 9].map(|id| WritePiece { grant: GrantId(id), offset: 0, bytes: &bytes, crc: None });
    let answers = pool.write_batch(&pieces, soon()).expect("sent");
    assert_eq!(answers, [Ok(GENERATION), Ok(GENERATION), Err(Status::NoGrant)]);
    let mut places = [vec![0; len], vec![0; len]];
    let mut pieces: Vec<ReadPiece<'_>> =
        (1..).zip(&mut places).map(|(id, bytes)| ReadPiece { lease: LeaseId(id), offset: 0, bytes }).collect();
    assert!(pool.read_batch(&mut pieces, soon()).expect("read").iter().all(Result::is_ok));
    assert!(places.iter().all(|place| *place == bytes));
}

#[test]
fn a_pool_replaces_a_connection_that_broke() {
    let slots = slots_of(&[(1, 64)]);
    let mut pool = BulkPool::connect(serve(slots, 1 << 20), TOKEN, 1, None, soon()).expect("connected");
    let past = Instant::now();
    assert!(matches!(pool.write(GrantId(1), 0, &[1; 64], past), Err(BulkError::Timeout)));
    pool.write(GrantId(1), 0, &[1; 64], soon()).expect("a new connection");
}
