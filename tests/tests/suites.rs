//! Public suites of Redis's behaviour, run against the server, and `docs/compatibility.md` held against what they find.
//!
//! Role: the page says which of their tests pass and why the others do not; here it is read as data. The suites are not part of
//! this tree: `tools/suites` gets them, and runs the tests that are ignored otherwise.
//!
//! Invariants:
//! - A test that fails is explained on the page: it asks for a command that the page says is not here, or is named there.
//! - What the page names as failing does fail, so that no explanation outlives its cause.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use tests::{Server, peer};

const PAGE: &str = include_str!("../../docs/compatibility.md");
/// Time that one file of the Tcl suite may take, and all of the other suite.
const PATIENCE: Duration = Duration::from_secs(600);
/// Tests that need what the page says is not here, by their tags.
const TAGS: &str = "-needs:repl -needs:save -needs:debug -needs:config-maxmemory -needs:reset -slow -large-memory";

/// Rows of the page's table whose first column is called `head`.
fn table(head: &str) -> Vec<Vec<&'static str>> {
    let cells =
        |line: &'static str| -> Vec<&'static str> { line.trim_matches('|').split('|').map(str::trim).collect() };
    let mut lines = PAGE.lines().skip_while(|line| !line.starts_with(&format!("| {head} |")));
    assert!(lines.next().is_some(), "docs/compatibility.md has no table of {head}");
    let rows: Vec<_> = lines.skip(1).take_while(|line| line.starts_with('|')).map(cells).collect();
    assert!(!rows.is_empty(), "the table of {head} is empty");
    rows
}

fn unquoted(cell: &str) -> String {
    cell.trim_matches('`').to_owned()
}

/// Commands that are not here, in small letters; subcommands as `container:subcommand`.
fn absent() -> BTreeSet<String> {
    table("commands that are not here")
        .iter()
        .flat_map(|row| row[0].split(' '))
        .map(|name| unquoted(name).to_ascii_lowercase())
        .collect()
}

/// What the page says of single tests: by suite or file and name, how it ends and why.
fn exceptions() -> BTreeMap<(String, String), (String, String)> {
    let of = |row: &Vec<&str>| ((unquoted(row[0]), unquoted(row[1])), (row[2].to_owned(), row[3].to_owned()));
    table("suite or file").iter().map(of).collect()
}

/// How many tests of a suite or file pass, by the page.
fn passes() -> Vec<(String, usize)> {
    let of = |row: &Vec<&str>| (unquoted(row[0]), row[1].parse().unwrap_or_else(|_| panic!("{row:?} has no count")));
    table("suite").iter().map(of).collect()
}

/// The first command, or `container:subcommand`, that a failure complains about as unknown.
fn unknown(text: &str) -> Option<String> {
    if let Some((_, rest)) = text.split_once("unknown command '") {
        return Some(rest.split('\'').next()?.to_ascii_lowercase());
    }
    let (sub, rest) = text.split_once("unknown subcommand '")?.1.split_once('\'')?;
    let container = rest.strip_prefix(". Try ")?.split(' ').next()?;
    Some(format!("{container}:{sub}").to_ascii_lowercase())
}

/// Holds the failures of one suite or file against the page.
fn compare(suite: &str, passed: usize, failures: &[(String, String)], complaints: &mut Vec<String>) {
    let (absent, exceptions) = (absent(), exceptions());
    println!("{suite}: {passed} passed, {} failed", failures.len());
    for (name, why) in failures {
        let explained = unknown(why).is_some_and(|command| absent.contains(&command))
            || exceptions.contains_key(&(suite.to_owned(), name.clone()));
        if !explained {
            complaints.push(format!("{suite}: {name} fails and is not explained: {why}"));
        }
    }
    for (_, name) in exceptions.iter().filter(|((of, _), (how, _))| of == suite && how == "fails").map(|(key, _)| key) {
        if !failures.iter().any(|(failed, _)| failed == name) {
            complaints.push(format!("{suite}: {name} does not fail, whatever the page says"));
        }
    }
    let Some((_, wanted)) = passes().into_iter().find(|(of, _)| of == suite) else {
        complaints.push(format!("{suite} is not on the page"));
        return;
    };
    if passed != wanted {
        complaints.push(format!("{suite}: {passed} pass, {wanted} by the page"));
    }
}

/// The directory of the suites.
fn suites() -> PathBuf {
    PathBuf::from(env::var_os("MOONCAKE_SUITES").expect("MOONCAKE_SUITES names the suites: run tools/suites"))
}

