//! Configurations as text: the file of all defaults, the effective values, the table for the guide.

use super::table::{Config, SettingInfo, When, settings};
use super::value::Form;
use super::{Machine, Origin};
use std::fmt::Write;

/// `conf/mooncake.toml`: every setting, commented out, at its default.
pub fn defaults_file() -> String {
    let mut out = String::from(
        "# Settings of mooncake-server. Each stands here at its default; remove the `#` to change one.\n\
         # An environment variable MOONCAKE_<NAME> wins over this file, a flag --<name> over both.\n\
         # `mooncake-server --config FILE --check` says what is wrong with a file, or what it adds up to.\n\
         # Lengths: 4096, 64 KiB, 1 GiB. Printed by `mooncake-server --print-defaults`; a test keeps them equal.\n",
    );
    let mut section = "";
    for info in settings() {
        if section != info.section {
            section = info.section;
            write!(out, "\n# ---- {section} ----\n").expect("a string takes text");
        }
        let live = if info.when == When::Runtime { " CONFIG SET changes it." } else { "" };
        write!(
            out,
            "\n# {}\n# Allowed: {}.{live}\n# {} = {}\n",
            info.why,
            info.allowed(),
            info.name,
            toml_text(info, info.default)
        )
        .expect("a string takes text");
    }
    out
}

/// The settings as a table for the operators' guide.
pub fn markdown_table() -> String {
    let mut out = String::new();
    let mut section = "";
    for info in settings() {
        if section != info.section {
            let space = if section.is_empty() { "" } else { "\n" };
            section = info.section;
            write!(out, "{space}### {section}\n\n| setting | default | allowed | what it is |\n|---|---|---|---|\n")
                .expect("a string takes text");
        }
        let live = if info.when == When::Runtime { " (live)" } else { "" };
        let default = if info.default.is_empty() { "empty" } else { info.default };
        let why = info.why.replace('<', "&lt;").replace('|', "\\|");
        writeln!(out, "| `{}`{live} | {default} | {} | {why} |", info.name, info.allowed())
            .expect("a string takes text");
    }
    out
}

impl Config {
    /// What `--check` prints: every value, where it came from, and what `0` and `auto` come to.
    pub fn effective(&self) -> String {
        let mut out = String::new();
        for info in settings() {
            let assignment = format!("{} = {}", info.name, toml_text(info, &info.written(self)));
            let origin = self.origin(info.name).unwrap_or(&Origin::Default);
            let meaning = self.meaning(info.name).map_or(String::new(), |text| format!(": {text}"));
            writeln!(out, "{assignment:<44} # {origin}{meaning}").expect("a string takes text");
        }
        out
    }

    /// What a value comes to on this machine, for those that leave it to the server.
    fn meaning(&self, name: &str) -> Option<String> {
        let port = self.listen.port();
        let path = |path: Option<std::path::PathBuf>| path.map_or("off".to_owned(), |path| path.display().to_string());
        match name {
            "workers" => Some(self.worker_count().to_string()),
            "dram" => Some(format!("{} in {} segments", self.dram_total(), self.segment_count())),
            "segment-len" => Some(self.segment_size().to_string()),
            "maxmemory" => Some(self.maxmemory_len().to_string()),
            "shards" => Some(self.shard_count().to_string()),
            "bulk-listen" => Some(self.bulk_addr(port).map_or("off".to_owned(), |addr| addr.to_string())),
            "metrics-listen" => Some(self.metrics_addr(port).map_or("off".to_owned(), |addr| addr.to_string())),
            "data-dir" => Some(path(self.data_dir_path())),
            "nvme" => Some(self.flash_meaning()),
            "unix-socket" => Some(path(self.unix_socket_path(port))),
            _ => None,
        }
    }

    fn flash_meaning(&self) -> String {
        let devices: Vec<String> = self
            .flash_devices()
            .into_iter()
            .map(|device| match device.size {
                Some(size) => {
                    let segment = self.flash_segment_size(Some(size));
                    format!("{} of {size} in segments of {segment}", device.place)
                }
                None => format!("{}, as it is", device.place),
            })
            .collect();
        if devices.is_empty() { "no flash tier".to_owned() } else { devices.join(", ") }
    }
}

