//! Transactions: commands that run one after another with nobody else's between them.

use super::CommandId;
use super::spec::{Flags, Group, Keys, Spec};
use super::syntax::key;
use crate::resp::ErrorWord;

const fn about(id: CommandId, name: &'static str, arity: i32) -> Spec {
    Spec::new(id, name, arity, Group::Transactions).transaction().while_loading()
}

/// Entries of this family.
pub(super) const SPECS: &[Spec] = &[
    about(CommandId::Multi, "multi", 1)
        .fast()
        .doc("1.2.0", "O(1)", "Begins a transaction: the commands that follow are queued.")
        .answers("`+OK`, and `+QUEUED` to each command that follows", &[ErrorWord::TooBig]),
    about(CommandId::Exec, "exec", 1)
        .doc("1.2.0", "Depends on the commands in the transaction.", "Runs what was queued.")
        .answers("array of the replies; nil if a watched key changed", &[ErrorWord::ExecAbort, ErrorWord::TryAgain]),
    about(CommandId::Discard, "discard", 1)
        .fast()
        .doc("2.0.0", "O(N) in the number of queued commands", "Throws away what was queued.")
        .answers("`+OK`", &[]),
    about(CommandId::Watch, "watch", -2)
        .keys_of_interest(Keys::Range { first: 1, last: -1, step: 1 })
        .fast()
        .flags(Flags::NO_MULTI)
        .doc(
            "2.2.0",
            "O(N) in the number of keys",
            "Lets the next `EXEC` do nothing if one of these keys changes before it.",
        )
        .takes(&[key("key").multiple()])
        .answers("`+OK`", &[ErrorWord::TooBig]),
    about(CommandId::Unwatch, "unwatch", 1)
        .fast()
        .doc("2.2.0", "O(1)", "Forgets all watched keys.")
        .answers("`+OK`", &[]),
];
