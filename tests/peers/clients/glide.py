"""What every client must be able to do, by valkey-glide's synchronous client. Argument: port."""

import sys
import time

from glide_sync import (
    Batch,
    GlideClient,
    GlideClientConfiguration,
    NodeAddress,
    RequestError,
)
from glide_sync import GlideError

port = int(sys.argv[1])
big = bytes(range(256)) * (8 * 1024 * 1024 // 256)
config = GlideClientConfiguration([NodeAddress("127.0.0.1", port)], request_timeout=60_000)
client = GlideClient.create(config)

assert client.ping() == b"PONG"
assert client.set("big", big) == "OK" and client.get("big") == big

pipe = Batch(is_atomic=False)
for n in range(1000):
    pipe.set(f"p:{n}", str(n))
for n in range(1000):
    pipe.get(f"p:{n}")
assert client.exec(pipe, raise_on_error=True) == ["OK"] * 1000 + [b"%d" % n for n in range(1000)]

transaction = Batch(is_atomic=True)
transaction.set("n", "1")
transaction.custom_command(["INCR", "n"])
assert client.exec(transaction, raise_on_error=True) == ["OK", 2]
try:
    client.custom_command(["LPUSH", "n", "x"])
except RequestError as error:
    assert "unknown command" in str(error), error
else:
    raise AssertionError("there are no lists")

print("restart", flush=True)
sys.stdin.readline()
deadline = time.monotonic() + 60
while True:
    try:
        assert client.set("after", "1") == "OK"
        break
    except GlideError:
        assert time.monotonic() < deadline, "it does not connect again"
        time.sleep(0.05)
assert client.get("after") == b"1" and client.get("big") is None
client.close()
print("fine")
