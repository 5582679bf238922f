//! Runs tests and commands, each as a process group of its own that is ended as a whole.

use crate::Port;
use anyhow::{Context as _, Result};
use guest::plan::Test;
use guest::report::{Outcome, Report};
use rustix::process::{Pid, Signal};
use std::io::{BufRead as _, BufReader, Read};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Time that readers of a pipe get after the last process that was asked to end has ended.
const DRAIN: Duration = Duration::from_secs(5);
/// Bytes of a test's output that are kept.
const OUTPUT_MAX: u64 = 256 << 10;

/// Runs a command to its end and passes its output on. Returns its status as a shell would.
pub(crate) fn command(words: &[String], dir: &Path, env: &[(String, String)], port: &Port) -> Result<i32> {
    let mut child = spawn(&words[0], &words[1..], dir, env)?;
    let outputs: Vec<_> = [pipe(child.stdout.take()), pipe(child.stderr.take())]
        .into_iter()
        .map(|pipe| {
            let port = port.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                    port.say(&Report::Out(String::from_utf8_lossy(&line).into_owned()));
                }
            })
        })
        .collect();
    let status = child.wait().context("wait for the command")?;
    end_group(&child);
    join(outputs);
    Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
}

/// Runs a test to its end or its limit.
pub(crate) fn test(at: usize, test: &Test, dir: &Path, env: &[(String, String)], port: &Port) -> Result<()> {
    port.say(&Report::Begun { at });
    let started = Instant::now();
    let words = ["--ignored", "--exact", &test.name, "--nocapture", "--test-threads=1"].map(str::to_owned);
    let mut child = spawn(&test.binary.to_string_lossy(), &words, dir, env)?;
    let [figures, errors] = [pipe(child.stdout.take()), pipe(child.stderr.take())].map(collect);
    let (tell, told) = mpsc::channel();
    let pid = Pid::from_child(&child);
    let waiter = std::thread::spawn(move || {
        let status = child.wait();
        let _ = tell.send(());
        (status, child)
    });
    let in_time = told.recv_timeout(Duration::from_secs(test.seconds_max)).is_ok();
    // Also what the test started and forgot.
    let _ = rustix::process::kill_process_group(pid, Signal::KILL);
    let (status, _child) = waiter.join().expect("waiting does not panic");
    let status = status.context("wait for the test")?;
    let outcome = match (in_time, status.success()) {
        (false, _) => Outcome::TimedOut,
        (true, true) => Outcome::Passed,
        (true, false) => Outcome::Failed,
    };
    let figures = figures.recv_timeout(DRAIN).unwrap_or_default();
    let errors = errors.recv_timeout(DRAIN).unwrap_or_default();
    port.say(&Report::Done {
        at,
        outcome,
        milliseconds: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        figures: without_harness(&figures, &test.name),
        errors: if outcome == Outcome::Passed { String::new() } else { errors },
    });
    Ok(())
}

fn spawn(program: &str, args: &[String], dir: &Path, env: &[(String, String)]) -> Result<Child> {
    Command::new(program)
        .args(args)
        .current_dir(dir)
        .env_clear()
        .envs(env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .with_context(|| format!("start {program}"))
}

fn end_group(child: &Child) {
    let _ = rustix::process::kill_process_group(Pid::from_child(child), Signal::KILL);
}

fn pipe(pipe: Option<impl Read + Send + 'static>) -> Box<dyn Read + Send> {
    Box::new(pipe.expect("it is piped"))
}

/// Reads a pipe to its end; what is too much is dropped from the middle of nowhere on.
fn collect(mut pipe: Box<dyn Read + Send>) -> mpsc::Receiver<String> {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = pipe.by_ref().take(OUTPUT_MAX).read_to_end(&mut text);
        let _ = std::io::copy(&mut pipe, &mut std::io::sink());
        let _ = tell.send(String::from_utf8_lossy(&text).into_owned());
    });
    told
}

fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        let _ = thread.join();
    }
}

/// What the test itself wrote, without what the harness adds around it.
fn without_harness(text: &str, name: &str) -> String {
    let head = format!("test {name} ... ");
    let own = text.lines().map(|line| line.strip_prefix(&head).unwrap_or(line)).filter(|line| {
        let of_harness = matches!(*line, "" | "ok" | "FAILED" | "failures:" | "running 1 test");
        !of_harness && !line.starts_with("test result: ") && line.trim() != name
    });
    own.map(|line| format!("{line}\n")).collect()
}
