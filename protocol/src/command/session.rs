//! Bulk sessions: how a connection gets a way for its bytes beside RESP.

use super::CommandId;
use super::rdma::RdmaEnd;
use super::spec::{Acl, Flags, Group, Spec};
use super::syntax::{block, integer, one_of, string, token};
use super::words::{Words, is};
use crate::resp::{Args, Encoder, ErrorWord, WireError};
use bytes::BytesMut;

/// Entries of this family.
pub(super) const SPECS: &[Spec] = &[
    Spec::new(CommandId::Attach, "attach", -2, Group::Session)
        .while_loading()
        .groups(Acl::BULK)
        .flags(Flags::NO_MULTI)
        .doc("1.0.0", "O(1)", "Opens a bulk session bound to this connection: both end together.")
        .takes(&[one_of(
            "transport",
            &[
                block("shm", &[token("shm", "SHM"), integer("count").after("BUFFERS").optional(), token("compact", "COMPACT").optional()]),
                token("tcp", "TCP"),
                block(
                    "rdma",
                    &[
                        token("rdma", "RDMA"),
                        integer("qpn").after("QPN"),
                        integer("psn").after("PSN"),
                        string("gid").after("GID"),
                        integer("mtu").after("MTU"),
                        integer("reads").after("READS"),
                        integer("lid").after("LID").optional(),
                    ],
                ),
            ],
        )])
        .answers(
            "map that tells how the session is reached. `SHM`, on the Unix socket only, takes the client's sealed \
             memfds and passes the segments, a ring and two eventfds back; `TCP` answers a token, a port, and whether \
             connections there have to be over TLS; `RDMA` takes the client's end of a queue pair and answers the server's",
            &[ErrorWord::NoTransport, ErrorWord::Denied, ErrorWord::Quota, ErrorWord::Busy],
        ),
    Spec::new(CommandId::Detach, "detach", 1, Group::Session)
        .while_loading()
        .groups(Acl::BULK)
        .flags(Flags::NO_MULTI)
        .doc("1.0.0", "O(N) in the grants and leases held", "Closes this connection's bulk session.")
        .answers("`:1`, or `:0` if there was none", &[]),
];

/// `ATTACH SHM [BUFFERS n] [COMPACT] | TCP | RDMA QPN n PSN n GID hex32 MTU n READS n [LID n]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attach {
    /// Shared memory.
    Shm {
        /// Memfds of the client's that come with the request.
        buffers: u32,
        /// Whether leases are to be answered as [`LeaseRecord`](crate::base::LeaseRecord)s.
        compact: bool,
    },
    /// Bulk TCP.
    Tcp,
    /// RDMA with this queue pair of the client's.
    Rdma(RdmaEnd),
}

impl Attach {
    /// Memfds that a client may attach.
    pub const BUFFERS_MAX: u32 = 16;

    /// Reads the arguments.
    ///
    /// # Errors
    /// What to answer.
    pub fn parse(args: &Args<'_>) -> Result<Self, WireError> {
        let mut words = Words::new(args, 1);
        let transport = words.word()?;
        let attach = if is(transport, "shm") {
            let (mut buffers, mut compact) = (None, false);
            while let Some(word) = words.option()? {
                if is(word, "buffers") && buffers.is_none() {
                    buffers = Some(words.small()?);
                } else if is(word, "compact") && !compact {
                    compact = true;
                } else {
                    return Err(WireError::syntax());
                }
            }
            let buffers = buffers.unwrap_or(0);
            if buffers > Self::BUFFERS_MAX {
                return Err(WireError::new(ErrorWord::TooBig, format!("at most {} buffers", Self::BUFFERS_MAX)));
            }
            Self::Shm { buffers, compact }
        } else if is(transport, "tcp") {
            Self::Tcp
        } else if is(transport, "rdma") {
            Self::Rdma(RdmaEnd::parse(&mut words)?)
        } else {
            return Err(WireError::err("ATTACH takes SHM, TCP or RDMA"));
        };
        words.end()?;
        Ok(attach)
    }

    /// Writes the request.
    pub fn encode(&self, out: &mut BytesMut) {
        Encoder::encode(out, |out| {
            out.word("ATTACH");
            match self {
                Self::Shm { buffers, compact } => {
                    out.word("SHM");
                    if *buffers > 0 {
                        out.word("BUFFERS").number(*buffers);
                    }
                    if *compact { out.word("COMPACT") } else { out }
                }
                Self::Tcp => out.word("TCP"),
                Self::Rdma(end) => {
                    out.word("RDMA");
                    end.encode(out);
                    out
                }
            };
        });
    }
}
