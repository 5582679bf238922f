//! The connection itself.

use super::CommandId;
use super::spec::{Acl, Flags, Group, Spec};
use super::syntax::{block, integer, one_of, string, token};
use crate::resp::ErrorWord;

const fn about(id: CommandId, name: &'static str, arity: i32) -> Spec {
    Spec::new(id, name, arity, Group::Connection).connection()
}

/// Entries of this family.
pub(super) const SPECS: &[Spec] = &[
    about(CommandId::Ping, "ping", -1)
        .fast()
        .doc("1.0.0", "O(1)", "Tells that the server is there.")
        .takes(&[string("message").optional()])
        .answers("`+PONG`, or the message as a bulk", &[]),
    about(CommandId::Echo, "echo", 2)
        .fast()
        .doc("1.0.0", "O(1)", "Returns its argument.")
        .takes(&[string("message")])
        .answers("bulk", &[]),
    about(CommandId::Hello, "hello", -1)
        .fast()
        .flags(Flags::NO_AUTH.union(Flags::SKIP_MONITOR))
        .flags(Flags::NO_MULTI)
        .doc("6.0.0", "O(1)", "Agrees on the protocol version, and may authenticate and name the connection.")
        .takes(&[block(
            "arguments",
            &[
                integer("protover"),
                block("auth", &[string("username"), string("password")]).after("AUTH").optional(),
                string("clientname").after("SETNAME").optional(),
            ],
        )
        .optional()])
        .answers(
            "map: `server`, `version`, `proto`, `id`, `mode`, `role`, `modules`",
            &[ErrorWord::NoProto, ErrorWord::WrongPass],
        ),
    about(CommandId::Auth, "auth", -2)
        .fast()
        .flags(Flags::NO_AUTH.union(Flags::SKIP_MONITOR))
        .flags(Flags::NO_MULTI)
        .doc("1.0.0", "O(1)", "Authenticates the connection.")
        .takes(&[string("username").optional(), string("password")])
        .answers("`+OK`", &[ErrorWord::WrongPass]),
    about(CommandId::Select, "select", 2)
        .fast()
        .doc("1.0.0", "O(1)", "Accepts database 0, the only one.")
        .takes(&[integer("index")])
        .answers("`+OK`", &[]),
    about(CommandId::Quit, "quit", -1)
        .fast()
        .flags(Flags::NO_AUTH)
        .doc("1.0.0", "O(1)", "Closes the connection.")
        .takes(&[string("ignored").optional()])
        .answers("`+OK`, then the end", &[]),
    about(CommandId::Reset, "reset", 1)
        .fast()
        .flags(Flags::NO_AUTH)
        .doc("6.2.0", "O(1)", "Brings the connection back to how it began.")
        .answers("`+RESET`", &[]),
    about(CommandId::Client, "client", -2)
        .outside_groups(Acl::CONNECTION)
        .doc("2.4.0", "Depends on the subcommand.", "About this connection and the others.")
        .contains(&[
            about(CommandId::ClientId, "client|id", 2)
                .doc("5.0.0", "O(1)", "Returns the connection's number.")
                .answers("integer", &[]),
            about(CommandId::ClientInfo, "client|info", 2)
                .doc("6.2.0", "O(1)", "Tells about this connection.")
                .answers("text: one line of `name=value`", &[]),
            about(CommandId::ClientList, "client|list", -2)
                .admin()
                .doc("2.4.0", "O(N) in the number of connections", "Tells about every connection.")
                .takes(&[
                    string("client-type").after("TYPE").optional(),
                    block("ids", &[integer("client-id").multiple()]).after("ID").optional(),
                ])
                .answers("text: a line of `name=value` each", &[]),
            about(CommandId::ClientKill, "client|kill", -3)
                .admin()
                .doc("2.4.0", "O(N) in the number of connections", "Closes connections.")
                .takes(&[one_of(
                    "filter",
                    &[
                        string("ip:port"),
                        one_of(
                            "new-format",
                            &[
                                integer("client-id").after("ID"),
                                string("client-type").after("TYPE"),
                                string("username").after("USER"),
                                string("ip:port").after("ADDR"),
                                string("ip:port").after("LADDR"),
                                integer("maxage").after("MAXAGE"),
                                one_of("skipme", &[token("yes", "YES"), token("no", "NO")]).after("SKIPME"),
                            ],
                        )
                        .multiple(),
                    ],
                )])
                .answers("`+OK` for an address, otherwise integer: connections closed", &[]),
            about(CommandId::ClientSetName, "client|setname", 3)
                .doc("2.6.9", "O(1)", "Names the connection.")
                .takes(&[string("connection-name")])
                .answers("`+OK`", &[]),
            about(CommandId::ClientGetName, "client|getname", 2)
                .doc("2.6.9", "O(1)", "Returns the connection's name.")
                .answers("bulk or nil", &[]),
            about(CommandId::ClientSetInfo, "client|setinfo", 4)
                .doc("7.2.0", "O(1)", "Tells which library the client uses.")
                .takes(&[one_of("attr", &[string("libname").after("LIB-NAME"), string("libver").after("LIB-VER")])])
                .answers("`+OK`", &[]),
            about(CommandId::ClientNoEvict, "client|no-evict", 3)
                .admin()
                .doc("7.0.0", "O(1)", "Accepted and without effect: connections are not evicted.")
                .takes(&[one_of("enabled", &[token("on", "ON"), token("off", "OFF")])])
                .answers("`+OK`", &[]),
            about(CommandId::ClientNoTouch, "client|no-touch", 3)
                .doc("7.2.0", "O(1)", "Decides whether this connection's reads count as use.")
                .takes(&[one_of("enabled", &[token("on", "ON"), token("off", "OFF")])])
                .answers("`+OK`", &[]),
            about(CommandId::ClientReply, "client|reply", 3)
                .doc("3.2.0", "O(1)", "Decides whether this connection gets replies.")
                .takes(&[one_of("action", &[token("on", "ON"), token("off", "OFF"), token("skip", "SKIP")])])
                .answers("`+OK` to `ON`, otherwise nothing", &[]),
            about(CommandId::ClientPause, "client|pause", -3)
                .admin()
                .doc(
                    "2.9.50",
                    "O(1)",
                    "Lets every client wait for so long with its next command, or with its next write.",
                )
                .takes(&[
                    integer("timeout"),
                    one_of("mode", &[token("write", "WRITE"), token("all", "ALL")]).optional(),
                ])
                .answers("`+OK`", &[]),
            about(CommandId::ClientUnpause, "client|unpause", 2)
                .admin()
                .doc("6.2.0", "O(N) in the number of waiting connections", "Ends what `CLIENT PAUSE` began.")
                .answers("`+OK`", &[]),
        ]),
];
