//! Where settings come from: a TOML file, the environment, flags. Later sources win.
//!
//! Invariants:
//! - Every problem of every source is found before anything is refused, so that one run shows them all.
//! - A value refused by one source is still reported when a later source overrides it: it is wrong as it stands.

use super::error::{ConfigError, Problem, nearest};
use super::table::{Config, SettingInfo, defaults, setting, settings};
use super::{Machine, Origin};
use crate::cli::Cli;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// What the names of our environment variables start with.
pub const ENV_PREFIX: &str = "MOONCAKE_";
/// The variable that names the configuration file where no flag does.
pub const ENV_FILE: &str = "MOONCAKE_CONFIG";

/// The file to read: a flag names it, or the environment.
pub fn file(cli: &Cli, env: Option<OsString>) -> Option<PathBuf> {
    cli.config.clone().or_else(|| env.map(PathBuf::from))
}

/// Adds the sources up. See [`Config::load`].
///
/// # Errors
/// Everything that is wrong with any of them.
pub fn load(
    cli: &Cli,
    env: impl Iterator<Item = (OsString, OsString)>,
    machine: Machine,
) -> Result<Config, ConfigError> {
    let env: Vec<(String, OsString)> = env
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, _)| name.starts_with(ENV_PREFIX))
        .collect();
    let file = file(cli, env.iter().find(|(name, _)| name == ENV_FILE).map(|(_, value)| value.clone()));

    let mut sum = Sum { config: defaults(machine), problems: Vec::new() };
    if let Some(path) = file {
        sum.file(&path);
    }
    for (name, value) in &env {
        sum.env(name, value);
    }
    for (name, value) in cli.flags() {
        sum.apply(name, value, Origin::Flag(name.to_owned()));
    }
    if let Some(port) = cli.port {
        sum.config.listen.set_port(port);
        sum.came_from("listen", Origin::Flag("port".to_owned()));
    }
    if let Some(ip) = cli.bind {
        sum.config.listen.set_ip(ip);
        sum.came_from("listen", Origin::Flag("bind".to_owned()));
    }
    sum.finish()
}

/// The configuration so far, and what was wrong so far.
struct Sum {
    config: Config,
    problems: Vec<Problem>,
}

impl Sum {
    fn apply(&mut self, name: &str, text: &str, origin: Origin) {
        match setting(name) {
            None => self.problems.push(Problem::unknown(origin, name)),
            Some(info) => self.apply_to(info, text, origin),
        }
    }

    fn apply_to(&mut self, info: &SettingInfo, text: &str, origin: Origin) {
        match info.set(&mut self.config, text) {
            Ok(()) => self.came_from(info.name, origin),
            Err(()) => self.problems.push(Problem::refused(origin, info, text)),
        }
    }

    fn came_from(&mut self, name: &str, origin: Origin) {
        let info = setting(name).expect("called with names of the table");
        self.config.origins[info.index()] = origin;
    }

    fn env(&mut self, name: &str, value: &OsString) {
        if name == ENV_FILE {
            return;
        }
        let origin = Origin::Env(name.to_owned());
        let Some(info) = settings().iter().find(|info| info.env() == name) else {
            // Orchestrators set variables of their own with such a prefix (MOONCAKE_SERVICE_HOST of a service called
            // mooncake), so only what looks like a misspelt setting is refused.
            let bare = name[ENV_PREFIX.len()..].replace('_', "-");
            if nearest(&bare).is_some() {
                self.problems.push(Problem::unknown(origin, &bare.to_ascii_lowercase()));
            }
            return;
        };
        match value.to_str() {
            Some(text) => self.apply_to(info, text, origin),
            None => self.problems.push(Problem::refused(origin, info, &value.to_string_lossy())),
        }
    }

