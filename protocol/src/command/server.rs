//! The server, as Redis's tools see it.

use super::CommandId;
use super::spec::{Access, Acl, Flags, Group, Keys, Spec};
use super::syntax::{block, integer, key, one_of, pattern, string, token};
use crate::resp::ErrorWord;

const fn about(id: CommandId, name: &'static str, arity: i32) -> Spec {
    Spec::new(id, name, arity, Group::Server)
}

const fn container(id: CommandId, name: &'static str, arity: i32) -> Spec {
    about(id, name, arity).while_loading()
}

/// Entries of this family.
pub(super) const SPECS: &[Spec] = &[
    container(CommandId::Command, "command", -1)
        .groups(Acl::CONNECTION)
        .doc("2.8.13", "O(N) in the number of commands", "Tells about every command.")
        .contains(&[
            about(CommandId::CommandCount, "command|count", 2)
                .while_loading()
                .groups(Acl::CONNECTION)
                .doc("2.8.13", "O(1)", "Returns how many commands there are.")
                .answers("integer", &[]),
            about(CommandId::CommandDocs, "command|docs", -2)
                .while_loading()
                .groups(Acl::CONNECTION)
                .doc("7.0.0", "O(N) in the number of commands", "Tells what commands do and how they are written.")
                .takes(&[string("command-name").optional().multiple()])
                .answers("map: name to map", &[]),
            about(CommandId::CommandInfo, "command|info", -2)
                .while_loading()
                .groups(Acl::CONNECTION)
                .doc("2.8.13", "O(N) in the number of commands", "Tells about some commands, or all.")
                .takes(&[string("command-name").optional().multiple()])
                .answers("array of arrays", &[]),
            about(CommandId::CommandGetKeys, "command|getkeys", -3)
                .while_loading()
                .groups(Acl::CONNECTION)
                .doc("2.8.13", "O(N) in the number of arguments", "Returns which arguments of a command are keys.")
                .takes(&[string("command"), string("arg").optional().multiple()])
                .answers("array of bulks", &[]),
            about(CommandId::CommandList, "command|list", -2)
                .while_loading()
                .groups(Acl::CONNECTION)
                .doc("7.0.0", "O(N) in the number of commands", "Lists the names of commands.")
                .takes(&[one_of(
                    "filterby",
                    &[
                        string("module-name").after("MODULE"),
                        string("category").after("ACLCAT"),
                        pattern("pattern").after("PATTERN"),
                    ],
                )
                .after("FILTERBY")
                .optional()])
                .answers("array of bulks", &[]),
        ])
        .answers("array of arrays, as `COMMAND INFO` without names", &[]),
    container(CommandId::Config, "config", -2)
        .doc("2.0.0", "Depends on the subcommand.", "About the settings.")
        .contains(&[
            about(CommandId::ConfigGet, "config|get", -3)
                .admin()
                .while_loading()
                .doc("2.0.0", "O(N) in the number of settings", "Returns the settings that match a glob.")
                .takes(&[pattern("parameter").multiple()])
                .answers("map: name to value", &[]),
            about(CommandId::ConfigSet, "config|set", -4)
                .admin()
                .while_loading()
                .doc("2.0.0", "O(N) in the number of settings", "Changes settings that can change while serving.")
                .takes(&[block("data", &[string("parameter"), string("value")]).multiple()])
                .answers("`+OK`", &[]),
            about(CommandId::ConfigResetStat, "config|resetstat", 2)
                .admin()
                .while_loading()
                .doc("2.0.0", "O(1)", "Sets the counters back to zero.")
                .answers("`+OK`", &[]),
            about(CommandId::ConfigRewrite, "config|rewrite", 2)
                .admin()
                .while_loading()
                .doc("2.8.0", "O(N) in the number of settings", "Writes changed settings to the configuration file.")
                .answers("`+OK`", &[]),
        ]),
    about(CommandId::Info, "info", -1)
        .dangerous()
        .while_loading()
        .doc("1.0.0", "O(1)", "Tells how the server is.")
        .takes(&[string("section").optional().multiple()])
        .answers("text: sections of `name:value`", &[]),
    about(CommandId::DbSize, "dbsize", 1)
        .reads(Keys::None)
        .fast()
        .doc("1.0.0", "O(1)", "Returns the number of objects.")
        .answers("integer", &[]),
    about(CommandId::Time, "time", 1)
        .fast()
        .while_loading()
        .doc("2.6.0", "O(1)", "Returns the server's time.")
        .answers("array of two bulks: seconds since 1970, and microseconds", &[]),
    about(CommandId::Role, "role", 1)
        .fast()
        .groups(Acl::ADMIN.union(Acl::DANGEROUS))
        .while_loading()
        .doc("2.8.12", "O(1)", "Returns the node's role in replication.")
        .answers("array: `master`, `:0`, an empty array", &[]),
    about(CommandId::LastSave, "lastsave", 1)
        .fast()
        .groups(Acl::ADMIN.union(Acl::DANGEROUS))
        .while_loading()
        .doc("1.0.0", "O(1)", "Returns when the server started: it takes no snapshots.")
        .answers("integer: seconds since 1970", &[]),
    about(CommandId::FlushAll, "flushall", -1)
        .writes(Keys::None)
        .dangerous()
        .all_keys(Access::WRITE)
        .doc("1.0.0", "O(N) in the number of objects", "Removes every object.")
        .takes(&[one_of("flush-type", &[token("async", "ASYNC"), token("sync", "SYNC")]).optional()])
        .answers("`+OK`", &[]),
    about(CommandId::FlushDb, "flushdb", -1)
        .writes(Keys::None)
        .dangerous()
        .all_keys(Access::WRITE)
        .doc("1.0.0", "O(N) in the number of objects", "As `FLUSHALL`: there is one database.")
        .takes(&[one_of("flush-type", &[token("async", "ASYNC"), token("sync", "SYNC")]).optional()])
        .answers("`+OK`", &[]),
    container(CommandId::Memory, "memory", -2).doc("4.0.0", "Depends on the subcommand.", "About memory.").contains(&[
        about(CommandId::MemoryUsage, "memory|usage", -3)
            .looks(Keys::one(2))
            .outside_groups(Acl::KEYSPACE)
            .doc("4.0.0", "O(1)", "Returns the bytes of DRAM that an object takes, its key and slot included.")
            .takes(&[key("key"), integer("count").after("SAMPLES").optional()])
            .answers("integer or nil", &[]),
        about(CommandId::MemoryStats, "memory|stats", 2)
            .doc("4.0.0", "O(1)", "Tells what memory is used for.")
            .answers("map: name to value", &[]),
        about(CommandId::MemoryDoctor, "memory|doctor", 2)
            .doc("4.0.0", "O(1)", "Tells what is wrong with memory.")
            .answers("text for people", &[]),
    ]),
    container(CommandId::SlowLog, "slowlog", -2)
        .doc("2.2.12", "Depends on the subcommand.", "About requests that took long.")
        .contains(&[
            about(CommandId::SlowLogGet, "slowlog|get", -2)
                .admin()
                .while_loading()
                .doc("2.2.12", "O(N) in the entries returned", "Returns the latest entries.")
                .takes(&[integer("count").optional()])
                .answers("array of arrays", &[]),
            about(CommandId::SlowLogLen, "slowlog|len", 2)
                .admin()
                .while_loading()
                .doc("2.2.12", "O(1)", "Returns how many entries there are.")
                .answers("integer", &[]),
            about(CommandId::SlowLogReset, "slowlog|reset", 2)
                .admin()
                .while_loading()
                .doc("2.2.12", "O(N) in the number of entries", "Forgets the entries.")
                .answers("`+OK`", &[]),
        ]),
    container(CommandId::Latency, "latency", -2)
        .doc("2.8.13", "Depends on the subcommand.", "About latency spikes.")
        .contains(&[
            about(CommandId::LatencyLatest, "latency|latest", 2)
                .admin()
                .while_loading()
                .doc("2.8.13", "O(1)", "Returns the latest spike of each kind.")
                .answers("array of arrays", &[]),
            about(CommandId::LatencyHistory, "latency|history", 3)
                .admin()
                .while_loading()
                .doc("2.8.13", "O(1)", "Returns the spikes of one kind.")
                .takes(&[string("event")])
                .answers("array of pairs", &[]),
            about(CommandId::LatencyHistogram, "latency|histogram", -2)
                .admin()
                .while_loading()
                .doc("7.0.0", "O(N) in the number of commands", "Tells how long calls of commands took, in buckets.")
                .takes(&[string("command").optional().multiple()])
                .answers("map: command to its calls and how many of them took at most so many microseconds", &[]),
            about(CommandId::LatencyDoctor, "latency|doctor", 2)
                .admin()
                .while_loading()
                .doc("2.8.13", "O(1)", "Tells of the spikes in sentences, and what to do about them.")
                .answers("text for people", &[]),
            about(CommandId::LatencyReset, "latency|reset", -2)
                .admin()
                .while_loading()
                .doc("2.8.13", "O(1)", "Forgets the spikes.")
                .takes(&[string("event").optional().multiple()])
                .answers("integer: kinds that were reset", &[]),
        ]),
    container(CommandId::Module, "module", -2)
        .doc("4.0.0", "Depends on the subcommand.", "About modules: there are none.")
        .contains(&[about(CommandId::ModuleList, "module|list", 2)
            .admin()
            .doc("4.0.0", "O(1)", "Lists the modules: none.")
            .answers("empty array", &[])]),
    Spec::new(CommandId::Function, "function", -2, Group::Scripting)
        .doc("7.0.0", "Depends on the subcommand.", "About functions: there are none.")
        .contains(&[
            Spec::new(CommandId::FunctionFlush, "function|flush", -2, Group::Scripting)
                .groups(Acl::WRITE.union(Acl::SCRIPTING))
                .doc("7.0.0", "O(1)", "Removes the functions, of which there are none.")
                .takes(&[one_of("flush-type", &[token("async", "ASYNC"), token("sync", "SYNC")]).optional()])
                .answers("`+OK`", &[]),
            Spec::new(CommandId::FunctionList, "function|list", -2, Group::Scripting)
                .groups(Acl::SCRIPTING)
                .doc("7.0.0", "O(1)", "Lists the functions: none.")
                .takes(&[
                    pattern("library-name-pattern").after("LIBRARYNAME").optional(),
                    token("withcode", "WITHCODE").optional(),
                ])
                .answers("empty array", &[]),
        ]),
    container(CommandId::Debug, "debug", -2)
        .groups(Acl::ADMIN.union(Acl::DANGEROUS))
        .doc("1.0.0", "Depends on the subcommand.", "For tests of clients.")
        .contains(&[
            about(CommandId::DebugSleep, "debug|sleep", 3)
                .admin()
                .flags(Flags::BLOCKING)
                .flags(Flags::NO_MULTI)
                .doc("1.0.0", "O(1)", "Answers after so many seconds. Only this connection waits.")
                .takes(&[string("seconds")])
                .answers("`+OK`", &[ErrorWord::Denied]),
            about(CommandId::DebugPopulate, "debug|populate", -3)
                .admin()
                .all_keys(Access::WRITE)
                .flags(Flags::NO_MULTI)
                .doc("1.0.0", "O(N) in the number of keys", "Stores so many small values, for tests of clients.")
                .takes(&[integer("count"), string("prefix").optional(), integer("size").optional()])
                .answers("`+OK`", &[ErrorWord::Denied, ErrorWord::Oom]),
            about(CommandId::DebugObject, "debug|object", 3)
                .admin()
                .keys_of_interest(Keys::one(2))
                .doc("1.0.0", "O(1)", "Tells how an object is kept.")
                .takes(&[key("key")])
                .answers("one line of text", &[ErrorWord::Denied]),
        ]),
    about(CommandId::LolWut, "lolwut", -1)
        .fast()
        .groups(Acl::READ)
        .doc("5.0.0", "O(1)", "Shows a picture and the version.")
        .takes(&[
            block("version", &[integer("version")]).after("VERSION").optional(),
            integer("argument").optional().multiple(),
        ])
        .answers("text for people", &[]),
    about(CommandId::Shutdown, "shutdown", -1)
        .admin()
        .while_loading()
        .flags(Flags::NO_MULTI)
        .doc(
            "1.0.0",
            "O(N) in the bytes that lie in DRAM only",
            "Ends the server. What lies in DRAM only is written to flash first, unless `NOSAVE`.",
        )
        .takes(&[
            one_of("save-selector", &[token("nosave", "NOSAVE"), token("save", "SAVE")]).optional(),
            token("now", "NOW").optional(),
            token("force", "FORCE").optional(),
            token("abort", "ABORT").optional(),
        ])
        .answers("nothing: the connection ends", &[]),
];
