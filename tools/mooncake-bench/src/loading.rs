//! Waiting for a server that is still loading what it had, before anything is measured.
//!
//! A server that recovers a flash tier, or redis-server reading its dump, listens and answers `-LOADING` meanwhile.

use crate::endpoint::Endpoint;
use crate::progress;
use crate::wire::Wire;
use anyhow::{Context as _, Result, ensure};
use redis_protocol::resp2::types::OwnedFrame;
use std::time::{Duration, Instant};

/// Longest wait in seconds, where nobody says.
pub(crate) const SECONDS_DEFAULT: u64 = 300;

/// Pause between questions: at first, and at most. It doubles in between.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Waits until the server has loaded, and shows on standard error how far it is. Any other answer than `LOADING`, a refusal
/// too, is for whoever asks next.
pub(crate) fn await_loaded(endpoint: &Endpoint, within: Duration) -> Result<()> {
    let begin = Instant::now();
    let mut wire = Wire::new(endpoint.connect()?);
    let (mut pause, mut line) = (PAUSE_MIN, None);
    loop {
        wire.send(&[b"DBSIZE"])?;
        let answer = wire.frame().with_context(|| format!("wait for {endpoint} to load"))?;
        let OwnedFrame::Error(text) = answer else { return Ok(()) };
        if !text.starts_with("LOADING") {
            return Ok(());
        }
        ensure!(
            begin.elapsed() + pause < within,
            "{endpoint} is still loading after {} s, and says: {text}. Try again when it serves",
            begin.elapsed().as_secs()
        );
        let line = line.get_or_insert_with(|| progress::waiting("loading"));
        line.set_message(format!("{endpoint}: {text}"));
        std::thread::sleep(pause);
        pause = PAUSE_MAX.min(pause * 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mini::{self, Answers};

    #[test]
    fn a_server_that_loads_is_waited_for_and_given_up_at_the_end() {
        let soon = Duration::from_secs(30);
        await_loaded(&mini::start(Answers::Truly), soon).expect("it serves");
        let endpoint = mini::start(Answers::Loading { times: 4 });
        let error = await_loaded(&endpoint, Duration::from_millis(1)).expect_err("it loads");
        assert!(error.to_string().contains("LOADING"), "{error}");
        await_loaded(&endpoint, soon).expect("it serves in the end");
        await_loaded(&endpoint, Duration::ZERO).expect("it serves on");
    }
}
