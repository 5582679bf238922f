//! Operating the node: what it is, what it holds, what it should let go.

use super::CommandId;
use super::spec::{Access, Flags, Group, Spec};
use super::syntax::{block, integer, one_of, string, token};
use super::words::{Words, is};
use crate::base::ByteLen;
use crate::resp::{Args, Encoder, ErrorWord, WireError};
use bytes::BytesMut;

/// Entries of this family.
pub(super) const SPECS: &[Spec] = &[
    Spec::new(CommandId::Node, "node", -1, Group::Node)
        .fast()
        .while_loading()
        .doc("1.0.0", "O(1)", "Tells who this node is and by which ways it can be reached.")
        .answers(
            "map: `node`, `version`, `boot-id`, `unix-socket` (empty if there is none), `bulk-port` (0 if there is \
             none), `shm-write` (`copy` or `arena`), `uptime-ms`, `lease-ms-max`, `grant-ms`",
            &[],
        )
        .contains(&[Spec::new(CommandId::NodeTopology, "node|topology", 2, Group::Node)
            .while_loading()
            .doc(
                "1.0.0",
                "O(N) in the number of devices",
                "Tells of the machine's NUMA nodes, adapters, GPUs and drives, and how far they are from each other.",
            )
            .answers(
                "map: `nodes`, an array of maps: `numa-node`, `cpus` (how many), `memory`, `segments` (how many are to lie on it), \
                 `distances` (to each node); `nics`, each with `name`, `interface`, `numa-node` (-1 if nobody says), `pci` (its \
                 address), `gbps`, `up`, `rdma`, `score` (for the segments as they lie; higher is better), `used`; `gpus`, each \
                 with `name`, `model`, `numa-node`, `pci`, `distances`, and `drives`, each with `name`, `transport`, `state`, \
                 `numa-node`, `pci`, `distances`: to each adapter, `PIX`, `PXB`, `PHB`, `NODE` or `SYS` as `nvidia-smi topo` has \
                 them",
                &[],
            )]),
    Spec::new(CommandId::Segment, "segment", -2, Group::Node)
        .while_loading()
        .doc("1.0.0", "Depends on the subcommand.", "About the segments of DRAM.")
        .contains(&[Spec::new(CommandId::SegmentList, "segment|list", 2, Group::Node)
            .while_loading()
            .dangerous()
            .doc("1.0.0", "O(N) in the number of segments", "Lists the segments of DRAM.")
            .answers(
                "array of maps: `segment` (its number), `length`, `used`, `largest-free`, `free-runs`, `pages` (`huge` \
                 or `ordinary`), `prefaulted`, `numa-node` (that it is to lie on, -1 if the machine has none); lengths in bytes",
                &[],
            )]),
    Spec::new(CommandId::Tier, "tier", -2, Group::Node)
        .while_loading()
        .doc("1.0.0", "Depends on the subcommand.", "About the tiers that objects lie in.")
        .contains(&[
            Spec::new(CommandId::TierList, "tier|list", 2, Group::Node)
                .while_loading()
                .dangerous()
                .doc("1.0.0", "O(N) in the number of tiers", "Lists the tiers, DRAM first, then each flash device.")
                .answers(
                    "array of maps: `name`, `kind` (`dram` or `flash`), `state` (`online`; of a flash device also \
                     `offline`, while it is fenced off, `full`, while what is pinned or set aside leaves no room to write, \
                     `draining`, and of one on another machine that is not attached yet `waiting`, with `why`), `capacity`, \
                     `used`, `free`; of DRAM also `objects`; of a flash device also `why` (while it is off), `path`, `engine`, \
                     `segment-len`, `segments`, `segments-free`, `segments-quarantined`, `reads`, `read-bytes`, `hits` \
                     (objects that readers got from it: one read serves all who wait for the same), `writes`, \
                     `written-bytes`, `reinserted`, `adopted` (records taken over from devices that were drained), \
                     `reclaimed`, `dropped`, `errors`, `mismatches`, `queue`, `budget-left` (bytes, -1 without a budget), \
                     `drain-percent` (of what it held when its drain began, -1 while there is none), and of scrubs since the start `scrub-percent` (of the one that runs, else -1), \
                     `scrub-passes`, `scrub-bytes`, `scrub-records` (right), `scrub-rotten` (records, headers and \
                     footers that were not), `scrub-returned` (segments back from quarantine); of one on another machine also \
                     `nvmeof` (its target), `link` (`live`, `connecting`, …) and `host-nqn` (this server, as the target knows it)",
                    &[],
                ),
            Spec::new(CommandId::TierAttach, "tier|attach", -3, Group::Node)
                .admin()
                .flags(Flags::NO_MULTI)
        .doc(
                    "1.0.0",
                    "O(N) in the segments of the device",
                    "Opens a file, a block device or a namespace on another machine (`nvmeof transport=tcp|rdma traddr=… \
                     [trsvcid=…] nqn=…`) as one more flash device. Objects of an earlier time on it are not believed. A namespace \
                     that holds no flash log is formatted only with `FORMAT`.",
                )
                .takes(&[one_of(
                    "device",
                    &[
                        block("local", &[string("path"), string("size").optional()]),
                        block(
                            "fabric",
                            &[
                                token("nvmeof", "NVMEOF"),
                                string("name=value").multiple(),
                                token("format", "FORMAT").optional(),
                            ],
                        ),
                    ],
                )])
                .answers(
                    "map: `name`, `objects` (found on it)",
                    &[ErrorWord::Denied, ErrorWord::Exists, ErrorWord::Busy],
                ),
            Spec::new(CommandId::TierDetach, "tier|detach", -3, Group::Node)
                .admin()
                .flags(Flags::BLOCKING)
                .flags(Flags::NO_MULTI)
        .doc(
                    "1.0.0",
                    "O(N) in the objects that lie on it",
                    "Closes a flash device. The other devices, or where none takes an object DRAM, get what it holds first, unless \
                     `NODRAIN`; it is read meanwhile, and `TIER LIST` tells how far that is. `CANCEL` calls a drain off, whose client \
                     is answered `BUSY` then: what was brought away by then stays where it is, and the device serves on.",
                )
                .takes(&[
                    string("name"),
                    one_of("how", &[token("nodrain", "NODRAIN"), token("cancel", "CANCEL")]).optional(),
                ])
                .answers("`+OK`", &[ErrorWord::Denied, ErrorWord::Busy]),
            Spec::new(CommandId::TierScrub, "tier|scrub", -2, Group::Node)
                .admin()
                .doc(
                    "1.0.0",
                    "O(1); the scrub reads the whole device",
                    "Begins to verify everything on one flash device, or on all. `TIER LIST` tells how far it is.",
                )
                .takes(&[string("name").optional()])
                .answers("`+OK`, when it begins", &[ErrorWord::Denied]),
        ]),
    Spec::new(CommandId::Evict, "evict", 2, Group::Node)
        .admin()
        .all_keys(Access::WRITE)
        .flags(Flags::NO_MULTI)
        .doc("1.0.0", "O(N) in the objects evicted", "Evicts the oldest objects until they took so many bytes.")
        .takes(&[integer("bytes")])
        .answers("integer: bytes freed", &[]),
    Spec::new(CommandId::Diagnose, "diagnose", 1, Group::Node)
        .admin()
        .while_loading()
        .flags(Flags::NO_MULTI)
        .doc(
            "1.0.0",
            "O(N) in the number of segments and of devices, which are looked at anew",
            "Tells what is wrong with the node and its machine, and what to do about it.",
        )
        .answers(
            "map: `score` (100 if all is well) and `findings`, an array of maps, the worst first: `severity` (`note`, \
             `warning`, `critical`), `about`, `what`, `what-to-do`",
            &[],
        ),
];

