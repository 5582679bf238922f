// What every client must be able to do, by ioredis. Argument: port.
const assert = require("node:assert");
const readline = require("node:readline/promises");
const { Redis } = require("ioredis");

const port = Number(process.argv[2]);
const big = Buffer.alloc(8 * 1024 * 1024, Buffer.from(Array.from({ length: 256 }, (_, n) => n)));

async function main() {
  const client = new Redis({ port, retryStrategy: () => 50, maxRetriesPerRequest: null });
  client.on("error", () => {}); // While the server restarts.
  assert.equal(await client.ping(), "PONG");
  assert.equal(await client.set("big", big), "OK");
  assert.ok(big.equals(await client.getBuffer("big")));

  const pipe = client.pipeline();
  for (let n = 0; n < 1000; n++) pipe.set(`p:${n}`, n);
  for (let n = 0; n < 1000; n++) pipe.get(`p:${n}`);
  const replies = await pipe.exec();
  replies.forEach(([error, reply], n) => {
    assert.equal(error, null);
    assert.equal(reply, n < 1000 ? "OK" : String(n - 1000));
  });

  await client.watch("n");
  assert.deepEqual(await client.multi().set("n", 1).incr("n").exec(), [[null, "OK"], [null, 2]]);
  await client.watch("n");
  const other = client.duplicate();
  other.on("error", () => {});
  await other.set("n", 7);
  assert.equal(await client.multi().set("n", 3).exec(), null, "a watched key changed");

  const told = new Promise((resolve) => other.on("messageBuffer", (channel, message) => resolve([String(channel), message])));
  assert.equal(await other.subscribe("channel"), 1);
  assert.equal(await client.publish("channel", big.subarray(0, 100_000)), 1);
  const [channel, message] = await told;
  assert.ok(channel === "channel" && message.equals(big.subarray(0, 100_000)));
  await assert.rejects(client.lpush("n", "x"), /unknown command/);

  const lines = readline.createInterface({ input: process.stdin });
  console.log("restart");
  await new Promise((resolve) => lines.once("line", resolve));
  lines.close();
  assert.equal(await client.set("after", 1), "OK");
  assert.equal(await client.get("after"), "1");
  assert.equal(await client.get("big"), null);
  client.disconnect();
  other.disconnect();
  console.log("fine");
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
