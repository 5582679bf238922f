//! The names of commands as a type, for dispatch and for counters.

macro_rules! command_ids {
    ($($name:ident)+) => {
        /// One command or subcommand. `id as usize` counts from 0 without gaps, for tables of counters.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[expect(missing_docs, reason = "a variant is its command, which the table documents")]
        pub enum CommandId {
            $($name,)+
        }

        impl CommandId {
            /// All of them, in order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();
        }
    };
}

command_ids! {
    // Objects, our own way.
    Put Commit Abort MPut MCommit Stat
    Lease Renew Release MLease MRelease Lookup Pin Unpin
    Attach Detach
    Node NodeTopology Segment SegmentList Tier TierList TierAttach TierDetach TierScrub Evict Diagnose
    // Strings.
    Set Get MGet MSet StrLen GetRange
    GetSet GetDel GetEx SetNx SetEx PSetEx MSetNx Append SubStr SetRange
    Incr Decr IncrBy DecrBy IncrByFloat Lcs
    // Keys.
    Exists Del Unlink Touch Type Keys Scan RandomKey Rename RenameNx Copy Dump Restore
    Ttl Pttl Expire PExpire ExpireAt PExpireAt ExpireTime PExpireTime Persist
    Object ObjectEncoding ObjectIdleTime ObjectFreq ObjectRefCount ObjectHelp
    Wait
    // Messages.
    Subscribe Unsubscribe PSubscribe PUnsubscribe Publish
    PubSub PubSubChannels PubSubNumSub PubSubNumPat PubSubShardChannels
    PubSubShardNumSub SSubscribe SUnsubscribe SPublish Monitor
    // Clusters.
    Cluster ClusterInfo ClusterMyId ClusterNodes ClusterSlots ClusterShards ClusterKeySlot ClusterCountKeysInSlot
    ClusterGetKeysInSlot Asking ReadOnly ReadWrite
    // Transactions.
    Multi Exec Discard Watch Unwatch
    // The connection.
    Ping Echo Hello Auth Select Quit Reset
    Client ClientId ClientInfo ClientList ClientKill ClientSetName ClientGetName ClientSetInfo ClientNoEvict
    ClientNoTouch ClientReply ClientPause ClientUnpause
    // Users.
    Acl AclCat AclDelUser AclDryRun AclGenPass AclGetUser AclList AclLoad AclLog AclSave AclSetUser AclUsers AclWhoAmI
    // The server.
    Command CommandCount CommandDocs CommandInfo CommandGetKeys CommandList
    Config ConfigGet ConfigSet ConfigResetStat ConfigRewrite
    Info DbSize Time Role LastSave FlushAll FlushDb
    Memory MemoryUsage MemoryStats MemoryDoctor
    SlowLog SlowLogGet SlowLogLen SlowLogReset
    Latency LatencyLatest LatencyHistory LatencyHistogram LatencyDoctor LatencyReset
    Module ModuleList Function FunctionFlush FunctionList
    Debug DebugSleep DebugPopulate DebugObject Shutdown LolWut
}
