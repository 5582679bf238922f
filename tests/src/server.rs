//! The real server as a process of its own.
//!
//! Invariants:
//! - What is tested is built from the tree as it is: the binary is brought up to date once per test process.
//! - Every wait has an end, and no process or file outlives its [`Server`].

use std::env;
use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Time a server gets to start or to stop.
const PATIENCE: Duration = Duration::from_secs(30);
/// A limit of time, longer where the environment says that the machine is slow: `MOONCAKE_PATIENCE` times.
pub fn patience(limit: Duration) -> Duration {
    let factor = env::var("MOONCAKE_PATIENCE").ok().and_then(|text| text.parse().ok());
    limit * factor.unwrap_or(1)
}

/// Memory of a server that is not told how much.
const DRAM_DEFAULT: &str = "256 MiB";

/// What a server is waited for to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Where it listens. It may be loading still.
    Listening,
    /// That it serves.
    Ready,
}

/// A running server, on a free port of the loopback interface and a Unix socket of its own.
#[derive(Debug)]
pub struct Server {
    child: Child,
    addr: SocketAddr,
    dir: Arc<TempDir>,
    args: Vec<String>,
    log: Arc<Mutex<String>>,
    /// Hangs up when the server has closed its log.
    ended: Mutex<Receiver<()>>,
}

/// The binary, built for the profile that this test was built for. `MOONCAKE_SERVER` names another one.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(path) = env::var_os("MOONCAKE_SERVER") {
            return PathBuf::from(path);
        }
        // `target/PROFILE/deps/test-0123`, or `target/PROFILE/program`.
        let own = env::current_exe().expect("a test knows its own path");
        let dir = own.parent().expect("a program lies in a directory");
        let profile_dir = if dir.ends_with("deps") { dir.parent().expect("a profile's") } else { dir };
        let profile = match profile_dir.file_name().and_then(OsStr::to_str).expect("profiles have plain names") {
            "debug" => "dev",
            name => name,
        };
        let built = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["build", "--quiet", "--package", "mooncake-server", "--profile", profile, "--target-dir"])
            .arg(profile_dir.parent().expect("a profile lies in the target directory"))
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
            .status()
            .expect("cargo runs");
        assert!(built.success(), "the server does not build");
        profile_dir.join("mooncake-server")
    })
}

