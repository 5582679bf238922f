//! Users and what they may.

use super::CommandId;
use super::spec::{Flags, Group, Spec};
use super::syntax::{integer, one_of, string, token};

const fn about(id: CommandId, name: &'static str, arity: i32) -> Spec {
    Spec::new(id, name, arity, Group::Server).while_loading()
}

const fn admin(id: CommandId, name: &'static str, arity: i32) -> Spec {
    about(id, name, arity).admin()
}

/// Entries of this family.
pub(super) const SPECS: &[Spec] = &[about(CommandId::Acl, "acl", -2)
    .doc("6.0.0", "Depends on the subcommand.", "About users and what they may.")
    .contains(&[
        about(CommandId::AclCat, "acl|cat", -2)
            .doc("6.0.0", "O(N) in the number of commands", "Lists the groups of commands, or the commands of one.")
            .takes(&[string("category").optional()])
            .answers("array of bulks", &[]),
        admin(CommandId::AclDelUser, "acl|deluser", -3)
            .doc("6.0.0", "O(N) in the number of connections", "Removes users, and closes their connections.")
            .takes(&[string("username").multiple()])
            .answers("integer: users removed", &[]),
        admin(CommandId::AclDryRun, "acl|dryrun", -4)
            .doc("7.0.0", "O(1)", "Tells whether a user may run a command, without running it.")
            .takes(&[string("username"), string("command"), string("arg").optional().multiple()])
            .answers("`+OK`, or a bulk that says why not", &[]),
        about(CommandId::AclGenPass, "acl|genpass", -2)
            .doc("6.0.0", "O(1)", "Returns a random password, of 256 bits unless told otherwise.")
            .takes(&[integer("bits").optional()])
            .answers("bulk: hex digits", &[]),
        admin(CommandId::AclGetUser, "acl|getuser", 3)
            .doc("6.0.0", "O(N) in the rules", "Tells what a user may.")
            .takes(&[string("username")])
            .answers(
                "map: `flags`, `passwords` (their hashes), `commands`, `keys`, `channels`, `selectors`; or nil",
                &[],
            ),
        admin(CommandId::AclList, "acl|list", 2)
            .doc("6.0.0", "O(N) in the users", "Lists the users and their rules, as a file of users has them.")
            .answers("array of bulks", &[]),
        admin(CommandId::AclLoad, "acl|load", 2)
            .doc(
                "6.0.0",
                "O(N) in the users",
                "Reads the file of users again: all of it, or nothing if something in it is wrong.",
            )
            .answers("`+OK`", &[]),
        admin(CommandId::AclLog, "acl|log", -2)
            .doc("6.0.0", "O(N) in the entries", "Lists what was refused lately, or forgets it.")
            .takes(&[one_of("operation", &[integer("count"), token("reset", "RESET")]).optional()])
            .answers("array of maps, the latest first; `+OK` to `RESET`", &[]),
        admin(CommandId::AclSave, "acl|save", 2)
            .doc("6.0.0", "O(N) in the users", "Writes the users to the file of users.")
            .answers("`+OK`", &[]),
        admin(CommandId::AclSetUser, "acl|setuser", -3)
            .flags(Flags::SKIP_MONITOR)
            .doc("6.0.0", "O(N) in the rules and the connections", "Makes a user, or changes what one may.")
            .takes(&[string("username"), string("rule").optional().multiple()])
            .answers("`+OK`", &[]),
        admin(CommandId::AclUsers, "acl|users", 2)
            .doc("6.0.0", "O(N) in the users", "Lists the names of the users.")
            .answers("array of bulks", &[]),
        about(CommandId::AclWhoAmI, "acl|whoami", 2)
            .doc("6.0.0", "O(1)", "Returns the name of the user that this connection is.")
            .answers("bulk", &[]),
    ])];
