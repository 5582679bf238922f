//! `CONFIG`: the settings of a running server.

use crate::config::users::UserLines;
use crate::config::value::Form;
use crate::config::{Config, Origin, SettingInfo, settings};
use crate::dispatch::{Ctx, Flow};
use crate::glob::Glob;
use crate::node::Node;
use protocol::command::CommandId;
use protocol::resp::{Arg, ErrorWord, WireError};
use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::atomic::Ordering;
use toml_edit::DocumentMut;

/// The setting that users stand in.
const USERS: &str = "user";

/// `CONFIG GET glob …`
pub(crate) fn config_get(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let globs = ctx
        .args
        .skip(2)
        .iter()
        .map(|arg| Glob::any_case(arg.bytes().ok_or_else(WireError::syntax)?))
        .collect::<Result<Vec<_>, _>>()?;
    let found: Vec<(&str, String)> = {
        let config = ctx.node.config.read();
        config.entries().filter(|(name, _)| globs.iter().any(|glob| glob.matches(name.as_bytes()))).collect()
    };
    let mut reply = ctx.reply();
    reply.map(found.len());
    for (name, value) in found {
        reply.field(name).bulk(value.as_bytes());
    }
    Ok(Flow::Go)
}

/// `CONFIG SET name value …`: all of them, or none.
pub(crate) fn config_set(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let words = ctx.args.skip(2);
    if !words.len().is_multiple_of(2) {
        return Err(WireError::syntax());
    }
    let texts = words.iter().map(text).collect::<Result<Vec<_>, _>>()?;
    let pairs: Vec<(&str, &str)> = texts.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
    let mut names = HashSet::new();
    if let Some((twice, _)) = pairs.iter().find(|(name, _)| !names.insert(name.to_ascii_lowercase())) {
        return Err(WireError::err(format!(
            "CONFIG SET failed (possibly related to argument '{twice}') - duplicate parameter"
        )));
    }
    ctx.node.set_config(&pairs).map_err(WireError::err)?;
    ctx.reply().ok();
    Ok(Flow::Go)
}

fn text(arg: Arg<'_>) -> Result<&str, WireError> {
    arg.bytes()
        .and_then(|bytes| std::str::from_utf8(bytes).ok())
        .ok_or_else(|| WireError::err("settings are text in UTF-8"))
}

/// `CONFIG RESETSTAT`
pub(crate) fn config_reset_stat(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    reset_statistics(ctx.node);
    ctx.reply().ok();
    Ok(Flow::Go)
}

/// Begins all counters again. What a worker counts in this very moment may survive: its own counters are not locked.
fn reset_statistics(node: &Node) {
    node.store.reset_counters();
    for worker in node.workers().iter() {
        let stats = &worker.stats;
        for counter in [&stats.commands, &stats.net_in, &stats.net_out, &stats.errors] {
            counter.reset();
        }
        for &id in CommandId::ALL {
            stats.of(id).reset();
        }
        for &word in ErrorWord::ALL {
            stats.errors_of(word).store(0, Ordering::Relaxed);
        }
    }
    let stats = &node.stats;
    for counter in [
        &stats.connections,
        &stats.rejected,
        &stats.bulk_in,
        &stats.bulk_out,
        &stats.shm_in,
        &stats.shm_leased,
        &stats.rdma_in,
        &stats.rdma_out,
        &stats.protocol_errors,
        &stats.timeouts,
        &stats.tls_failed,
        &stats.evicted,
        &stats.flash_timeouts,
        &stats.flash_missed,
        &stats.untouched_hits,
        &stats.untouched_misses,
    ] {
        counter.reset();
    }
    node.users.log.reset_counts();
    node.sampler.forget();
}

/// `CONFIG REWRITE`: what `CONFIG SET` changed goes into the file that the server was started with.
pub(crate) fn config_rewrite(ctx: &mut Ctx<'_>) -> Result<Flow, WireError> {
    let Some(path) = ctx.node.config_file.get() else {
        return Err(WireError::err("The server is running without a config file"));
    };
    let config = ctx.node.config.read().clone();
    let users = ctx.node.users.differ_from_config().then(|| ctx.node.users.lines(&config));
    rewrite(path, &config, users.as_ref())
        .map_err(|error| WireError::err(format!("Rewriting config file: {error}")))?;
    tracing::info!("CONFIG REWRITE: {}", path.display());
    ctx.reply().ok();
    Ok(Flow::Go)
}