impl Server {
    /// Starts one with these flags, and waits until it serves. Without a word of `--nvme` it has no flash tier; its data
    /// directory is its own unless `--data-dir` says otherwise.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start(args: &[&str]) -> Self {
        let dir = TempDir::with_prefix("mooncake-test-").expect("a directory for the test");
        Self::try_start(Arc::new(dir), args, Mark::Ready)
            .unwrap_or_else(|log| panic!("the server does not serve:\n{log}"))
    }

    /// Starts one with a flash tier of `size` in one file, in segments of 8 MiB, and waits until it serves.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start_with_flash(size: &str, args: &[&str]) -> Self {
        let dir = TempDir::with_prefix("mooncake-test-").expect("a directory for the test");
        let device = format!("{}:{size}", dir.path().join("flash.0").display());
        let mut all = vec!["--nvme", &device, "--flash-segment-len", "8 MiB"];
        all.extend(args);
        Self::try_start(Arc::new(dir), &all, Mark::Ready)
            .unwrap_or_else(|log| panic!("the server does not serve:\n{log}"))
    }

    /// Starts one in a directory that another server has or had, and waits until it has said `mark`.
    ///
    /// # Errors
    /// What it logged, if it ends or does not say so in time.
    pub fn try_start(dir: Arc<TempDir>, args: &[&str], mark: Mark) -> Result<Self, String> {
        Self::launch(Command::new(binary()), dir, args, mark)
    }

    /// Starts one as a user without any rights, who may lock so many bytes of memory.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start_unprivileged(memlock: u64, args: &[&str]) -> Self {
        let dir = Arc::new(TempDir::with_prefix("mooncake-test-").expect("a directory for the test"));
        let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(dir.path(), everybody).expect("the test's own directory");
        let mut command = Command::new("prlimit");
        command.arg(format!("--memlock={memlock}:{memlock}"));
        command.args(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]).arg(binary());
        Self::launch(command, dir, args, Mark::Ready).unwrap_or_else(|log| panic!("the server does not serve:\n{log}"))
    }

    /// Starts one as a service manager does that listens on this socket and wants a sign of life that often.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start_supervised(notify: &Path, watchdog: Duration, args: &[&str]) -> Self {
        let dir = Arc::new(TempDir::with_prefix("mooncake-test-").expect("a directory for the test"));
        // The process whose life counts is named, and known only once it runs.
        let mut command = Command::new("sh");
        command.args(["-c", "WATCHDOG_PID=$$ exec \"$0\" \"$@\""]).arg(binary());
        command.env("NOTIFY_SOCKET", notify).env("WATCHDOG_USEC", watchdog.as_micros().to_string());
        Self::launch(command, dir, args, Mark::Ready).unwrap_or_else(|log| panic!("the server does not serve:\n{log}"))
    }

    fn launch(mut command: Command, dir: Arc<TempDir>, args: &[&str], mark: Mark) -> Result<Self, String> {
        let socket = dir.path().join("s.sock");
        // Nothing is kept where nobody asked for flash.
        let has_flash = args.contains(&"--nvme");
        let data = if has_flash { dir.path().join("data") } else { PathBuf::from("none") };
        for (flag, value) in [
            ("--listen", "127.0.0.1:0"),
            ("--dram", DRAM_DEFAULT),
            ("--nvme", "none"),
            ("--data-dir", &data.display().to_string()),
            ("--unix-socket", &socket.display().to_string()),
        ] {
            if !args.contains(&flag) {
                command.args([flag, value]);
            }
        }
        command.args(args);
        // What the caller's environment says about its own server is not for this one.
        for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MOONCAKE_")) {
            command.env_remove(name);
        }
        let spawned = command.env("NO_COLOR", "1").stdin(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut child = spawned.unwrap_or_else(|error| panic!("{}: {error}", binary().display()));
        let log = Arc::new(Mutex::new(String::new()));
        let (found, said) = mpsc::channel();
        let (running, ended) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().expect("it is piped"));
        let kept = Arc::clone(&log);
        std::thread::spawn(move || {
            let _running: mpsc::Sender<()> = running;
            let (mut addr, mut found) = (None, Some(found));
            for line in stderr.lines().map_while(Result::ok) {
                addr = addr.or_else(|| listens_on(&line));
                let is_ready = line.contains("ready: ");
                {
                    let mut log = kept.lock().expect("nobody panics with the log");
                    log.push_str(&line);
                    log.push('\n');
                }
                if let Some(addr) = addr.filter(|_| is_ready || mark == Mark::Listening)
                    && let Some(found) = found.take()
                {
                    let _ = found.send(addr);
                }
            }
        });
        match said.recv_timeout(patience(PATIENCE)) {
            Ok(addr) => {
                let args = args.iter().map(|&arg| arg.to_owned()).collect();
                Ok(Self { child, addr, dir, args, log, ended: Mutex::new(ended) })
            }
            Err(_) => {
                let _ = child.kill();
                let _ = child.wait();
                let log = log.lock().expect("nobody panics with the log").clone();
                Err(log)
            }
        }
    }

    /// Starts it again as it was, in the same directory. It has ended before.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn restart(self) -> Self {
        self.restart_with(&[])
    }

    /// Starts it again in the same directory, with more flags.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn restart_with(self, more: &[&str]) -> Self {
        let (dir, args) = (Arc::clone(&self.dir), self.args.clone());
        drop(self);
        let args: Vec<&str> = args.iter().map(String::as_str).chain(more.iter().copied()).collect();
        Self::try_start(dir, &args, Mark::Ready).unwrap_or_else(|log| panic!("the server does not serve again:\n{log}"))
    }

    /// The flags it was started with.
    pub fn args(&self) -> &[String] {
        &self.args
    }

    /// Its directory, to start another server in.
    pub fn shared_dir(&self) -> Arc<TempDir> {
        Arc::clone(&self.dir)
    }

    /// Where it serves RESP.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where it answers HTTP.
    ///
    /// # Panics
    /// If it does not say.
    pub fn metrics(&self) -> SocketAddr {
        let log = self.await_log("status page on http");
        let (_, rest) = log.rsplit_once("status page on http").expect("waited for");
        let addr = rest.split('/').nth(2).and_then(|addr| addr.parse().ok());
        addr.unwrap_or_else(|| panic!("no address in {rest}"))
    }

    /// Where it serves RESP over TLS.
    ///
    /// # Panics
    /// If it does not say.
    pub fn tls(&self) -> SocketAddr {
        let log = self.await_log("RESP over TLS on ");
        let (_, rest) = log.rsplit_once("RESP over TLS on ").expect("waited for");
        let addr = rest.split(',').next().and_then(|addr| addr.parse().ok());
        addr.unwrap_or_else(|| panic!("no address in {rest}"))
    }

    /// Its log, once these words are in it: it says some things a little after what it was waited for.
    fn await_log(&self, words: &str) -> String {
        until(words, PATIENCE, || self.log().contains(words));
        self.log()
    }

    /// The port of [`Server::addr`], for command lines.
    pub fn port(&self) -> String {
        self.addr.port().to_string()
    }

    /// Its Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("s.sock")
    }

    /// A directory of its own, gone when it is.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote so far.
    pub fn log(&self) -> String {
        self.log.lock().expect("nobody panics with the log").clone()
    }

    /// Waits for its end, which somebody else has asked for.
    ///
    /// # Panics
    /// If it does not end.
    pub fn wait(&mut self) -> ExitStatus {
        // The log is closed by the end of the process, so this wakes without polling.
        match self.ended.get_mut().expect("nobody panics while waiting").recv_timeout(patience(PATIENCE)) {
            Err(RecvTimeoutError::Disconnected) => {}
            Ok(()) | Err(RecvTimeoutError::Timeout) => panic!("the server does not end:\n{}", self.log()),
        }
        self.child.wait().expect("it is our child")
    }

    /// Kills it as a crash would.
    pub fn kill(&mut self) {
        self.child.kill().expect("it is our child");
        self.child.wait().expect("it is our child");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("---- the server's log ----\n{}", self.log());
        }
    }
}

/// The address in `… RESP on 127.0.0.1:6379: …`.
fn listens_on(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("RESP on ")?;
    rest.split_once(": ")?.0.parse().ok()
}

/// Waits until `holds`, which nothing announces.
///
/// # Panics
/// If it does not in time.
pub fn until(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    let (start, limit) = (Instant::now(), patience(limit));
    while !holds() {
        assert!(start.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Starts one on a port that nobody else gets while it restarts: below those that the kernel gives out. A client that tries to
/// connect to a free one of those may meet itself.
///
/// # Panics
/// If it does not start on any of many.
pub fn start_on_lasting_port() -> Server {
    let mut refused = String::new();
    for _ in 0..20 {
        let addr = format!("127.0.0.1:{}", rand::random_range(20_000..30_000));
        let dir = Arc::new(TempDir::with_prefix("mooncake-test-").expect("a directory for the test"));
        let alone = ["--listen", &addr, "--bulk-listen", "none", "--metrics-listen", "none"];
        match Server::try_start(dir, &alone, Mark::Ready) {
            Ok(server) => return server,
            Err(log) => refused = log,
        }
    }
    panic!("the server does not serve:\n{refused}")
}
