//! Messages from client to client, and what the server tells of itself.

use super::CommandId;
use super::spec::{Acl, Channels, Flags, Group, Keys, Spec, Values};
use super::syntax::{pattern, string};
use crate::resp::ErrorWord;

const fn about(id: CommandId, name: &'static str, arity: i32) -> Spec {
    Spec::new(id, name, arity, Group::PubSub).pubsub().while_loading()
}

/// Entries of this family.
pub(super) const SPECS: &[Spec] = &[
    about(CommandId::Subscribe, "subscribe", -2)
        .flags(Flags::NO_MULTI)
        .channels(Channels::All)
        .doc("2.0.0", "O(N) in the number of channels", "Listens to channels.")
        .takes(&[string("channel").multiple()])
        .answers("for each channel `subscribe`, its name, and how many the client listens to", &[ErrorWord::TooBig]),
    about(CommandId::Unsubscribe, "unsubscribe", -1)
        .flags(Flags::NO_MULTI)
        .doc("2.0.0", "O(N) in the number of channels", "Stops listening to channels, or to all of them.")
        .takes(&[string("channel").optional().multiple()])
        .answers("for each channel `unsubscribe`, its name, and how many the client still listens to", &[]),
    about(CommandId::PSubscribe, "psubscribe", -2)
        .flags(Flags::NO_MULTI)
        .channels(Channels::Patterns)
        .doc("2.0.0", "O(N) in the number of patterns", "Listens to all channels that match.")
        .takes(&[pattern("pattern").multiple()])
        .answers("for each pattern `psubscribe`, itself, and how many the client listens to", &[ErrorWord::TooBig]),
    about(CommandId::PUnsubscribe, "punsubscribe", -1)
        .flags(Flags::NO_MULTI)
        .doc("2.0.0", "O(N) in the number of patterns", "Stops listening to patterns, or to all of them.")
        .takes(&[pattern("pattern").optional().multiple()])
        .answers("for each pattern `punsubscribe`, itself, and how many the client still listens to", &[]),
    about(CommandId::SSubscribe, "ssubscribe", -2)
        .flags(Flags::NO_MULTI)
        .channels(Channels::All)
        .doc(
            "7.0.0",
            "O(N) in the number of channels",
            "Listens to shard channels: of a cluster's slot, here of this node.",
        )
        .takes(&[string("shardchannel").multiple()])
        .answers(
            "for each channel `ssubscribe`, its name, and how many shard channels the client listens to",
            &[ErrorWord::TooBig],
        ),
    about(CommandId::SUnsubscribe, "sunsubscribe", -1)
        .flags(Flags::NO_MULTI)
        .doc("7.0.0", "O(N) in the number of channels", "Stops listening to shard channels, or to all of them.")
        .takes(&[string("shardchannel").optional().multiple()])
        .answers("for each channel `sunsubscribe`, its name, and how many the client still listens to", &[]),
    about(CommandId::Publish, "publish", 3)
        .fast()
        .values(Values::At(2))
        .flags(Flags::MAY_REPLICATE)
        .channels(Channels::First)
        .doc(
            "2.0.0",
            "O(N+M) in the listeners of the channel and the patterns there are",
            "Sends a message to who listens.",
        )
        .takes(&[string("channel"), string("message")])
        .answers("integer: how many got it", &[]),
    about(CommandId::SPublish, "spublish", 3)
        .fast()
        .values(Values::At(2))
        .flags(Flags::MAY_REPLICATE)
        .channels(Channels::First)
        .doc("7.0.0", "O(N) in the listeners of the channel", "Sends a message to who listens to a shard channel.")
        .takes(&[string("shardchannel"), string("message")])
        .answers("integer: how many got it", &[]),
    Spec::new(CommandId::PubSub, "pubsub", -2, Group::PubSub)
        .doc("2.8.0", "Depends on the subcommand.", "About channels and who listens to them.")
        .contains(&[
            about(CommandId::PubSubChannels, "pubsub|channels", -2)
                .doc("2.8.0", "O(N) in the number of channels", "Lists the channels that somebody listens to.")
                .takes(&[pattern("pattern").optional()])
                .answers("array of bulks", &[]),
            about(CommandId::PubSubNumSub, "pubsub|numsub", -2)
                .doc("2.8.0", "O(N) in the number of channels", "Counts who listens to channels, patterns apart.")
                .takes(&[string("channel").optional().multiple()])
                .answers("map: channel to count", &[]),
            about(CommandId::PubSubNumPat, "pubsub|numpat", 2)
                .doc("2.8.0", "O(1)", "Counts the patterns that somebody listens to.")
                .answers("integer", &[]),
            about(CommandId::PubSubShardChannels, "pubsub|shardchannels", -2)
                .doc("7.0.0", "O(N) in the number of channels", "Lists the shard channels that somebody listens to.")
                .takes(&[pattern("pattern").optional()])
                .answers("array of bulks", &[]),
            about(CommandId::PubSubShardNumSub, "pubsub|shardnumsub", -2)
                .doc("7.0.0", "O(N) in the number of channels", "Counts who listens to shard channels.")
                .takes(&[string("shardchannel").optional().multiple()])
                .answers("map: channel to count", &[]),
        ]),
    Spec::new(CommandId::Monitor, "monitor", 1, Group::Server)
        .admin()
        .while_loading()
        .flags(Flags::NO_MULTI.union(Flags::SKIP_MONITOR))
        .doc("1.0.0", "O(1)", "Shows every command that the server runs, as it runs. Credentials are left out.")
        .answers("`+OK`, then a line for each command", &[]),
    Spec::new(CommandId::Cluster, "cluster", -2, Group::Cluster)
        .doc("3.0.0", "Depends on the subcommand.", "What a client of a cluster asks, answered for this one node.")
        .contains(&[
            cluster(CommandId::ClusterInfo, "cluster|info", 2)
                .doc("3.0.0", "O(1)", "Tells how the cluster is.")
                .answers("text: lines of `name:value`", &[]),
            cluster(CommandId::ClusterMyId, "cluster|myid", 2)
                .doc("3.0.0", "O(1)", "Returns this node's id.")
                .answers("bulk", &[]),
            cluster(CommandId::ClusterNodes, "cluster|nodes", 2)
                .doc("3.0.0", "O(1)", "Lists the nodes.")
                .answers("text: a line for each", &[]),
            cluster(CommandId::ClusterSlots, "cluster|slots", 2)
                .doc("3.0.0", "O(1)", "Tells which node has which slots.")
                .answers("array of arrays", &[]),
            cluster(CommandId::ClusterShards, "cluster|shards", 2)
                .doc("7.0.0", "O(1)", "Tells which nodes share which slots.")
                .answers("array of maps", &[]),
            cluster(CommandId::ClusterKeySlot, "cluster|keyslot", 3)
                .doc("3.0.0", "O(N) in the bytes of the key", "Returns a key's slot.")
                .takes(&[string("key")])
                .answers("integer", &[]),
            cluster(CommandId::ClusterCountKeysInSlot, "cluster|countkeysinslot", 3)
                .doc("3.0.0", "O(N) in all keys", "Counts the keys of a slot.")
                .takes(&[string("slot")])
                .answers("integer", &[]),
            cluster(CommandId::ClusterGetKeysInSlot, "cluster|getkeysinslot", 4)
                .doc("3.0.0", "O(N) in all keys", "Returns some keys of a slot.")
                .takes(&[string("slot"), string("count")])
                .answers("array of bulks", &[]),
        ]),
    cluster(CommandId::Asking, "asking", 1)
        .fast()
        .groups(Acl::CONNECTION)
        .doc("3.0.0", "O(1)", "Accepted: this node has every slot.")
        .answers("`+OK`", &[]),
    cluster(CommandId::ReadOnly, "readonly", 1)
        .fast()
        .groups(Acl::CONNECTION)
        .doc("3.0.0", "O(1)", "Accepted: this node is no replica.")
        .answers("`+OK`", &[]),
    cluster(CommandId::ReadWrite, "readwrite", 1)
        .fast()
        .groups(Acl::CONNECTION)
        .doc("3.0.0", "O(1)", "Accepted: this node is no replica.")
        .answers("`+OK`", &[]),
];

const fn cluster(id: CommandId, name: &'static str, arity: i32) -> Spec {
    Spec::new(id, name, arity, Group::Cluster).keys_of_interest(Keys::None)
}
