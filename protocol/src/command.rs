//! The commands: one table that dispatch, `COMMAND`, access rules and the documentation all read, and the typed form
//! of those whose arguments are more than a few plain words.
//!
//! Role: names to [`Spec`]s ([`lookup`], [`resolve`]) and arguments to typed requests (`parse`) and back (`encode`).
//! One file is one family; one more command is one more entry there and one more [`CommandId`].
//!
//! Invariants:
//! - Every [`CommandId`] has exactly one entry; every name is lower case and unique in its container.
//! - `parse` of what `encode` wrote is the same request.

mod acl;
mod connection;
mod docs;
mod expire;
mod generic;
mod id;
mod keyspace;
mod lease;
mod modify;
mod node;
mod object;
mod pin;
mod pubsub;
mod rdma;
mod reach;
#[cfg(test)]
mod roundtrip;
mod server;
mod session;
mod spec;
mod string;
mod syntax;
mod table;
mod transaction;
mod words;

pub use docs::markdown;
pub use expire::{Expire, ExpireAt, ExpireCondition};
pub use generic::Scan;
pub use id::CommandId;
pub use keyspace::{Copy, Restore};
pub use lease::{Lease, Lookup, MLease, MRelease, Release, Renew};
pub use modify::{GetEx, GetExpiry, Lcs, set_ex_time};
pub use node::{Detach, Evict, TierAttach, TierDetach, TierScrub};
pub use object::{Abort, Commit, MCommit, MCommitItem, MPut, Put, PutOptions, ShmSource, ViaChoice};
pub use pin::{Pin, Unpin};
pub use rdma::{GetInto, RdmaEnd, RemoteMemory};
pub use session::Attach;
pub use spec::{Access, Acl, Channels, Flags, Group, Keys, Spec, Values};
pub use string::{Set, SetCondition, SetExpiry};
pub use syntax::{Syntax, SyntaxKind};
pub use table::{all, lookup, resolve};
pub use words::{Words, check_key, parse_i64, parse_u64};
