// Runs the Worker in workerd for the tests, as wrangler.toml has it: `node host.mjs wrangler.toml`, with
// {port, notifies, settings} as a line of JSON on stdin. Says a line of JSON when it serves, and one for each
// line the Worker logs; ends with its stdin.
//
// What Cloudflare does by itself is asked for over HTTP on a second port, and answered with what the Worker
// made of it:
//   POST /queue      [bodies]   puts messages into the queue of uploads, as R2 does
//   POST /deliver    [bodies]   hands the consumer a batch; answers its acknowledgements and retries
//   POST /scheduled  {at}       the clock
//   POST /put        {bucket, key, text}   an object; answers R2's event of it
//   GET  /letters               the dead letters so far
// With `notifies`, each new object in INPUT puts its event into the queue: workerd's R2 sends none.
import { createServer } from "node:http";
import { createInterface } from "node:readline";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

// The packages lie in the user's cache (hack/edge-tools.sh).
const require = createRequire(`${process.env.EDGE_MODULES}/`);
const load = async (name) => import(pathToFileURL(require.resolve(name)));
const { Miniflare, convertV4MiniflareOptions, Log, LogLevel } = await load("miniflare");
const { unstable_getMiniflareWorkerOptions } = await load("wrangler");

const say = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
const lines = createInterface({ input: process.stdin });
const { port, notifies, settings } = JSON.parse(await new Promise((line) => lines.once("line", line)));

const config = process.argv[2];
const { modulesRules: _, ...workerOptions } = unstable_getMiniflareWorkerOptions(config).workerOptions;
const credentials = { accessKeyId: settings.R2_ACCESS_KEY_ID ?? "id", secretAccessKey: settings.R2_SECRET_ACCESS_KEY ?? "key" };
const buckets = Object.entries(workerOptions.r2Buckets).map(([binding, bucket]) => {
  const id = typeof bucket === "string" ? bucket : bucket.id;
  return [binding, { id, s3Credentials: credentials }];
});
// What is set to null is not there.
const present = (entries) => Object.fromEntries(entries.filter(([name]) => settings[name] !== null));

// Not the Worker's: how often a message comes again, and after how long.
const QUEUE_SETTINGS = new Set(["maxRetries", "retryDelay"]);
const UPLOADS = "tcoder-uploads";
const LETTERS = "tcoder-dead-letters";
const build = new URL("../../edge/build/", import.meta.url).pathname;
const mf = new Miniflare(convertV4MiniflareOptions({
  log: new Log(LogLevel.WARN),
  host: "127.0.0.1",
  port,
  cf: false,
  handleRuntimeStdio(stdout, stderr) {
    for (const stream of [stdout, stderr]) {
      createInterface({ input: stream }).on("line", (line) => say({ log: line }));
    }
  },
  workers: [
    {
      ...workerOptions,
      name: "tcoder",
      modulesRoot: build,
      modules: [
        { type: "ESModule", path: `${build}index.js` },
        { type: "CompiledWasm", path: `${build}index_bg.wasm` },
      ],
      bindings: present(Object.entries({ ...workerOptions.bindings, ...settings }).filter(([name]) => !QUEUE_SETTINGS.has(name))),
      r2Buckets: present(buckets),
      queueProducers: {
        ...present(Object.entries(workerOptions.queueProducers)),
        TEST_UPLOADS: { queueName: UPLOADS },
      },
      queueConsumers: Object.fromEntries(Object.entries(workerOptions.queueConsumers).map(([queue, options]) => [
        queue,
        { ...options, ...Object.fromEntries(Object.entries(settings).filter(([name]) => QUEUE_SETTINGS.has(name))) },
      ])),
    },
    {
      name: "letters",
      modules: true,
      script: `
        const letters = [];
        export default {
          async queue(batch) { for (const m of batch.messages) letters.push(m.body); },
          async fetch() { return Response.json(letters); },
        };`,
      queueConsumers: { [LETTERS]: { maxBatchTimeout: 0 } },
    },
  ],
}));

const url = await mf.ready;
const body = async (request) => {
  let text = "";
  for await (const piece of request) text += piece;
  return text === "" ? undefined : JSON.parse(text);
};

const event = (bucket, object) => ({
  account: "0123456789abcdef0123456789abcdef",
  action: "PutObject",
  bucket: bucket === "INPUT" ? settings.R2_INPUT_BUCKET_NAME : settings.R2_OUTPUT_BUCKET_NAME,
  object: { key: object.key, size: object.size, eTag: object.etag },
  eventTime: object.uploaded.toISOString(),
});

// R2's notifications, by looking: none is sent by itself here.
const watch = async () => {
  const bucket = await mf.getR2Bucket("INPUT", "tcoder");
  const queue = await mf.getQueueProducer("TEST_UPLOADS", "tcoder");
  const told = new Set();
  for (;;) {
    let cursor;
    do {
      const page = await bucket.list({ cursor });
      const fresh = page.objects.filter((object) => !told.has(object.key + object.etag));
      for (const object of fresh) {
        told.add(object.key + object.etag);
        await queue.send(event("INPUT", object));
      }
      cursor = page.truncated ? page.cursor : undefined;
    } while (cursor);
    await new Promise((later) => setTimeout(later, 250));
  }
};

const routes = {
  async "POST /put"({ bucket, key, text }) {
    const object = await (await mf.getR2Bucket(bucket, "tcoder")).put(key, text);
    return event(bucket, object);
  },
  async "POST /queue"(bodies) {
    const queue = await mf.getQueueProducer("TEST_UPLOADS", "tcoder");
    await queue.sendBatch(bodies.map((body) => ({ body })));
    return {};
  },
  async "POST /deliver"(bodies) {
    const worker = await mf.getWorker("tcoder");
    const messages = bodies.map((body, n) => ({ id: `m${n}`, timestamp: new Date(), attempts: 1, body }));
    const { outcome, retryBatch, ackAll, explicitAcks, retryMessages } = await worker.queue(UPLOADS, messages);
    return { outcome, retryBatch, ackAll, explicitAcks, retryMessages };
  },
  async "POST /scheduled"({ at }) {
    const worker = await mf.getWorker("tcoder");
    return worker.scheduled({ scheduledTime: new Date(at), cron: "* * * * *" });
  },
  async "GET /letters"() {
    const worker = await mf.getWorker("letters");
    return (await worker.fetch("http://letters/")).json();
  },
};

const control = createServer(async (request, response) => {
  try {
    const route = routes[`${request.method} ${request.url}`];
    const answer = route ? await route(await body(request)) : undefined;
    response.writeHead(route ? 200 : 404, { "content-type": "application/json" });
    response.end(JSON.stringify(answer ?? null));
  } catch (error) {
    response.writeHead(500);
    response.end(String(error?.stack ?? error));
  }
});
if (notifies) watch().catch((error) => say({ log: `notifications ended: ${error}` }));
control.listen(0, "127.0.0.1", () => {
  say({ url: url.origin, control: `http://127.0.0.1:${control.address().port}` });
});
lines.on("close", async () => {
  control.close();
  await mf.dispose();
  process.exit(0);
});
