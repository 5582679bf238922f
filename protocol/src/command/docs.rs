//! The table as Markdown, for `docs/protocol.md`.

use super::spec::{Group, Spec};
use super::table;
use crate::resp::ErrorWord;
use std::fmt::Write as _;

/// Every command under its group's heading, then every error word.
pub fn markdown() -> String {
    let mut out = String::new();
    let groups = [
        Group::Object,
        Group::Lease,
        Group::Session,
        Group::Node,
        Group::String,
        Group::Generic,
        Group::Transactions,
        Group::PubSub,
        Group::Cluster,
        Group::Connection,
        Group::Server,
        Group::Scripting,
    ];
    for group in groups {
        let _ = writeln!(out, "### {}\n", heading(group));
        for spec in table::all().filter(|spec| spec.group == group) {
            // A container that answers nothing of its own is only its subcommands.
            if !spec.reply.is_empty() {
                command(&mut out, spec);
            }
            for sub in spec.subcommands {
                command(&mut out, sub);
            }
        }
    }
    out.push_str("### Error words\n\n| word | meaning |\n|---|---|\n");
    for word in ErrorWord::ALL {
        let _ = writeln!(out, "| `{word}` | {} |", word.meaning());
    }
    out
}

fn command(out: &mut String, spec: &Spec) {
    let _ = writeln!(out, "#### `{}`\n", spec.usage());
    let _ = writeln!(out, "{} {}, since {}.\n", spec.summary, spec.complexity.trim_end_matches('.'), spec.since);
    let _ = writeln!(out, "- Reply: {}.", spec.reply);
    if !spec.errors.is_empty() {
        let words: Vec<String> = spec.errors.iter().map(|word| format!("`{word}`")).collect();
        let _ = writeln!(out, "- Errors: {}.", words.join(", "));
    }
    out.push('\n');
}

fn heading(group: Group) -> &'static str {
    match group {
        Group::Object => "Objects in two phases",
        Group::Lease => "Leases, pins, lookup",
        Group::Session => "Bulk sessions",
        Group::Node => "Operating the node",
        Group::String => "In-band values",
        Group::Generic => "Keys",
        Group::Transactions => "Transactions",
        Group::PubSub => "Messages",
        Group::Cluster => "Clusters",
        Group::Connection => "The connection",
        Group::Server => "The server",
        Group::Scripting => "Functions",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_and_error_word_is_in_the_text() {
        let text = markdown();
        for spec in table::all().flat_map(|spec| std::iter::once(spec).chain(spec.subcommands)) {
            if !spec.reply.is_empty() {
                assert!(text.contains(&format!("#### `{}`", spec.usage())), "{}", spec.full_name);
            }
        }
        for word in ErrorWord::ALL {
            assert!(text.contains(&format!("| `{word}` |")));
        }
    }

    #[test]
    fn usage_reads_like_a_manual() {
        let usage = |name: &str| table::lookup(name.as_bytes()).expect("a command").usage();
        assert_eq!(
            usage("set"),
            "SET key value [NX | XX] [GET] [EX seconds | PX milliseconds | EXAT unix-time-seconds | \
             PXAT unix-time-milliseconds | KEEPTTL]"
        );
        assert_eq!(usage("mget"), "MGET key [key ...]");
        assert_eq!(usage("lookup"), "LOOKUP key [key ...] [LEASE milliseconds]");
        assert_eq!(usage("commit"), "COMMIT grant CRC hex8 [BYTES bytes] [FROM fd offset | PULL addr rkey]");
    }
}