/// Keeps everything else of the file as it is, comments too. A crash leaves the old file or the new one.
fn rewrite(path: &Path, config: &Config, users: Option<&UserLines>) -> io::Result<()> {
    let mut document: DocumentMut = fs::read_to_string(path)?.parse().map_err(io::Error::other)?;
    for info in settings() {
        if config.origin(info.name) == Some(&Origin::Set) {
            set_value(&mut document, info, config);
        }
    }
    if let Some(users) = users {
        set_users(&mut document, users);
    }
    let mut draft_name = path.as_os_str().to_owned();
    draft_name.push(".draft");
    let draft_name = Path::new(&draft_name);
    // It may hold a password: nobody else reads it even for a moment.
    let mut draft = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(draft_name)?;
    let written = draft
        .write_all(document.to_string().as_bytes())
        .and_then(|()| draft.set_permissions(fs::metadata(path)?.permissions()))
        .and_then(|()| draft.sync_all())
        .and_then(|()| fs::rename(draft_name, path));
    if written.is_err() {
        // Whatever went wrong is reported; the draft is of no use.
        let _ = fs::remove_file(draft_name);
    }
    written
}

/// Changes one value and keeps the comment behind it.
fn set_value(document: &mut DocumentMut, info: &SettingInfo, config: &Config) {
    let text = if info.secret { info.get(config) } else { info.written(config) };
    let mut value = match (info.form, text.parse::<i64>()) {
        (Form::Number, Ok(number)) => toml_edit::Value::from(number),
        (Form::Switch, _) => toml_edit::Value::from(text == "yes"),
        (Form::Number | Form::Text, _) => toml_edit::Value::from(text),
    };
    if let Some(old) = document.get(info.name).and_then(toml_edit::Item::as_value) {
        *value.decor_mut() = old.decor().clone();
    }
    document[info.name] = toml_edit::Item::Value(value);
}

/// Puts the users, one a line, where those before stood.
fn set_users(document: &mut DocumentMut, users: &UserLines) {
    if users.lines().is_empty() {
        document.remove(USERS);
        return;
    }
    let mut array: toml_edit::Array = users.lines().iter().collect();
    array.iter_mut().for_each(|line| line.decor_mut().set_prefix("\n    "));
    array.set_trailing("\n");
    array.set_trailing_comma(true);
    document[USERS] = toml_edit::value(array);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Machine, Value as _};
    use protocol::base::ByteLen;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn rewriting_changes_what_was_set_and_nothing_else() {
        let dir = std::env::temp_dir().join(format!("mooncake-rewrite-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory for the test");
        let path = dir.join("m.toml");
        fs::write(&path, "# ours\nmaxmemory = \"64 MiB\" # small\nworkers = 2\n").expect("a file for the test");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("it is ours");
        let mut config = Config::default_on(Machine { memory: ByteLen::gib(8), cores: 2 });
        config
            .set_all(&[("maxmemory", "128 MiB"), ("timeout", "30"), ("protected-mode", "no"), ("requirepass", "s\"x")])
            .expect("all of them may change");
        let users = UserLines::parse("bob on nopass ~a:* +get").expect("a user");
        let rewritten = rewrite(&path, &config, Some(&users));
        let text = fs::read_to_string(&path).expect("it is there");
        let mode = fs::metadata(&path).expect("it is there").permissions().mode() & 0o777;
        let left = fs::read_dir(&dir).expect("it is ours").count();
        fs::remove_dir_all(&dir).expect("the directory was ours");
        rewritten.expect("the directory can be written");
        assert!(text.starts_with("# ours\nmaxmemory = \"128 MiB\" # small\nworkers = 2\n"), "{text}");
        assert!(text.contains("user = [\n    \"bob on nopass ~a:* resetchannels -@all +get\",\n]\n"), "{text}");
        for line in ["timeout = 30\n", "protected-mode = false\n", "requirepass = 's\"x'\n"] {
            assert!(text.contains(line), "no {line:?} in {text}");
        }
        assert_eq!(text.lines().count(), 9, "{text}");
        assert_eq!((mode, left), (0o640, 1));
        assert!(rewrite(Path::new("/nonexistent/m.toml"), &config, None).is_err());
    }
}
