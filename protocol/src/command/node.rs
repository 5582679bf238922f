//! Operating the node: what it is, what it holds, what it should let go.

use super::CommandId;
use super::spec::{Group, Spec};
use super::syntax::{integer, string};
use super::words::Words;
use crate::base::ByteLen;
use crate::resp::{Args, Encoder, ErrorWord, WireError};
use bytes::BytesMut;

/// Entries of this family.
pub(super) const SPECS: &[Spec] = &[
    Spec::new(CommandId::Node, "node", 1, Group::Node)
        .fast()
        .doc("1.0.0", "O(1)", "Tells who this node is and by which ways it can be reached.")
        .answers(
            "map: `node`, `version`, `boot-id`, `unix-socket` (empty if there is none), `bulk-port` (0 if there is \
             none), `shm-write` (`copy` or `arena`), `uptime-ms`, `lease-ms-max`, `grant-ms`",
            &[],
        ),
    Spec::new(CommandId::Segment, "segment", -2, Group::Node)
        .doc("1.0.0", "Depends on the subcommand.", "About the segments of DRAM.")
        .contains(&[Spec::new(CommandId::SegmentList, "segment|list", 2, Group::Node)
            .doc("1.0.0", "O(N) in the number of segments", "Lists the segments of DRAM.")
            .answers(
                "array of maps: `segment` (its number), `length`, `used`, `largest-free`, `free-runs`, `pages` (`huge` \
                 or `ordinary`), `prefaulted`; lengths in bytes",
                &[],
            )]),
    Spec::new(CommandId::Tier, "tier", -2, Group::Node)
        .doc("1.0.0", "Depends on the subcommand.", "About the tiers that objects lie in.")
        .contains(&[
            Spec::new(CommandId::TierList, "tier|list", 2, Group::Node)
                .doc("1.0.0", "O(N) in the number of tiers", "Lists the tiers.")
                .answers("array of maps: `name`, `kind`, `state`, `capacity`, `used`, `free`, `objects`", &[]),
            Spec::new(CommandId::TierAttach, "tier|attach", 4, Group::Node)
                .admin()
                .doc("1.0.0", "O(1)", "Opens a device as one more tier.")
                .takes(&[string("path"), string("size")])
                .answers("`+OK`", &[ErrorWord::Denied]),
            Spec::new(CommandId::TierDetach, "tier|detach", 3, Group::Node)
                .admin()
                .doc("1.0.0", "O(N) in the objects that lie only there", "Closes a tier.")
                .takes(&[string("name")])
                .answers("`+OK`", &[ErrorWord::Denied]),
        ]),
    Spec::new(CommandId::Evict, "evict", 2, Group::Node)
        .admin()
        .doc("1.0.0", "O(N) in the objects evicted", "Evicts the oldest objects until they took so many bytes.")
        .takes(&[integer("bytes")])
        .answers("integer: bytes freed", &[]),
    Spec::new(CommandId::Diagnose, "diagnose", 1, Group::Node)
        .admin()
        .doc("1.0.0", "O(N) in the number of segments", "Tells what is wrong and what to do about it.")
        .answers(
            "map: `score` (100 if all is well) and `findings`, an array of maps, the worst first: `severity` (`note`, \
             `warning`, `critical`), `about`, `what`, `what-to-do`",
            &[],
        ),
];

/// `EVICT n`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evict {
    /// To free.
    pub bytes: ByteLen,
}

impl Evict {
    /// Reads the arguments.
    ///
    /// # Errors
    /// What to answer.
    pub fn parse(args: &Args<'_>) -> Result<Self, WireError> {
        let mut words = Words::new(args, 1);
        let bytes = words.byte_len()?;
        words.end()?;
        Ok(Self { bytes })
    }

    /// Writes the request.
    pub fn encode(&self, out: &mut BytesMut) {
        Encoder::encode(out, |out| {
            out.word("EVICT").number(self.bytes.get());
        });
    }
}
