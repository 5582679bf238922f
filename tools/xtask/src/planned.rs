//! The commands that the design plans, so that the README can say which of them are not there yet.

use protocol::command;

/// Commands and subcommands (`CONTAINER SUB`), as planned.
const PLANNED: &[(&str, &str)] = &[
    (
        "Objects, leases, pins",
        "PUT COMMIT ABORT LEASE RENEW RELEASE PIN UNPIN MPUT MCOMMIT MLEASE MRELEASE LOOKUP STAT",
    ),
    (
        "Sessions and the node",
        "ATTACH DETACH SEGMENT|LIST TIER|LIST TIER|ATTACH TIER|DETACH TIER|SCRUB NODE NODE|TOPOLOGY EVICT DIAGNOSE",
    ),
    (
        "Connection",
        "PING ECHO AUTH HELLO SELECT QUIT RESET CLIENT|ID CLIENT|INFO CLIENT|LIST CLIENT|KILL CLIENT|SETNAME \
      CLIENT|GETNAME CLIENT|SETINFO CLIENT|NO-EVICT CLIENT|NO-TOUCH CLIENT|REPLY CLIENT|PAUSE CLIENT|UNPAUSE",
    ),
    (
        "Server",
        "COMMAND COMMAND|COUNT COMMAND|DOCS COMMAND|INFO COMMAND|GETKEYS COMMAND|LIST CONFIG|GET CONFIG|SET \
      CONFIG|RESETSTAT CONFIG|REWRITE INFO DBSIZE TIME ROLE LASTSAVE LOLWUT MEMORY|USAGE MEMORY|STATS MEMORY|DOCTOR \
      OBJECT|ENCODING OBJECT|IDLETIME OBJECT|FREQ OBJECT|REFCOUNT LATENCY|LATEST LATENCY|HISTORY LATENCY|RESET \
      LATENCY|HISTOGRAM LATENCY|DOCTOR SLOWLOG|GET SLOWLOG|LEN SLOWLOG|RESET MONITOR DEBUG|SLEEP DEBUG|POPULATE DEBUG|OBJECT MODULE|LIST FUNCTION|FLUSH \
      FUNCTION|LIST ACL|CAT ACL|DELUSER ACL|DRYRUN ACL|GENPASS ACL|GETUSER ACL|LIST ACL|LOAD \
      ACL|LOG ACL|SAVE ACL|SETUSER ACL|USERS ACL|WHOAMI SHUTDOWN WAIT FLUSHDB FLUSHALL",
    ),
    (
        "Values",
        "SET GET GETSET GETDEL GETEX SETNX SETEX PSETEX MSET MSETNX MGET APPEND STRLEN GETRANGE SUBSTR SETRANGE INCR \
      INCRBY INCRBYFLOAT DECR DECRBY LCS",
    ),
    (
        "Keys",
        "EXISTS DEL UNLINK TOUCH TYPE KEYS SCAN RANDOMKEY RENAME RENAMENX COPY DUMP RESTORE EXPIRE EXPIREAT PEXPIRE \
      PEXPIREAT TTL PTTL PERSIST EXPIRETIME PEXPIRETIME",
    ),
    (
        "Transactions and events",
        "MULTI EXEC DISCARD WATCH UNWATCH SUBSCRIBE PSUBSCRIBE UNSUBSCRIBE PUNSUBSCRIBE PUBLISH PUBSUB|CHANNELS PUBSUB|NUMSUB PUBSUB|NUMPAT \
      SSUBSCRIBE SUNSUBSCRIBE SPUBLISH PUBSUB|SHARDCHANNELS PUBSUB|SHARDNUMSUB",
    ),
    (
        "Cluster",
        "CLUSTER|INFO CLUSTER|SLOTS CLUSTER|SHARDS CLUSTER|NODES CLUSTER|KEYSLOT CLUSTER|MYID CLUSTER|COUNTKEYSINSLOT \
      CLUSTER|GETKEYSINSLOT ASKING READONLY READWRITE",
    ),
];

/// The README's table: for each group what is there, and what is not.
pub(crate) fn table() -> String {
    let mut out = String::from("| commands | there | not there yet |\n|---|---|---|\n");
    for (group, names) in PLANNED {
        let (there, missing): (Vec<&str>, Vec<&str>) = names.split_whitespace().partition(|name| is_there(name));
        let list = |names: &[&str]| match names {
            [] => "–".to_owned(),
            names => names.iter().map(|name| format!("`{}`", name.replace('|', " "))).collect::<Vec<_>>().join(" "),
        };
        out.push_str(&format!("| {group} | {} | {} |\n", list(&there), list(&missing)));
    }
    out
}

fn is_there(name: &str) -> bool {
    let (name, sub) = name.split_once('|').map_or((name, None), |(name, sub)| (name, Some(sub)));
    let found = command::lookup(name.as_bytes());
    match sub {
        None => found.is_some(),
        Some(sub) => found.is_some_and(|spec| spec.subcommand(sub.as_bytes()).is_some()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_command_there_is_was_planned() {
        let planned: BTreeSet<String> =
            PLANNED.iter().flat_map(|(_, names)| names.split_whitespace()).map(str::to_lowercase).collect();
        for spec in command::all().filter(|spec| spec.subcommands.is_empty()) {
            assert!(planned.contains(spec.full_name), "{} has no place in the README's table", spec.full_name);
        }
        for spec in command::all().flat_map(|spec| spec.subcommands).filter(|spec| spec.name != "help") {
            assert!(planned.contains(spec.full_name), "{} has no place in the README's table", spec.full_name);
        }
    }
}
