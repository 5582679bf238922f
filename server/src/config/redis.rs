//! Names that Redis has for settings of ours, and constants that its tools ask for.
//!
//! Settings that bear the same name in both (`maxmemory`, `timeout`, ...) are in the table and not here.

use super::error::SetError;
use super::table::Config;
use super::value::{LogLevel, Value};

/// A name of Redis: what it answers, and how it takes a new value.
struct Alias {
    name: &'static str,
    /// The setting of ours that says it.
    ours: Option<&'static str>,
    get: fn(&Config) -> String,
}

const fn constant(name: &'static str, get: fn(&Config) -> String) -> Alias {
    Alias { name, ours: None, get }
}

static ALIASES: &[Alias] = &[
    Alias { name: "port", ours: Some("listen"), get: |config| config.listen.port().to_string() },
    Alias { name: "bind", ours: Some("listen"), get: |config| config.listen.ip().to_string() },
    Alias { name: "unixsocket", ours: Some("unix-socket"), get: unix_socket },
    Alias { name: "proto-max-bulk-len", ours: Some("object-len-max"), get: |config| config.object_len_max.render() },
    Alias { name: "io-threads", ours: Some("workers"), get: |config| config.worker_count().to_string() },
    Alias {
        name: "pidfile",
        ours: Some("pid-file"),
        get: |config| config.pid_file.as_ref().map_or(String::new(), Value::render),
    },
    Alias { name: "loglevel", ours: Some("log-level"), get: log_level },
    Alias { name: "tls-port", ours: Some("tls-listen"), get: tls_port },
    constant("save", |_| String::new()),
    constant("appendonly", |_| "no".to_owned()),
    constant("daemonize", |_| "no".to_owned()),
    constant("replicaof", |_| String::new()),
    constant("slaveof", |_| String::new()),
    constant("databases", |_| "1".to_owned()),
    constant("maxmemory-policy", |_| "allkeys-lru".to_owned()),
];

/// How Redis keeps values of types that are not here, with its defaults: scripts that set a server up set them blindly. They
/// are taken and change nothing, since there is nothing that they could change.
static MOOT: &[(&str, &str)] = &[
    ("hash-max-listpack-entries", "128"),
    ("hash-max-listpack-value", "64"),
    ("hash-max-ziplist-entries", "128"),
    ("hash-max-ziplist-value", "64"),
    ("hll-sparse-max-bytes", "3000"),
    ("list-compress-depth", "0"),
    ("list-max-listpack-size", "-2"),
    ("list-max-ziplist-size", "-2"),
    ("set-max-intset-entries", "512"),
    ("set-max-listpack-entries", "128"),
    ("set-max-listpack-value", "64"),
    ("stream-node-max-bytes", "4096"),
    ("stream-node-max-entries", "100"),
    ("zset-max-listpack-entries", "128"),
    ("zset-max-listpack-value", "64"),
    ("zset-max-ziplist-entries", "128"),
    ("zset-max-ziplist-value", "64"),
];

fn unix_socket(config: &Config) -> String {
    config.unix_socket_path(config.listen.port()).map_or(String::new(), |path| path.display().to_string())
}

fn tls_port(config: &Config) -> String {
    config.tls_listen.map_or(0, |addr| addr.port()).to_string()
}

fn log_level(config: &Config) -> String {
    match config.log_level {
        LogLevel::Error | LogLevel::Warn => "warning",
        LogLevel::Info => "notice",
        LogLevel::Debug => "verbose",
        LogLevel::Trace => "debug",
    }
    .to_owned()
}

/// Names that only Redis has, with their values.
pub(super) fn entries(config: &Config) -> impl Iterator<Item = (&'static str, String)> + '_ {
    let moot = MOOT.iter().map(|(name, default)| (*name, (*default).to_owned()));
    ALIASES.iter().map(|alias| (alias.name, (alias.get)(config))).chain(moot)
}

/// The setting of ours that Redis calls `name`.
pub(super) fn meant(name: &str) -> Option<&'static str> {
    ALIASES.iter().find(|alias| alias.name == name).and_then(|alias| alias.ours)
}

/// Takes `CONFIG SET` of a name of Redis. Answers whether there is such a name.
///
/// What Redis calls so and we cannot change is accepted where it says what already holds: tools turn `save` and
/// `appendonly` off without looking.
pub(super) fn is_set(config: &Config, name: &str, value: &str) -> Result<bool, SetError> {
    if let Some((name, _)) = MOOT.iter().find(|(known, _)| *known == name) {
        return if value.parse::<i64>().is_ok() {
            Ok(true)
        } else {
            Err(SetError::Refused { name, allowed: "a whole number".to_owned() })
        };
    }
    let Some(alias) = ALIASES.iter().find(|alias| alias.name == name) else {
        return Ok(false);
    };
    if (alias.get)(config).eq_ignore_ascii_case(value) { Ok(true) } else { Err(SetError::Fixed { name: alias.name }) }
}

#[cfg(test)]
mod tests {
    use super::super::{Machine, setting};
    use super::*;
    use protocol::base::ByteLen;

    fn config() -> Config {
        Config::default_on(Machine { memory: ByteLen::gib(8), cores: 2 })
    }

    fn get(config: &Config, name: &str) -> Option<String> {
        let mut found = config.entries().filter(|(known, _)| *known == name).map(|(_, value)| value);
        let value = found.next();
        assert_eq!(found.next(), None, "{name} is listed twice");
        value
    }

    #[test]
    fn tools_of_redis_find_the_names_they_ask_for() {
        let config = config();
        for (name, value) in [
            ("port", "6379"),
            ("bind", "127.0.0.1"),
            ("maxmemory", "0"),
            ("maxclients", "10000"),
            ("timeout", "0"),
            ("tcp-keepalive", "300"),
            ("requirepass", ""),
            ("protected-mode", "yes"),
            ("proto-max-bulk-len", "536870912"),
            ("save", ""),
            ("appendonly", "no"),
            ("databases", "1"),
            ("daemonize", "no"),
            ("replicaof", ""),
            ("loglevel", "notice"),
        ] {
            assert_eq!(get(&config, name).as_deref(), Some(value), "CONFIG GET {name}");
        }
    }

    #[test]
    fn what_cannot_change_may_be_set_to_what_it_is() {
        let mut config = config();
        config.set_all(&[("save", ""), ("appendonly", "NO"), ("port", "6379")]).expect("all of it already holds");
        assert!(matches!(config.set("appendonly", "yes"), Err(SetError::Fixed { name: "appendonly" })));
    }

    #[test]
    fn what_there_is_nothing_of_may_be_set_to_any_number_and_stays_as_it_was() {
        let mut config = config();
        config.set("list-max-listpack-size", "10").expect("a number");
        assert_eq!(get(&config, "list-max-listpack-size").as_deref(), Some("-2"));
        assert!(matches!(config.set("list-max-listpack-size", "ten"), Err(SetError::Refused { .. })));
        for (name, default) in MOOT {
            assert!(
                setting(name).is_none() && ALIASES.iter().all(|alias| alias.name != *name),
                "{name} is in two tables"
            );
            assert!(default.parse::<i64>().is_ok(), "{name}");
        }
    }

    #[test]
    fn names_of_redis_lead_to_ours() {
        for alias in ALIASES {
            assert!(setting(alias.name).is_none(), "{} is in both tables", alias.name);
            assert!(alias.ours.is_none_or(|ours| setting(ours).is_some()), "{} leads nowhere", alias.name);
        }
        assert_eq!(meant("proto-max-bulk-len"), Some("object-len-max"));
    }
}
