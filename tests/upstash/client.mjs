// Drives Upstash's official client, as it is published, against a REST interface: `node client.mjs URL TOKEN PREFIX`.
// Prints what its calls answered as JSON. The key PREFIX + "bytes" holds bytes that are no UTF-8. Reads are
// answered by a region that lags behind.
import { createRequire } from "node:module";

const require = createRequire(`${process.env.NODE_MODULES}/`);
const { Redis } = require("@upstash/redis");
const [url, token, prefix] = process.argv.slice(2);
const key = (name) => prefix + name;
// As it comes, but for what it makes of JSON, and that it waits for nobody.
const settings = { url, token, retry: false, enableTelemetry: false };
const redis = new Redis({ ...settings, automaticDeserialization: false });
const refused = async (call) => {
  try {
    return { answered: await call };
  } catch (error) {
    return { name: error.name, message: error.message };
  }
};

const answers = {};
const texts = ["", "OK", "PONG", "plain", "137", "a\u0000b", "fünf 🎬\r\n\"\\", "T0s=", "null", "[1,2]"];
answers.texts = [];
for (const text of texts) {
  await redis.set(key("text"), text);
  answers.texts.push([text, await redis.get(key("text")), await redis.strlen(key("text"))]);
}
answers.bytes = await redis.get(key("bytes"));
const plain = new Redis({ ...settings, automaticDeserialization: false, responseEncoding: false });
plain.readYourWritesSyncToken = redis.readYourWritesSyncToken;
answers.plain = [await plain.set(key("plain"), "fünf"), await plain.get(key("plain")), await plain.get(key("bytes"))];
answers.object = await new Redis(settings).set(key("object"), { a: [1, "b"] });
answers.nulls = [await redis.get(key("none")), await redis.hmget(key("none"), "a", "b"), await redis.zscore(key("none"), "a")];
answers.status = [await redis.ping(), await redis.echo("hello"), await redis.type(key("text"))];
await redis.zadd(key("zset"), { score: 1.5, member: "a" }, { score: 2, member: "b" });
await redis.hset(key("hash"), { field: "value", "": "empty" });
answers.lists = {
  zrange: await redis.zrange(key("zset"), 0, -1, { withScores: true }),
  hgetall: await redis.hgetall(key("hash")),
  mget: await redis.mget(key("text"), key("none")),
  nested: await redis.eval("return {1, {'a', {'OK', 2}}, false}", [], []),
  numbers: [await redis.incr(key("n")), await redis.incrbyfloat(key("f"), 1.25), await redis.exists(key("n"))],
};

const pipeline = redis.pipeline();
pipeline.set(key("p"), "1").incr(key("p")).lpush(key("p"), "x").get(key("p")).get(key("none"));
answers.pipeline = await pipeline.exec({ keepErrors: true });
const multi = redis.multi();
multi.set(key("m"), "1").incr(key("m")).get(key("m")).hget(key("m"), "field").get(key("none"));
answers.inTransaction = await refused(multi.exec());
answers.afterIt = await redis.get(key("m"));
const good = redis.multi();
good.set(key("g"), "x").append(key("g"), "y").get(key("g"));
answers.transaction = await good.exec();
const discarded = redis.multi();
discarded.set(key("d"), "1").get();
answers.discarded = [await refused(discarded.exec()), await redis.get(key("d"))];

const script = "return {KEYS[1], ARGV[1]}";
const sha = await redis.scriptLoad(script);
await redis.scriptFlush();
answers.script = {
  sha,
  unknown: await refused(redis.evalsha(sha, ["k"], ["v"])),
  inPipeline: await redis.pipeline().evalsha(sha, ["k"], ["v"]).exec({ keepErrors: true }),
  text: await redis.eval(script, ["k"], ["v"]),
  known: await redis.evalsha(sha, ["k"], ["v"]),
};
answers.refusals = {
  syntax: await refused(redis.exec(["GET"])),
  unknown: await refused(redis.exec(["NO-SUCH-COMMAND"])),
  blocking: await refused(redis.exec(["BLPOP", key("list"), "1"])),
  wrongType: await refused(redis.hget(key("text"), "field")),
  token: await refused(new Redis({ ...settings, token: "another" }).get(key("text"))),
};

// Two clients, of which one writes; the other one hears of it by the sync token alone.
const [writer, reader] = [new Redis(settings), new Redis(settings)];
const first = writer.readYourWritesSyncToken;
await reader.get(key("region"));
await writer.set(key("region"), "written");
const stale = await reader.get(key("region"));
const own = await writer.get(key("region"));
reader.readYourWritesSyncToken = writer.readYourWritesSyncToken;
answers.region = { first, stale, own, handedOn: await reader.get(key("region")) };
console.log(JSON.stringify(answers));
