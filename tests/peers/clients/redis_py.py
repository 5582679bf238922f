"""What every client must be able to do, by redis-py. Argument: port. Says `restart` and waits for a line when the server is to restart."""

import logging
import sys

import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

logging.disable()  # Every message of a channel is logged otherwise.
port = int(sys.argv[1])
big = bytes(range(256)) * (8 * 1024 * 1024 // 256)

for protocol in (2, 3):
    retry = Retry(ConstantBackoff(0.05), 200)
    r = redis.Redis(port=port, protocol=protocol, retry=retry, retry_on_error=[redis.ConnectionError])
    assert r.ping() and r.set("big", big) and r.get("big") == big

    pipe = r.pipeline(transaction=False)
    for n in range(1000):
        pipe.set(f"p:{n}", n)
    for n in range(1000):
        pipe.get(f"p:{n}")
    assert pipe.execute() == [True] * 1000 + [b"%d" % n for n in range(1000)]

    r.set("n", 1)
    with r.pipeline() as pipe:
        pipe.watch("n")
        seen = int(pipe.get("n"))
        pipe.multi()
        assert pipe.set("n", seen + 1).get("n").execute() == [True, b"2"]
        pipe.watch("n")
        r.set("n", 7)
        pipe.multi()
        pipe.set("n", 3)
        try:
            pipe.execute()
        except redis.WatchError:
            pass
        else:
            raise AssertionError("a watched key changed")
    assert r.get("n") == b"7"

    sub = r.pubsub(ignore_subscribe_messages=False)
    sub.subscribe("channel")
    assert sub.get_message(timeout=20)["type"] == "subscribe"
    assert r.publish("channel", big[:100_000]) == 1
    assert sub.get_message(timeout=20)["data"] == big[:100_000]
    sub.close()

    print("restart", flush=True)
    sys.stdin.readline()
    assert r.set("after", protocol) and r.get("after") == b"%d" % protocol and r.get("big") is None
print("fine")
