//! What any arguments parse to is written and parsed back as the same request.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use protocol::command::*;
use protocol::resp::{Args, Framer, Limits, Step, WireError};
use std::fmt::Debug;

const LIMITS: Limits = Limits {
    args_max: 1024,
    arg_len_max: 1 << 20,
    bulk_len_max: 1 << 20,
    inline_len_max: 1 << 16,
    stream_len_min: usize::MAX,
};

/// Writes what was parsed, if anything was, and hands its arguments to `again`.
fn check<T: PartialEq + Debug>(
    parsed: Result<T, WireError>,
    encode: impl FnOnce(&T, &mut BytesMut),
    again: impl FnOnce(&Args<'_>, &T),
) {
    let Ok(request) = parsed else { return };
    let mut out = BytesMut::new();
    encode(&request, &mut out);
    let mut framer = Framer::new(LIMITS);
    assert_eq!(framer.poll(&out), Ok(Step::Command { consumed: out.len() }));
    let args = framer.args(&out);
    resolve(&args).expect("what is written resolves");
    again(&args, &request);
}

macro_rules! round {
    ($args:expr, $request:ident) => {
        check(
            $request::parse(&$args),
            |request, out| {
                request.encode(out);
            },
            |args, request| assert_eq!($request::parse(args).as_ref(), Ok(request)),
        )
    };
}

fuzz_target!(|input: &[u8]| {
    let mut framer = Framer::new(LIMITS);
    let Ok(Step::Command { .. }) = framer.poll(input) else { return };
    let args = framer.args(input);
    if args.is_empty() {
        return;
    }
    let Ok(spec) = resolve(&args) else { return };
    for position in spec.keys.positions(&args) {
        assert!(position < args.len());
    }
    match spec.id {
        CommandId::Put => round!(args, Put),
        CommandId::Commit => round!(args, Commit),
        CommandId::Abort => round!(args, Abort),
        CommandId::MPut => round!(args, MPut),
        CommandId::MCommit => round!(args, MCommit),
        CommandId::Lease => round!(args, Lease),
        CommandId::Renew => round!(args, Renew),
        CommandId::Release => round!(args, Release),
        CommandId::MLease => round!(args, MLease),
        CommandId::MRelease => round!(args, MRelease),
        CommandId::Lookup => round!(args, Lookup),
        CommandId::Pin => round!(args, Pin),
        CommandId::Unpin => round!(args, Unpin),
        CommandId::Attach => round!(args, Attach),
        CommandId::Evict => round!(args, Evict),
        CommandId::Set => round!(args, Set),
        CommandId::Scan => round!(args, Scan),
        id @ (CommandId::Expire | CommandId::PExpire | CommandId::ExpireAt | CommandId::PExpireAt) => check(
            Expire::parse(id, &args),
            |request, out| request.encode(out),
            |args, request| {
                let id = resolve(args).expect("what is written resolves").id;
                assert_eq!(Expire::parse(id, args).as_ref(), Ok(request));
            },
        ),
        _ => {}
    }
});