/// `TIER ATTACH path [size]`, `TIER ATTACH nvmeof name=value … [FORMAT]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TierAttach<'a> {
    /// What this machine has.
    Path {
        /// A file or a block device.
        path: &'a [u8],
        /// As written: `200GiB`. All of what is there if not given.
        size: Option<&'a [u8]>,
    },
    /// A namespace on another machine.
    Fabric {
        /// Where it is, as written: `transport=tcp`, `traddr=10.0.0.7`.
        target: Vec<&'a [u8]>,
        /// What it holds may go.
        format: bool,
    },
}

/// What a path never is: paths are absolute.
const FABRIC: &str = "nvmeof";

impl<'a> TierAttach<'a> {
    /// Reads the arguments.
    ///
    /// # Errors
    /// What to answer.
    pub fn parse(args: &Args<'a>) -> Result<Self, WireError> {
        let mut words = Words::new(args, 2);
        let first = words.word()?;
        if is(first, FABRIC) {
            let (mut target, mut format) = (Vec::new(), false);
            while let Some(word) = words.option()? {
                match word {
                    word if word.contains(&b'=') => target.push(word),
                    word if is(word, "format") && !format => format = true,
                    _ => return Err(WireError::syntax()),
                }
            }
            return Ok(Self::Fabric { target, format });
        }
        let size = words.option()?;
        words.end()?;
        Ok(Self::Path { path: first, size })
    }

