//! The examples of `docs/clients.md`, run as they stand there.

use std::env;
use std::path::PathBuf;
use std::process::Command;
use tests::peer;
use tests::{Server, Wire};

const GUIDE: &str = include_str!("../../docs/clients.md");

/// Writes an example, which begins with a comment that has its name, into the server's directory.
fn example(server: &Server, name: &str) -> PathBuf {
    let mark = |line: &str| line.trim_start_matches(['#', '/', '*', ' ']).starts_with(&format!("{name}:"));
    let mut lines = GUIDE.lines().skip_while(|line| !mark(line)).peekable();
    assert!(lines.peek().is_some(), "docs/clients.md has no {name}");
    let code: Vec<&str> = lines.take_while(|line| *line != "```").collect();
    let path = server.dir().join(name);
    std::fs::write(&path, code.join("\n") + "\n").expect("a file for the test");
    path
}

fn is_fine(command: &mut Command) {
    let output = peer::run(command, "");
    assert!(output.status.is_some_and(|status| status.success()) && output.text.trim() == "fine", "{output:?}");
}

#[test]
fn the_python_examples_work() {
    let Some(python) = peer::python_with_redis() else { return };
    let server = Server::start(&[]);
    is_fine(Command::new(&python).arg(example(&server, "in_band.py")).arg(server.port()));
    is_fine(Command::new(&python).arg(example(&server, "out_of_band.py")).arg(server.socket()));
    assert_eq!(Wire::connect(server.addr()).text("DBSIZE"), ":2");
}

#[test]
fn the_node_example_works() {
    let Some(node) = peer::find("node") else { return };
    let found = peer::run(Command::new(&node).args(["-e", "require('redis')"]), "");
    if !found.status.is_some_and(|status| status.success()) {
        let _: Option<()> = peer::skipped("Node.js finds no redis by NODE_PATH: tools/test installs it");
        return;
    }
    let server = Server::start(&[]);
    is_fine(Command::new(&node).arg(example(&server, "in_band.cjs")).arg(server.port()));
}

#[test]
fn the_c_example_works() {
    let Some(cc) = peer::find(&env::var("CC").unwrap_or_else(|_| "cc".to_owned())) else { return };
    let server = Server::start(&[]);
    let (source, program) = (example(&server, "out_of_band.c"), server.dir().join("out_of_band"));
    let built = peer::run(Command::new(cc).args(["-O1", "-Wall", "-Werror", "-o"]).arg(&program).arg(source), "");
    assert!(built.status.is_some_and(|status| status.success()), "{built:?}");
    is_fine(Command::new(program).arg(server.socket()));
    assert_eq!(Wire::connect(server.addr()).text("EXISTS model@0:block:5"), ":1");
}
