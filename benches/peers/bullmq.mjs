// The load on BullMQ for benches/peers: `node.sh bullmq.mjs PHASE PORT WORKERS JOBS`, where PHASE is enqueue, drain, paced or
// idle. Prints "ready" and Node's version when all connections are there, begins when a line arrives on the standard input, and prints
// the outcome as a line of JSON: for enqueue and drain when each job was done, in seconds; for paced how long each job
// waited until its worker had it, in milliseconds. It ends when the standard input does.
import { fork } from "node:child_process";
import { createRequire } from "node:module";
import { availableParallelism } from "node:os";
import { createInterface } from "node:readline";

const require = createRequire(`${process.env.NODE_MODULES}/`);
const { Queue, Worker } = require("bullmq");

const NAME = "peers";
const [phase, port, workers, jobs] = [process.argv[2], ...process.argv.slice(3).map(Number)];
const connection = { host: "127.0.0.1", port };

/** 100 bytes of JSON, like those of the others. */
const payload = (number) => ({ n: String(number).padStart(8, "0"), p: "x".repeat(77) });
/** On the same clock in all processes, in seconds. */
const now = () => (performance.timeOrigin + performance.now()) / 1000;
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const share = (total, parts, index) => Math.floor((total * (index + 1)) / parts) - Math.floor((total * index) / parts);

const startWorkers = (count, process) =>
  Array.from({ length: count }, () => new Worker(NAME, process, { connection, concurrency: 1, autorun: false }));
const ready = (parts) => Promise.all(parts.map((part) => part.waitUntilReady()));

/** Part of the producers or workers, in a process of its own, since one has only one thread for JavaScript. */
const runChild = async () => {
  const [ownWorkers, ownJobs] = [process.env.OWN_WORKERS, process.env.OWN_JOBS].map(Number);
  const times = [];
  let begin;
  if (phase === "enqueue") {
    const queues = Array.from({ length: ownWorkers }, () => new Queue(NAME, { connection }));
    await ready(queues);
    begin = async () => {
      await Promise.all(queues.map(async (queue, index) => {
        for (let left = share(ownJobs, ownWorkers, index); left > 0; left -= 1) {
          await queue.add("job", payload(left));
          times.push(now());
        }
      }));
      process.send({ times });
    };
  } else {
    const all = startWorkers(ownWorkers, async () => null);
    for (const worker of all) worker.on("completed", () => times.push(now()));
    await ready(all);
    begin = () => {
      for (const worker of all) worker.run();
      // The parent may be gone already.
      setInterval(() => process.send({ done: times.length }, () => {}), 20);
    };
  }
  process.on("message", (message) => (message === "begin" ? begin() : process.send({ times })));
  process.on("disconnect", () => process.exit());
  process.send("ready");
};

/** Starts the processes. The function that is returned has them begin, and resolves to when the jobs were done. */
const spread = async () => {
  const count = Math.min(workers, availableParallelism());
  const children = Array.from({ length: count }, (_, index) => {
    const own = { OWN_WORKERS: share(workers, count, index), OWN_JOBS: share(jobs, count, index) };
    return fork(process.argv[1], process.argv.slice(2), { env: { ...process.env, ...own } });
  });
  const heard = (child, wanted) => new Promise((resolve, reject) => {
    child.on("message", (message) => { if (wanted(message)) resolve(message); });
    child.on("exit", () => reject(new Error("a process of the load has ended")));
  });
  await Promise.all(children.map((child) => heard(child, (message) => message === "ready")));
  return async () => {
    const done = children.map(() => 0);
    let stopped = false;
    children.forEach((child, index) => child.on("message", (message) => {
      done[index] = message.done ?? done[index];
      if (stopped || phase === "enqueue" || done.reduce((sum, part) => sum + part, 0) < jobs) return;
      stopped = true;
      for (const each of children) each.send("stop");
    }));
    const outcomes = Promise.all(children.map((child) => heard(child, (message) => message.times)));
    for (const child of children) child.send("begin");
    return (await outcomes).flatMap(({ times }) => times);
  };
};

/** A hundred jobs a second, from a producer in this process to workers in it. */
const pace = async () => {
  const queue = new Queue(NAME, { connection });
  const sent = [];
  const waits = [];
  const all = startWorkers(workers, async (job) => { waits.push(performance.now() - sent[Number(job.data.n)]); });
  await ready([queue, ...all]);
  return async () => {
    for (const worker of all) worker.run();
    await sleep(500);
    const began = performance.now();
    for (let number = 0; number < jobs; number += 1) {
      await sleep(Math.max(0, began + number * 10 - performance.now()));
      sent[number] = performance.now();
      await queue.add("job", payload(number));
    }
    while (waits.length < jobs) await sleep(10);
    return waits;
  };
};

const idle = async () => {
  const all = startWorkers(workers, async () => null);
  await ready(all);
  for (const worker of all) worker.run();
  return async () => [];
};

if (process.send) {
  await runChild();
} else {
  const begin = await { enqueue: spread, drain: spread, paced: pace, idle }[phase]();
  console.log(`ready ${process.version}`);
  const input = createInterface({ input: process.stdin });
  input.on("close", () => process.exit());
  input.once("line", async () => console.log(JSON.stringify(await begin())));
}
