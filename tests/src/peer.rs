//! Other people's programs, if this machine has them.
//!
//! A test that lacks one says so on its standard error, in a line that begins with `SKIPPED:`, and passes; where
//! `MOONCAKE_REQUIRE_PEERS=1` it fails instead.

use std::env;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// Time that a program may run.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a program wrote, and how it ended.
#[derive(Debug)]
pub struct Output {
    /// Standard output and standard error, in this order.
    pub text: String,
    /// How it ended; `None` if it was ended by us.
    pub status: Option<ExitStatus>,
}

/// Where a program lies, or a complaint.
///
/// # Panics
/// If it is nowhere and peers are required.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|dir| dir.join(program)).find(|path| path.is_file());
    found.or_else(|| skipped(&format!("{program} is not installed")))
}

/// A Python that has redis-py: the one that `MOONCAKE_PYTHON` names, or `python3`.
///
/// # Panics
/// As [`find`].
pub fn python_with_redis() -> Option<PathBuf> {
    let python = match env::var_os("MOONCAKE_PYTHON") {
        Some(path) => PathBuf::from(path),
        None => find("python3")?,
    };
    let has_redis = run(Command::new(&python).args(["-c", "import redis"]), "");
    if has_redis.status.is_some_and(|status| status.success()) {
        return Some(python);
    }
    skipped(&format!("{} has no redis-py (`pip install redis`, or MOONCAKE_PYTHON)", python.display()))
}

/// Complains.
///
/// # Panics
/// If peers are required.
pub fn skipped<T>(why: &str) -> Option<T> {
    assert!(env::var_os("MOONCAKE_REQUIRE_PEERS").is_none_or(|value| value != "1"), "a peer is required, but {why}");
    eprintln!("SKIPPED: {why}");
    None
}

/// Runs a program to its end, with this on its standard input.
///
/// # Panics
/// If it cannot be started. One that runs too long is killed.
pub fn run(command: &mut Command, input: &str) -> Output {
    run_within(command, input, PATIENCE)
}

/// As [`run`], for a program that may take so long.
///
/// # Panics
/// As [`run`].
pub fn run_within(command: &mut Command, input: &str, limit: Duration) -> Output {
    let mut input = Some(input.to_owned());
    converse_within(command, limit, |_| input.take().map_or(Turn::Listen, Turn::Last))
}

/// What comes next for a program that reads and writes in turns.
#[derive(Clone, Debug)]
pub enum Turn {
    /// Wait for more.
    Listen,
    /// Say this.
    Say(String),
    /// Say this and nothing after it.
    Last(String),
    /// End it: it has written enough.
    End,
}

/// Runs a program to its end. `turn` sees all that it wrote so far: at the start, after each turn and after each piece.
///
/// # Panics
/// If it cannot be started. One that runs too long is killed.
pub fn converse(command: &mut Command, turn: impl FnMut(&str) -> Turn) -> Output {
    converse_within(command, PATIENCE, turn)
}

fn converse_within(command: &mut Command, limit: Duration, mut turn: impl FnMut(&str) -> Turn) -> Output {
    let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut stdin = child.stdin.take().expect("it is piped");
    let (say, said) = mpsc::channel::<String>();
    let mut stdout = child.stdout.take().expect("it is piped");
    let mut stderr = child.stderr.take().expect("it is piped");
    // A program that does not read its input has no use for it.
    std::thread::spawn(move || said.iter().try_for_each(|words| stdin.write_all(words.as_bytes())));
    let errors = std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = stderr.read_to_end(&mut text);
        text
    });
    let (sender, pieces) = mpsc::channel();
    std::thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(count @ 1..) = stdout.read(&mut piece) {
            if sender.send(piece[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    let mut written = Vec::new();
    let deadline = std::time::Instant::now() + limit;
    let mut say = Some(say);
    let ended = loop {
        match turn(&String::from_utf8_lossy(&written)) {
            Turn::Listen => {}
            Turn::End => break false,
            Turn::Say(words) => {
                // It may have ended meanwhile, as the next piece will tell.
                let _ = say.as_ref().map(|say| say.send(words));
                continue;
            }
            Turn::Last(words) => {
                let _ = say.take().map(|say| say.send(words));
                continue;
            }
        }
        match pieces.recv_timeout(deadline.saturating_duration_since(std::time::Instant::now())) {
            Ok(piece) => written.extend(piece),
            Err(mpsc::RecvTimeoutError::Disconnected) => break true,
            Err(mpsc::RecvTimeoutError::Timeout) => break false,
        }
    };
    if !ended {
        let _ = child.kill();
    }
    let status = child.wait().expect("it is our child");
    written.extend(errors.join().expect("the reader does not panic"));
    Output { text: String::from_utf8_lossy(&written).into_owned(), status: ended.then_some(status) }
}
