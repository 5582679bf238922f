"""What redis-py users do, against a server that is empty. Arguments: port, protocol version."""

import sys
import time

import redis

port, protocol = int(sys.argv[1]), int(sys.argv[2])


def refused(text, *words):
    try:
        answer = r.execute_command(*words)
    except redis.ResponseError as error:
        assert text in str(error), (words, error)
    else:
        raise AssertionError((words, answer))


r = redis.Redis(port=port, protocol=protocol)
assert r.flushall() and r.ping()

# Values.
big = bytes(range(256)) * 40_000
assert r.set("k", b"v") and r.get("k") == b"v"
assert r.set("big", big) and r.get("big") == big
assert r.set("k", "w", nx=True) is None and r.set("new", "w", xx=True) is None
assert r.set("k", "w", get=True) == b"v"
assert r.mset({"a": 1, "b": 2}) and r.mget("a", "b", "nope") == [b"1", b"2", None]
assert r.strlen("big") == len(big) and r.getrange("big", 5, 9) == big[5:10]
pipe = r.pipeline(transaction=False)
assert pipe.set("x", 1).get("x").ttl("x").delete("x").execute() == [True, b"1", -1, 1]

# Keys.
assert r.exists("a", "b", "nope", "a") == 3 and r.touch("a", "nope") == 1
assert r.type("a") == b"string" and r.type("nope") == b"none"
assert sorted(r.keys("*")) == [b"a", b"b", b"big", b"k"]
assert sorted(r.scan_iter(match="[a]*", count=1)) == [b"a"]
assert sorted(r.scan_iter(_type="string")) == sorted(r.keys()) and list(r.scan_iter(_type="list")) == []
assert r.randomkey() in (b"a", b"b", b"big", b"k") and r.dbsize() == 4
assert r.object("encoding", "a") == b"int" and r.object("idletime", "a") == 0
assert r.object("refcount", "a") == 1 and r.object("encoding", "nope") is None

# Times to live.
assert r.set("e", "x", px=100_000) and 90_000 < r.pttl("e") <= 100_000
assert 90 < r.ttl("e") <= 100 and r.ttl("a") == -1 and r.ttl("nope") == -2
assert r.expire("a", 100) and not r.expire("a", 50, gt=True) and r.expire("a", 500, gt=True)
assert r.expire("a", 10, lt=True) and not r.expire("a", 10, nx=True) and not r.expire("b", 10, xx=True)
at = int(time.time() * 1000) + 1_234_567
assert r.pexpireat("a", at) and r.pexpiretime("a") == at and r.expiretime("a") == (at + 500) // 1000
assert r.persist("a") and not r.persist("a") and r.ttl("a") == -1
assert r.expire("b", -1) and not r.exists("b")

# The server.
info = r.info()
assert info["redis_version"].startswith("7.2.") and info["server_name"] == "mooncake"
assert info["db0"]["keys"] == r.dbsize() and info["loading"] == 0 and info["role"] == "master"
assert info["used_memory"] >= len(big) and info["maxmemory"] > info["used_memory"]
assert info["connected_clients"] >= 1 and info["total_net_input_bytes"] > len(big)
assert r.info("commandstats")["cmdstat_get"]["calls"] >= 2 and "tier_dram" in r.info("tiers")
assert {"maxmemory", "maxclients"} <= r.config_get("max*").keys()
assert r.config_set("timeout", 77) and r.config_get("timeout") == {"timeout": "77"} and r.config_set("timeout", 0)
refused("can only be set when the server starts", "CONFIG", "SET", "workers", "3")
assert r.memory_usage("big") > len(big) and r.memory_usage("nope") is None
assert r.memory_stats()["keys.count"] == r.dbsize()
assert len(r.command()) == r.command_count() and r.command()["get"]["arity"] == -2
assert [str(key, "ascii") if isinstance(key, bytes) else key for key in r.command_getkeys("MSET", "a", 1, "b", 2)] == ["a", "b"]
assert r.time()[0] > 1_600_000_000 and r.slowlog_get() is not None and r.latency_latest() is not None
assert r.module_list() == [] and r.wait(1, 10) == 0

# The connection.
assert r.client_setname("bob") and r.client_getname() in ("bob", b"bob")
me = r.client_info()
assert me["name"] == "bob" and me["lib-name"].startswith("redis-py") and me["resp"] == str(protocol), me
assert [client["id"] for client in r.client_list(client_id=[str(me["id"])])] == [str(me["id"])]
other = redis.Redis(port=port, protocol=protocol)
assert r.client_kill_filter(_id=other.client_id()) == 1
refused("unknown command", "LPUSH", "k", "v")
refused("unknown subcommand", "CLIENT", "NOSUCH")
assert r.ping(), "an error is not the end of a connection"

# Our own.
stat = r.execute_command("STAT", "big")
stat = dict(zip(stat[::2], stat[1::2])) if isinstance(stat, list) else stat
assert stat[b"length"] == len(big) and stat[b"state"] == b"live", stat
assert r.execute_command("STAT", "nope") is None
assert r.execute_command("EVICT", 1_000_000) >= 1_000_000 and r.get("nope") is None
assert r.reset() in ("RESET", b"RESET", True) if hasattr(r, "reset") else r.execute_command("RESET")
print("fine")
