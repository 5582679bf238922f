//! A server for tests of the load itself: `GET`, `SET [NX]`, `EXISTS` and `DEL` over one map, and lies if asked to.

use crate::endpoint::Endpoint;
use crate::wire::{push_bulk, read_some, write_all};
use redis_protocol::resp2::decode::decode;
use redis_protocol::resp2::types::OwnedFrame;
use socket2::Socket;
use std::collections::HashMap;
use std::io::{IoSlice, IoSliceMut};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// What a server does to the values it answers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answers {
    Truly,
    /// One bit of each value differs.
    Flipped,
    /// The value of another key.
    Foreign,
    /// It is loading, so often; then truly.
    Loading {
        times: usize,
    },
}

/// Starts a server that lives as long as the process.
pub(crate) fn start(answers: Answers) -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let map = Arc::new(Mutex::new(HashMap::new()));
    let refused = Arc::new(AtomicUsize::new(0));
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            stream.set_nodelay(true).expect("a TCP socket");
            let (map, refused) = (Arc::clone(&map), Arc::clone(&refused));
            std::thread::spawn(move || serve(&stream.into(), &map, answers, &refused));
        }
    });
    Endpoint::Tcp(address)
}

fn serve(socket: &Socket, map: &Mutex<HashMap<Vec<u8>, Vec<u8>>>, answers: Answers, refused: &AtomicUsize) {
    let mut input = Vec::new();
    loop {
        while let Ok(Some((frame, used))) = decode(&input) {
            input.drain(..used);
            let reply = match answers {
                Answers::Loading { times } if refused.fetch_add(1, Ordering::Relaxed) < times => {
                    b"-LOADING half done\r\n".to_vec()
                }
                _ => answer(&frame, &mut map.lock().expect("not poisoned"), answers),
            };
            if write_all(socket, &mut [IoSlice::new(&reply)]).is_err() {
                return;
            }
        }
        let at = input.len();
        input.resize(at + 65_536, 0);
        let Ok(n) = read_some(socket, &mut [IoSliceMut::new(&mut input[at..])]) else { return };
        input.truncate(at + n);
    }
}

fn answer(frame: &OwnedFrame, map: &mut HashMap<Vec<u8>, Vec<u8>>, answers: Answers) -> Vec<u8> {
    let OwnedFrame::Array(words) = frame else { return b"-ERR not an array\r\n".to_vec() };
    let word = |n: usize| match words.get(n) {
        Some(OwnedFrame::BulkString(bytes)) => bytes.clone(),
        _ => Vec::new(),
    };
    let key = word(1);
    match word(0).as_slice() {
        b"SET" if words.len() == 4 && map.contains_key(&key) => b"$-1\r\n".to_vec(),
        b"SET" => {
            map.insert(key, word(2));
            b"+OK\r\n".to_vec()
        }
        b"GET" => {
            let other = map.iter().find(|(name, _)| **name != key).map(|(_, value)| value.clone());
            let Some(mut value) = map.get(&key).cloned() else { return b"$-1\r\n".to_vec() };
            match answers {
                Answers::Truly | Answers::Loading { .. } => {}
                Answers::Flipped => value[0] ^= 4,
                Answers::Foreign => value = other.unwrap_or_default(),
            }
            let mut out = Vec::new();
            push_bulk(&mut out, &value);
            out
        }
        b"EXISTS" => format!(":{}\r\n", u8::from(map.contains_key(&key))).into_bytes(),
        b"DEL" => {
            for n in 1..words.len() {
                map.remove(&word(n));
            }
            b":1\r\n".to_vec()
        }
        _ => b"-ERR unknown command\r\n".to_vec(),
    }
}
