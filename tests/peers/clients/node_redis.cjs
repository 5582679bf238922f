// What every client must be able to do, by node-redis. Argument: port.
const assert = require("node:assert");
const readline = require("node:readline/promises");
const { createClient, RESP_TYPES } = require("redis");

const port = Number(process.argv[2]);
const big = Buffer.alloc(8 * 1024 * 1024, Buffer.from(Array.from({ length: 256 }, (_, n) => n)));

async function main() {
  const client = createClient({ socket: { port, reconnectStrategy: 50 } });
  client.on("error", () => {}); // While the server restarts.
  await client.connect();
  const bytes = client.withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer });
  assert.equal(await client.ping(), "PONG");
  assert.equal(await client.set("big", big), "OK");
  assert.ok(big.equals(await bytes.get("big")));

  const numbers = Array.from({ length: 1000 }, (_, n) => n);
  const stored = await Promise.all(numbers.map((n) => client.set(`p:${n}`, String(n))));
  assert.ok(stored.every((reply) => reply === "OK"));
  assert.deepEqual(await Promise.all(numbers.map((n) => client.get(`p:${n}`))), numbers.map(String));

  await client.watch("n");
  assert.deepEqual(await client.multi().set("n", "1").incr("n").exec(), ["OK", 2]);
  const other = client.duplicate();
  other.on("error", () => {});
  await other.connect();
  await client.watch("n");
  await other.set("n", "7");
  await assert.rejects(client.multi().set("n", "3").exec(), (error) => error.constructor.name === "WatchError");

  const told = new Promise((resolve) => other.subscribe("channel", (message) => resolve(message), true).catch(resolve));
  while ((await client.pubSubNumSub("channel")).channel !== 1) await new Promise((resolve) => setImmediate(resolve));
  assert.equal(await client.publish("channel", big.subarray(0, 100_000)), 1);
  assert.ok(big.subarray(0, 100_000).equals(await told));
  await assert.rejects(client.lPush("n", "x"), /unknown command/);

  const lines = readline.createInterface({ input: process.stdin });
  console.log("restart");
  await new Promise((resolve) => lines.once("line", resolve));
  lines.close();
  assert.equal(await client.set("after", "1"), "OK");
  assert.equal(await client.get("after"), "1");
  assert.equal(await client.get("big"), null);
  client.destroy();
  other.destroy();
  console.log("fine");
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