    /// Writes the request.
    pub fn encode(&self, out: &mut BytesMut) {
        Encoder::encode(out, |out| {
            out.word("TIER").word("ATTACH");
            match self {
                Self::Path { path, size } => {
                    out.word(path);
                    if let Some(size) = size {
                        out.word(size);
                    }
                }
                Self::Fabric { target, format } => {
                    out.word(FABRIC);
                    for word in target {
                        out.word(word);
                    }
                    if *format {
                        out.word("FORMAT");
                    }
                }
            }
        });
    }
}

/// What becomes of a flash device that is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detach {
    /// It goes when what lies only there is kept elsewhere.
    Drain,
    /// It goes with what it holds.
    NoDrain,
    /// It stays: its drain is called off.
    Cancel,
}

/// `TIER DETACH name [NODRAIN | CANCEL]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TierDetach<'a> {
    /// As `TIER LIST` names it.
    pub name: &'a [u8],
    /// What becomes of it.
    pub how: Detach,
}

impl<'a> TierDetach<'a> {
    /// Reads the arguments.
    ///
    /// # Errors
    /// What to answer.
    pub fn parse(args: &Args<'a>) -> Result<Self, WireError> {
        let mut words = Words::new(args, 2);
        let name = words.word()?;
        let how = match words.option()? {
            None => Detach::Drain,
            Some(word) if is(word, "nodrain") => Detach::NoDrain,
            Some(word) if is(word, "cancel") => Detach::Cancel,
            Some(_) => return Err(WireError::syntax()),
        };
        words.end()?;
        Ok(Self { name, how })
    }

    /// Writes the request.
    pub fn encode(&self, out: &mut BytesMut) {
        Encoder::encode(out, |out| {
            out.word("TIER").word("DETACH").word(self.name);
            match self.how {
                Detach::Drain => {}
                Detach::NoDrain => drop(out.word("NODRAIN")),
                Detach::Cancel => drop(out.word("CANCEL")),
            }
        });
    }
}

/// `TIER SCRUB [name]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TierScrub<'a> {
    /// As `TIER LIST` names it; all if not given.
    pub name: Option<&'a [u8]>,
}

impl<'a> TierScrub<'a> {
    /// Reads the arguments.
    ///
    /// # Errors
    /// What to answer.
    pub fn parse(args: &Args<'a>) -> Result<Self, WireError> {
        let mut words = Words::new(args, 2);
        let name = words.option()?;
        words.end()?;
        Ok(Self { name })
    }

    /// Writes the request.
    pub fn encode(&self, out: &mut BytesMut) {
        Encoder::encode(out, |out| {
            out.word("TIER").word("SCRUB");
            if let Some(name) = self.name {
                out.word(name);
            }
        });
    }
}

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
