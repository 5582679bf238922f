//! Redis itself, as a process of its own on the loopback interface.
//!
//! Invariants:
//! - No process outlives its [`Redis`], and none writes a file.

use crate::peer;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Time that it gets to start.
const PATIENCE: Duration = Duration::from_secs(30);
/// Free ports that are tried: between being found free and being used, one may be taken.
const PORTS_MAX: usize = 10;

/// A running `redis-server`.
#[derive(Debug)]
pub struct Redis {
    child: Child,
    addr: SocketAddr,
}

impl Redis {
    /// Starts one, if this machine has it.
    ///
    /// # Panics
    /// If it does not start, and as [`peer::find`].
    pub fn start() -> Option<Self> {
        let program = peer::find("redis-server")?;
        for _ in 0..PORTS_MAX {
            let addr = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port");
            let mut command = Command::new(&program);
            command.args(["--port", &addr.port().to_string(), "--bind", "127.0.0.1", "--save", ""]);
            command.args(["--appendonly", "no", "--loglevel", "warning", "--enable-debug-command", "local"]);
            let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
            let mut redis = Self { child: child.expect("redis-server runs"), addr };
            let deadline = Instant::now() + PATIENCE;
            while Instant::now() < deadline && redis.child.try_wait().is_ok_and(|status| status.is_none()) {
                if redis.answers() {
                    return Some(redis);
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        panic!("redis-server does not start");
    }

    /// Whether it is this process that listens there: on a port that was found free somebody else may have been first.
    fn answers(&self) -> bool {
        let own = format!("process_id:{}\r\n", self.child.id());
        let ask = || -> io::Result<bool> {
            let mut socket = TcpStream::connect(self.addr)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.write_all(b"INFO server\r\nQUIT\r\n")?;
            let mut told = String::new();
            socket.read_to_string(&mut told)?;
            Ok(told.contains(&own))
        };
        ask().unwrap_or(false)
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