    fn file(&mut self, path: &Path) {
        let at = |line, column| Origin::File { path: path.to_owned(), line, column };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                self.problems.push(Problem { origin: at(1, 1), text: format!("cannot be read: {error}") });
                return;
            }
        };
        let place = |span: Option<std::ops::Range<usize>>| {
            let (line, column) = line_column(&text, span.map_or(0, |span| span.start));
            at(line, column)
        };
        let document = match toml_edit::Document::parse(text.as_str()) {
            Ok(document) => document,
            Err(error) => {
                let text = error.message().trim().replace('\n', ", ");
                self.problems.push(Problem { origin: place(error.span()), text });
                return;
            }
        };
        for (name, item) in document.as_table() {
            let key_span = document.as_table().key(name).and_then(toml_edit::Key::span);
            let Some(info) = setting(name) else {
                self.problems.push(Problem::unknown(place(key_span), name));
                continue;
            };
            let origin = place(item.span().or(key_span));
            match item.as_value().and_then(|value| text_of(value, info.list.then_some(info.separator))) {
                Some(value) => self.apply_to(info, &value, origin),
                None => self
                    .problems
                    .push(Problem { origin, text: format!("{} takes one value: {}", info.name, info.allowed()) }),
            }
        }
    }

    fn finish(mut self) -> Result<Config, ConfigError> {
        // A value that was refused has left its default behind, which need not agree with the others.
        if self.problems.is_empty() {
            self.problems.extend(self.config.disagreements().into_iter().map(|(name, why)| Problem {
                origin: self.config.origin(name).cloned().unwrap_or(Origin::Default),
                text: format!("{name} {why}"),
            }));
        }
        if self.problems.is_empty() { Ok(self.config) } else { Err(ConfigError(self.problems)) }
    }
}

/// A TOML value as the text that a flag would give. An array is the parts of a list.
fn text_of(value: &toml_edit::Value, separator: Option<&str>) -> Option<String> {
    match value {
        toml_edit::Value::Array(parts) if separator.is_some() && !parts.is_empty() => {
            let texts = parts.iter().map(|part| text_of(part, None)).collect::<Option<Vec<_>>>();
            texts.map(|texts| texts.join(separator.unwrap_or_default()))
        }
        toml_edit::Value::String(text) => Some(text.value().clone()),
        toml_edit::Value::Integer(number) => Some(number.value().to_string()),
        toml_edit::Value::Boolean(switch) => Some(switch.value().to_string()),
        toml_edit::Value::Float(number) => Some(number.value().to_string()),
        toml_edit::Value::Datetime(_) | toml_edit::Value::Array(_) | toml_edit::Value::InlineTable(_) => None,
    }
}

