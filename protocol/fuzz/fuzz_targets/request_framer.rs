//! The framer finds the same commands however its input is cut, and never passes a cap.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::resp::{Arg, Framer, Limits, ProtocolError, Step};

const LIMITS: Limits =
    Limits { args_max: 16, arg_len_max: 200, bulk_len_max: 1000, inline_len_max: 100, stream_len_min: 64 };

/// The commands in `input`, an announced payload as its length, and the error that ended them.
fn run(input: &[u8], cuts: &[u8]) -> (Vec<Vec<Result<Vec<u8>, u64>>>, Option<ProtocolError>) {
    let mut framer = Framer::new(LIMITS);
    let (mut buf, mut commands, mut taking) = (Vec::new(), Vec::new(), None::<(usize, usize)>);
    let (mut rest, mut cuts) = (input, cuts.iter().cycle());
    while !rest.is_empty() {
        let n = cuts.next().map_or(rest.len(), |&cut| usize::from(cut) + 1).min(rest.len());
        let (chunk, tail) = rest.split_at(n);
        rest = tail;
        buf.extend_from_slice(chunk);
        loop {
            if let Some((at, left)) = taking {
                let n = left.min(buf.len() - at);
                buf.drain(at..at + n);
                taking = (n < left).then_some((at, left - n));
                if taking.is_some() {
                    break;
                }
            }
            assert!(framer.arg_count() <= LIMITS.args_max);
            match framer.poll(&buf) {
                Err(error) => return (commands, Some(error)),
                Ok(Step::Incomplete) => {
                    let most = LIMITS.args_max * (LIMITS.arg_len_max + 32) + 32;
                    assert!(buf.len() <= most.max(LIMITS.inline_len_max) + 256, "{} bytes are kept", buf.len());
                    break;
                }
                Ok(Step::Bulk { arg, len, at }) => {
                    assert_eq!(arg, framer.args(&buf).len());
                    assert!(len <= LIMITS.bulk_len_max && len >= LIMITS.stream_len_min as u64 && at <= buf.len());
                    if arg % 2 == 0 {
                        framer.take_bulk();
                        taking = Some((at, usize::try_from(len).expect("capped")));
                    } else if let Err(error) = framer.buffer_bulk() {
                        return (commands, Some(error));
                    }
                }
                Ok(Step::Command { consumed }) => {
                    let args = framer.args(&buf);
                    assert!(args.len() <= LIMITS.args_max);
                    commands.push(
                        args.iter()
                            .map(|arg| match arg {
                                Arg::Bytes(bytes) => Ok(bytes.to_vec()),
                                Arg::Taken { len } => Err(len),
                            })
                            .collect(),
                    );
                    buf.drain(..consumed);
                    framer.reset();
                }
            }
        }
    }
    (commands, None)
}

fuzz_target!(|input: (&[u8], &[u8])| {
    let (cuts, input) = (input.0, input.1);
    assert_eq!(run(input, &[]), run(input, if cuts.is_empty() { &[0] } else { cuts }));
});
