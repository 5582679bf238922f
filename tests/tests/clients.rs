//! Client libraries as people install them: handshake, 8 MiB of binary, pipeline, transaction, pub/sub, a server that
//! restarts under them. Each is a script in `tests/peers/clients`, which ends with `fine`.

use std::env;
use std::path::PathBuf;
use std::process::Command;
use tests::peer::{self, Turn};
use tests::server;

/// What a script says when the server is to restart. It goes on when it has been told a line.
const RESTART: &str = "restart\n";

fn script(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "peers", "clients", name].iter().collect()
}

/// Runs a script beside a server, which restarts on the same port whenever the script asks for it.
fn serves(name: &str, command: &mut Command) {
    let mut server = Some(server::start_on_lasting_port());
    let addr = server.as_ref().expect("it was started").addr();
    command.arg(script(name)).arg(addr.port().to_string());
    let mut restarts = 0;
    let output = peer::converse(command, |text| {
        if text.matches(RESTART).count() == restarts {
            return Turn::Listen;
        }
        restarts += 1;
        let mut old = server.take().expect("there is always one");
        old.kill();
        server = Some(old.restart());
        Turn::Say("go\n".to_owned())
    });
    assert!(output.status.is_some_and(|status| status.success()), "{name}: {output:?}");
    assert!(output.text.contains("fine"), "{name}: {output:?}");
}

/// The interpreter that an environment variable names, if it has what a script needs.
fn python(variable: &str, module: &str) -> Option<Command> {
    let Some(path) = env::var_os(variable) else {
        return peer::skipped(&format!("{variable} names no Python with {module}: tools/test makes one"));
    };
    let found = peer::run(Command::new(&path).args(["-c", &format!("import {module}")]), "");
    if !found.status.is_some_and(|status| status.success()) {
        return peer::skipped(&format!("{} has no {module}", path.display()));
    }
    Some(Command::new(path))
}

/// Node.js, with the packages that `NODE_PATH` leads to.
fn node(module: &str) -> Option<Command> {
    let node = peer::find("node")?;
    let found = peer::run(Command::new(&node).args(["-e", &format!("require('{module}')")]), "");
    if !found.status.is_some_and(|status| status.success()) {
        return peer::skipped(&format!("Node.js finds no {module} by NODE_PATH: tools/test installs it"));
    }
    Some(Command::new(node))
}

#[test]
fn redis_py_8_finds_what_it_finds_in_redis() {
    let Some(mut python) = python("MOONCAKE_PYTHON", "redis") else { return };
    serves("redis_py.py", &mut python);
}

#[test]
fn redis_py_5_finds_what_it_finds_in_redis() {
    let Some(mut python) = python("MOONCAKE_PYTHON_5", "redis") else { return };
    serves("redis_py.py", &mut python);
}

#[test]
fn valkey_glide_finds_what_it_finds_in_valkey() {
    let Some(mut python) = python("MOONCAKE_PYTHON", "glide_sync") else { return };
    serves("glide.py", &mut python);
}

#[test]
fn ioredis_finds_what_it_finds_in_redis() {
    let Some(mut node) = node("ioredis") else { return };
    serves("ioredis.cjs", &mut node);
}

#[test]
fn node_redis_finds_what_it_finds_in_redis() {
    let Some(mut node) = node("redis") else { return };
    serves("node_redis.cjs", &mut node);
}