impl Machine {
    /// A machine to print defaults on; nothing printed depends on it.
    #[cfg(test)]
    fn any() -> Self {
        Self { memory: protocol::base::ByteLen::gib(16), cores: 4 }
    }
}

/// A value as TOML writes it.
fn toml_text(info: &SettingInfo, text: &str) -> String {
    match info.form {
        Form::Number if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => text.to_owned(),
        Form::Switch => if text == "yes" { "true" } else { "false" }.to_owned(),
        Form::Number | Form::Text => toml_edit::Value::from(text).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use std::path::Path;

    const TABLE_BEGIN: &str = "<!-- settings: written by a test from server/src/config/table.rs -->\n";
    const TABLE_END: &str = "<!-- end of settings -->\n";

    /// With `MOONCAKE_REGENERATE=1` brings the file up to the code instead of complaining.
    fn check_file(path: &str, wanted: impl Fn(&str) -> String) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        let wanted = wanted(&found);
        if std::env::var_os("MOONCAKE_REGENERATE").is_some() {
            std::fs::write(&path, &wanted).expect("the tree can be written");
            return;
        }
        assert!(
            found == wanted,
            "{} does not say what the code says; `MOONCAKE_REGENERATE=1 cargo test -p mooncake-server config` mends it",
            path.display()
        );
    }

    #[test]
    fn the_shipped_file_says_what_the_code_says() {
        check_file("conf/mooncake.toml", |_| defaults_file());
    }

    #[test]
    fn the_guide_says_what_the_code_says() {
        check_file("docs/operators-guide.md", |found| {
            let (before, rest) = found.split_once(TABLE_BEGIN).expect("the guide has a place for the table");
            let (_, after) = rest.split_once(TABLE_END).expect("the place has an end");
            format!("{before}{TABLE_BEGIN}\n{}\n{TABLE_END}{after}", markdown_table())
        });
    }

    #[test]
    fn the_shipped_file_uncommented_is_the_default_configuration() {
        let dir = tempfile_dir();
        let path = dir.join("all.toml");
        let text: String = defaults_file()
            .lines()
            .map(|line| match line.strip_prefix("# ").and_then(|rest| rest.split_once(" = ")) {
                Some((name, _)) if super::super::setting(name).is_some() => format!("{}\n", &line[2..]),
                _ => "\n".to_owned(),
            })
            .collect();
        assert_eq!(text.matches(" = ").count(), settings().len(), "a setting is missing in the file");
        std::fs::write(&path, text).expect("a file for the test");
        let cli = Cli::try_parse_from(["mooncake-server", "--config", &path.display().to_string()]).expect("a flag");
        let loaded = super::super::source::load(&cli, std::iter::empty(), Machine::any());
        std::fs::remove_dir_all(&dir).expect("the directory was ours");
        let mut config = loaded.expect("defaults are allowed");
        config.origins.fill(Origin::Default);
        assert_eq!(config, Config::default_on(Machine::any()));
    }

    #[test]
    fn what_is_effective_can_be_read_back_and_hides_the_password() {
        let args = ["mooncake-server", "--requirepass", "hunter2", "--dram", "1.5GiB", "--port", "7000"];
        let cli = Cli::try_parse_from(args).expect("flags exist");
        let config = super::super::source::load(&cli, std::iter::empty(), Machine::any()).expect("all is allowed");
        let text = config.effective();
        assert!(!text.contains("hunter2"), "{text}");
        assert!(text.contains("\"1.50 GiB\"") && text.contains("# flag --dram: 1.50 GiB in 6 segments"), "{text}");
        let document: toml_edit::DocumentMut = text.parse().expect("it is TOML");
        assert_eq!(document.as_table().len(), settings().len());
    }

    fn tempfile_dir() -> std::path::PathBuf {
        let dir = std::env::temp_dir().join(format!("mooncake-print-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory for the test");
        dir
    }
}