fn done(complaints: &[String]) {
    assert!(complaints.is_empty(), "docs/compatibility.md is not what was found:\n{}", complaints.join("\n"));
}

/// Text without the colours of a terminal.
fn plain(text: &str) -> String {
    let mut parts = text.split('\u{1b}');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |out, part| out + part.split_once('m').map_or("", |(_, rest)| rest))
}

#[test]
fn the_page_of_compatibility_explains_every_exception() {
    let suites: BTreeSet<String> = passes().into_iter().map(|(suite, _)| suite).collect();
    let absent = absent();
    assert!(suites.len() > 10 && absent.len() > 20, "{suites:?} {absent:?}");
    for ((suite, name), (how, why)) in exceptions() {
        assert!(suites.contains(&suite), "{suite} of {name} is not on the page");
        assert!(["fails", "skipped"].contains(&how.as_str()), "{name} {how}?");
        assert!(why.len() > 10, "{name} has no reason");
    }
    for name in &absent {
        let (command, sub) = name.split_once(':').map_or((name.as_str(), None), |(command, sub)| (command, Some(sub)));
        let found = protocol::command::lookup(command.as_bytes());
        let is_here = found.is_some_and(|spec| sub.is_none_or(|sub| spec.subcommand(sub.as_bytes()).is_some()));
        assert!(!is_here, "{name} is here, whatever the page says");
    }
}

#[test]
#[ignore = "needs the suites, which are not part of this tree: tools/suites gets and runs them"]
fn resp_compatibility_finds_what_the_page_says() {
    let suite = suites().join("resp-compatibility");
    let server = Server::start(&[]);
    let mut command = Command::new(env::var_os("MOONCAKE_SUITES_PYTHON").unwrap_or_else(|| "python3".into()));
    command.arg(suite.join("resp_compatibility.py")).arg("--testfile").arg(suite.join("cts.json"));
    command.args(["--host", "127.0.0.1", "--port", &server.port(), "--specific-version", "7.2.0", "--show-failed"]);
    let told = peer::run_within(&mut command, "", PATIENCE).text;
    let passed = told.lines().filter(|line| line.starts_with("test: ") && line.ends_with(" passed")).count();
    let failure = |line: &str| {
        let (name, why) = line.strip_prefix("FailedTest(name='")?.split_once("', reason=")?;
        Some((name.to_owned(), why.to_owned()))
    };
    let failures: Vec<_> = told.lines().filter_map(failure).collect();
    assert!(told.contains("Summary: version: 7.2.0"), "it did not come to its end:\n{told}");
    let mut complaints = Vec::new();
    compare("resp-compatibility", passed, &failures, &mut complaints);
    done(&complaints);
}

#[test]
#[ignore = "needs the suites, which are not part of this tree: tools/suites gets and runs them"]
fn the_tcl_suite_finds_what_the_page_says() {
    let root = suites().join("valkey");
    let mut complaints = Vec::new();
    for (file, _) in passes().into_iter().filter(|(suite, _)| suite.starts_with("unit/")) {
        let server = Server::start(&[]);
        let mut command = Command::new("tclsh");
        command.current_dir(&root).args(["tests/test_helper.tcl", "--clients", "1", "--durable", "--singledb"]);
        command.args(["--ignore-encoding", "--ignore-digest", "--host", "127.0.0.1", "--port", &server.port()]);
        command.args(["--single", &file, "--tags", TAGS]);
        for ((_, name), _) in exceptions().into_iter().filter(|((of, _), (how, _))| *of == file && how == "skipped") {
            command.args(["--skiptest", &name]);
        }
        let told = plain(&peer::run_within(&mut command, "", PATIENCE).text);
        if !told.contains(&format!("done]: {file}")) {
            complaints.push(format!("{file} did not come to its end:\n{}", &told[told.len().saturating_sub(2000)..]));
            continue;
        }
        let passed = told.lines().filter(|line| line.starts_with("[ok]: ")).count();
        let lines: Vec<&str> = told.lines().collect();
        let failure = |at: usize| {
            let name = lines[at].strip_prefix("[err]: ")?.split(" in tests/").next()?.to_owned();
            // Up to the next result stands what it complains about.
            let why = lines[at + 1..].iter().take_while(|line| !line.starts_with('[')).take(3).copied();
            Some((name, why.collect::<Vec<_>>().join(" ")))
        };
        let failures: Vec<_> = (0..lines.len()).filter_map(failure).collect();
        compare(&file, passed, &failures, &mut complaints);
    }
    done(&complaints);
}
