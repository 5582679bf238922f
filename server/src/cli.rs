//! The command line: one flag a setting, made from the table of settings, and a few that are not settings.

use crate::config::{settings, source};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

/// A parsed command line. The values of settings are text still; [`crate::config`] reads them.
#[derive(Clone, Debug, Default)]
pub struct Cli {
    /// The configuration file.
    pub config: Option<PathBuf>,
    /// Replaces the port of `listen`, as `redis-server` has it.
    pub port: Option<u16>,
    /// Replaces the address of `listen`.
    pub bind: Option<IpAddr>,
    /// Validate, print the effective configuration, and do not start.
    pub check: bool,
    /// Print the file of all defaults, and do not start.
    pub print_defaults: bool,
    /// Recover and verify the flash tier, say what was found, and do not serve.
    pub recover_only: bool,
    /// Look at the machine, say what is in order and what to do, and do not start.
    pub doctor: bool,
    /// Say it as JSON.
    pub json: bool,
    flags: Vec<(&'static str, String)>,
}

impl Cli {
    /// This process's command line. Ends the process where it asks for help, for the version, or makes no sense.
    pub fn parse() -> Self {
        Self::from_matches(&command().get_matches())
    }

    /// A given command line, whose first word is the program.
    ///
    /// # Errors
    /// Those of `clap`, which say what is wrong.
    pub fn try_parse_from<T: Into<OsString> + Clone>(args: impl IntoIterator<Item = T>) -> Result<Self, clap::Error> {
        Ok(Self::from_matches(&command().try_get_matches_from(args)?))
    }

    /// Settings given as flags, in the order of the table.
    pub fn flags(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.flags.iter().map(|(name, value)| (*name, value.as_str()))
    }

    fn from_matches(matches: &ArgMatches) -> Self {
        Self {
            config: matches.get_one("config").cloned(),
            port: matches.get_one("port").copied(),
            bind: matches.get_one("bind").copied(),
            check: matches.get_flag("check"),
            print_defaults: matches.get_flag("print-defaults"),
            recover_only: matches.get_flag("recover-only"),
            doctor: matches.get_flag("doctor"),
            json: matches.get_flag("json"),
            flags: settings()
                .iter()
                .filter_map(|info| {
                    let given: Vec<&str> = matches.get_many::<String>(info.name)?.map(String::as_str).collect();
                    Some((info.name, given.join(info.separator)))
                })
                .collect(),
        }
    }
}

/// The command with all its flags.
pub fn command() -> Command {
    let own = [
        Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .help(format!("Configuration file [env: {}]", source::ENV_FILE)),
        Arg::new("check")
            .long("check")
            .action(ArgAction::SetTrue)
            .help("Validate and print the effective configuration"),
        Arg::new("print-defaults")
            .long("print-defaults")
            .action(ArgAction::SetTrue)
            .help("Print a configuration file of all defaults"),
        Arg::new("recover-only")
            .long("recover-only")
            .action(ArgAction::SetTrue)
            .help("Recover the flash tier, verify every object on it, print what was found, and end"),
        Arg::new("doctor")
            .long("doctor")
            .action(ArgAction::SetTrue)
            .help("Look at the machine with this configuration: devices, limits, disks, settings; say what is in order and what to do, and end with 1 if something fails"),
        Arg::new("json").long("json").action(ArgAction::SetTrue).requires("doctor").help("What --doctor found, as JSON"),
        Arg::new("port")
            .long("port")
            .value_name("PORT")
            .value_parser(value_parser!(u16))
            .help("The port of --listen alone"),
        Arg::new("bind")
            .long("bind")
            .value_name("ADDR")
            .value_parser(value_parser!(IpAddr))
            .help("The address of --listen alone"),
    ];
    let of_settings = settings().iter().map(|info| {
        let default = if info.default.is_empty() { "empty" } else { info.default };
        let action = if info.list { ArgAction::Append } else { ArgAction::Set };
        Arg::new(info.name)
            .long(info.name)
            .action(action)
            .value_name(info.kind)
            .help_heading(info.section)
            .help(format!("{} [default: {default}] [allowed: {}]", info.why, info.allowed()))
    });
    Command::new("mooncake-server")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A cache server for the KV cache of large language models, behind a Redis-compatible protocol")
        .after_help("Each setting is also a key of the file and an environment variable: --grant-ms, grant-ms, MOONCAKE_GRANT_MS.")
        .args(own)
        .args(of_settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_are_a_sound_command() {
        command().debug_assert();
    }

    #[test]
    fn every_setting_is_a_flag_and_unknown_ones_are_refused() {
        for info in settings() {
            let flag = format!("--{}={}", info.name, info.default);
            let cli = Cli::try_parse_from(["mooncake-server".to_owned(), flag]).expect("a flag for each setting");
            assert_eq!(cli.flags().collect::<Vec<_>>(), [(info.name, info.default)]);
        }
        let error = Cli::try_parse_from(["mooncake-server", "--drm", "1GiB"]).expect_err("misspelt");
        assert!(error.to_string().contains("--dram"), "{error}");
    }

    #[test]
    fn what_is_no_setting_is_read_too() {
        let cli = Cli::try_parse_from(["s", "--config", "/m.toml", "--port", "7000", "--bind", "::1", "--check"])
            .expect("all of them exist");
        assert_eq!((cli.port, cli.bind, cli.check), (Some(7000), Some("::1".parse().expect("an address")), true));
        assert_eq!(cli.config, Some(PathBuf::from("/m.toml")));
        assert!(!cli.print_defaults && cli.flags().next().is_none());
    }
}