/// Line and column, counted from 1, of the byte at `offset`.
fn line_column(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..text.floor_char_boundary(offset.min(text.len()))];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Value as _;
    use protocol::base::{ByteLen, Millis};

    const MACHINE: Machine = Machine { memory: ByteLen::gib(24), cores: 2 };

    fn load_with(file: Option<&str>, env: &[(&str, &str)], flags: &[&str]) -> Result<Config, String> {
        let dir = std::env::temp_dir().join(format!(
            "mooncake-config-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        std::fs::create_dir_all(&dir).expect("a directory for the test");
        let path = dir.join("test.toml");
        let mut args = vec!["mooncake-server".to_owned()];
        if let Some(text) = file {
            std::fs::write(&path, text).expect("a file for the test");
            args.extend(["--config".to_owned(), path.display().to_string()]);
        }
        args.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let cli = Cli::try_parse_from(args).expect("the flags exist");
        let env = env.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let loaded = load(&cli, env, MACHINE);
        std::fs::remove_dir_all(&dir).expect("the directory was ours");
        loaded.map_err(|error| error.to_string().replace(&format!("{}/", dir.display()), ""))
    }

    #[test]
    fn later_sources_win() {
        let file = "grant-ms = 1000\nworkers = 3\nlease-ms-max = 2000\ntcp-keepalive = 60";
        let env = [("MOONCAKE_WORKERS", "4"), ("MOONCAKE_LEASE_MS_MAX", "3000"), ("HOME", "/")];
        let config =
            load_with(Some(file), &env, &["--lease-ms-max", "4000", "--port", "0"]).expect("all of it is fine");
        assert_eq!(config.grant_ms, Millis(1000));
        assert_eq!(config.workers, 4);
        assert_eq!(config.lease_ms_max, Millis(4000));
        assert_eq!(config.listen.to_string(), "127.0.0.1:0");
        assert_eq!(config.args_max, 1024);
        assert_eq!(config.origin("lease-ms-max"), Some(&Origin::Flag("lease-ms-max".to_owned())));
        assert_eq!(config.origin("workers"), Some(&Origin::Env("MOONCAKE_WORKERS".to_owned())));
        assert!(matches!(config.origin("tcp-keepalive"), Some(Origin::File { line: 4, column: 17, .. })));
        assert_eq!(config.origin("args-max"), Some(&Origin::Default));
    }

    #[test]
    fn a_file_may_write_values_as_text_numbers_or_switches() {
        let file = "dram = '1 GiB'\nmaxmemory = 536870912\nprotected-mode = false\nwatermark-high-percent = '96%'\n";
        let config = load_with(Some(file), &[], &[]).expect("all of it is fine");
        assert_eq!(config.dram, ByteLen::gib(1));
        assert_eq!(config.maxmemory, ByteLen::mib(512));
        assert!(!config.protected_mode);
        assert_eq!(config.watermark_high_percent.0, 96);
    }

    #[test]
    fn a_list_comes_as_an_array_or_as_flags() {
        let file = "nvme = ['/a:1GiB', '/b']\nworkers = [2]\n";
        let error = load_with(Some(file), &[], &[]).expect_err("workers are no list");
        assert!(error.starts_with("test.toml:2:11: workers takes one value"), "{error}");
        let config = load_with(Some("nvme = ['/a:1GiB', '/b']"), &[], &[]).expect("a list");
        assert_eq!(config.nvme, crate::config::Devices::parse("/a:1GiB,/b").expect("the same list"));
        let config = load_with(None, &[], &["--nvme", "/a:1GiB", "--nvme", "/b"]).expect("flags add up");
        assert_eq!(config.nvme, crate::config::Devices::parse("/a:1GiB,/b").expect("the same list"));
    }

    #[test]
    fn every_mistake_is_named_with_its_place_and_what_is_allowed() {
        let file = "# a comment\nworkers = 5000\ngrant_ms = 100\ndram = [1]\nlog-level = \"loud\"\n[section]\nx = 1\n";
        let env = [("MOONCAKE_TIMEOT", "1"), ("MOONCAKE_SHARDS", "x"), ("MOONCAKE_SERVICE_HOST", "10.0.0.1")];
        let error = load_with(Some(file), &env, &["--tick-ms", "0"]).expect_err("nearly all of it is wrong");
        assert_eq!(
            error.lines().collect::<Vec<_>>(),
            [
                r#"test.toml:2:11: workers = "5000" is not allowed: 1 to 1024, or 0 (one a core)"#,
                r#"test.toml:3:1: there is no setting "grant_ms"; did you mean grant-ms?"#,
                r#"test.toml:4:8: dram takes one value: 64 MiB to 64 TiB, or 0 (a quarter of the machine)"#,
                r#"test.toml:5:13: log-level = "loud" is not allowed: error, warn, info, debug or trace"#,
                r#"test.toml:6:2: there is no setting "section""#,
                r#"environment MOONCAKE_TIMEOT: there is no setting "timeot"; did you mean timeout?"#,
                r#"environment MOONCAKE_SHARDS: shards = "x" is not allowed: 1 to 256, or 0 (by the number of workers)"#,
                r#"flag --tick-ms: tick-ms = "0" is not allowed: 1 to 1000"#,
            ]
        );
    }

    #[test]
    fn broken_toml_and_contradictions_have_a_place_too() {
        let error = load_with(Some("workers = 1\nworkers = 2\n"), &[], &[]).expect_err("twice the same");
        assert!(error.starts_with("test.toml:2:1: "), "{error}");
        let error = load_with(Some("workers 1\n"), &[], &[]).expect_err("not TOML");
        assert!(error.starts_with("test.toml:1:"), "{error}");
        let error = load_with(Some("watermark-low-percent = 99"), &[], &[]).expect_err("above the high mark");
        assert_eq!(error, "test.toml:1:25: watermark-low-percent must not be above watermark-high-percent (95)");
        let error = load_with(None, &[("MOONCAKE_CONFIG", "/nonexistent/m.toml")], &[]).expect_err("no such file");
        assert!(error.starts_with("/nonexistent/m.toml:1:1: cannot be read"), "{error}");
    }

    #[test]
    fn a_password_does_not_show_in_a_complaint() {
        let long = "x".repeat(600);
        let error = load_with(None, &[("MOONCAKE_REQUIREPASS", &long)], &[]).expect_err("too long");
        assert!(error.contains("(hidden)") && !error.contains("xxx"), "{error}");
    }
}
