//! Servers that a comparison starts itself, and those that run already.
//!
//! Invariants:
//! - Every server that was started is ended when its [`Server`] is dropped, however the run ends short of SIGKILL.

use crate::endpoint::Endpoint;
use crate::loading;
use anyhow::{Context, Result, bail, ensure};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

/// Longest that a server is waited for that is still loading what it had.
const LOADING_WAIT: Duration = Duration::from_secs(loading::SECONDS_DEFAULT);

/// A server that takes part.
pub(crate) struct Server {
    pub(crate) name: String,
    pub(crate) endpoint: Endpoint,
    /// Whose CPU time counts as the server's.
    pub(crate) pid: Option<u32>,
    child: Option<Child>,
}

/// `NAME=HOST:PORT[:PID]` or `NAME=unix:PATH`: a server that runs already.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    name: String,
    endpoint: Endpoint,
    pid: Option<u32>,
}

impl FromStr for Running {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, place) = text.split_once('=').context("NAME=HOST:PORT[:PID]")?;
        ensure!(!name.is_empty(), "NAME=HOST:PORT[:PID]: a name is missing");
        if let Ok(endpoint) = place.parse() {
            return Ok(Self { name: name.into(), endpoint, pid: None });
        }
        let (place, pid) = place.rsplit_once(':').context("NAME=HOST:PORT[:PID]")?;
        let pid = pid.parse().with_context(|| format!("{pid:?} is not a process id"))?;
        Ok(Self { name: name.into(), endpoint: place.parse()?, pid: Some(pid) })
    }
}

/// `NAME=COMMAND`: a server to start.
#[derive(Clone, Debug)]
pub(crate) struct ToStart {
    name: String,
    command: String,
}

impl FromStr for ToStart {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once('=') {
            Some((name, command)) if !name.is_empty() && !command.trim().is_empty() => {
                Ok(Self { name: name.into(), command: command.into() })
            }
            _ => bail!("NAME=COMMAND, where COMMAND may say {{port}}"),
        }
    }
}

impl Server {
    pub(crate) fn running(running: &Running) -> Result<Self> {
        running.endpoint.await_listener(Duration::from_secs(1))?;
        let Running { name, endpoint, pid } = running.clone();
        loading::await_loaded(&endpoint, LOADING_WAIT)?;
        Ok(Self { name, endpoint, pid, child: None })
    }

    /// Starts a server on a free port of loopback and waits until it listens. A command without `{port}` is given
    /// redis-server's options for port, address and no persistence.
    pub(crate) fn start(to_start: &ToStart) -> Result<Self> {
        let address = free_address()?;
        let port = address.port().to_string();
        let mut words: Vec<String> =
            to_start.command.split_whitespace().map(|word| word.replace("{port}", &port)).collect();
        if !to_start.command.contains("{port}") {
            let more =
                ["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--daemonize", "no"];
            words.extend(more.map(String::from));
        }
        let log = || match std::env::var_os("MOONCAKE_BENCH_SERVER_LOG") {
            Some(path) => std::fs::File::options().append(true).create(true).open(path).map(Stdio::from),
            None => Ok(Stdio::null()),
        };
        let child = Command::new(&words[0])
            .args(&words[1..])
            .current_dir(std::env::temp_dir())
            .stdin(Stdio::null())
            .stdout(log()?)
            .stderr(log()?)
            .spawn()
            .with_context(|| format!("start {}", words[0]))?;
        let endpoint = Endpoint::Tcp(address);
        let mut server = Self { name: to_start.name.clone(), endpoint, pid: Some(child.id()), child: Some(child) };
        let listens = server.endpoint.await_listener(Duration::from_secs(20));
        if let Some(status) = server.child.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
            bail!("{}: ended with {status}; MOONCAKE_BENCH_SERVER_LOG=FILE keeps what it says", words[0]);
        }
        listens.with_context(|| format!("{} does not listen", words[0]))?;
        loading::await_loaded(&server.endpoint, LOADING_WAIT)?;
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(child) = &mut self.child else { return };
        // Asked first, so that it can take its socket away; it has nothing that anybody wants to keep.
        if let Ok(pid) = i32::try_from(child.id())
            && let Some(pid) = rustix::process::Pid::from_raw(pid)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let end = Instant::now() + Duration::from_secs(3);
        while matches!(child.try_wait(), Ok(None)) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    Ok(listener.local_addr()?)
}

/// The servers to compare where nobody named any: ours from beside this program, others from the search path.
pub(crate) fn found(dram: &str) -> Vec<ToStart> {
    let mut found = Vec::new();
    if let Some(ours) = sibling("mooncake-server") {
        let command = format!(
            "{} --listen 127.0.0.1:{{port}} --dram {dram} --nvme none --data-dir none --unix-socket {}/mooncake-bench-{{port}}.sock --log-level warn",
            ours.display(),
            std::env::temp_dir().display()
        );
        found.push(ToStart { name: "mooncake".into(), command });
    }
    for (name, program) in [("redis", "redis-server"), ("valkey", "valkey-server")] {
        if let Some(path) = on_path(program) {
            found.push(ToStart { name: name.into(), command: path.display().to_string() });
        }
    }
    found
}

/// A program that lies beside this one.
fn sibling(program: &str) -> Option<PathBuf> {
    let path = std::env::current_exe().ok()?.with_file_name(program);
    path.is_file().then_some(path)
}

fn on_path(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join(program)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_servers_are_named_with_or_without_their_process() {
        let with = "redis=127.0.0.1:6379:42".parse::<Running>().unwrap();
        assert_eq!((with.endpoint.to_string().as_str(), with.pid), ("127.0.0.1:6379", Some(42)));
        let without = "x=127.0.0.1:6379".parse::<Running>().unwrap();
        assert_eq!((without.name.as_str(), without.pid), ("x", None));
        assert_eq!("x=unix:/a/b".parse::<Running>().unwrap().endpoint, Endpoint::Unix("/a/b".into()));
        for bad in ["127.0.0.1:1", "=127.0.0.1:1", "x=127.0.0.1", "x=127.0.0.1:1:y"] {
            assert!(bad.parse::<Running>().is_err(), "{bad}");
        }
    }
}
