// Uses the API through a client that openapi-typescript and openapi-fetch made of its contract: `node client.js URL FILM
// [TOKEN]`. It is compiled by `tsc --strict` and has no cast, so the types must promise what is used here. Prints what
// it got as JSON.
import { readFile } from "node:fs/promises";
import createClient from "openapi-fetch";
import type { components, paths, webhooks } from "./tcoder.d.ts";

type Job = components["schemas"]["Job"];
type Message = webhooks["jobEnded"]["post"]["requestBody"]["content"]["application/json"];

const [url, film, token] = process.argv.slice(2);
if (url === undefined || film === undefined) throw new Error("usage: client.js URL FILM [TOKEN]");
const client = createClient<paths>({
  baseUrl: url,
  headers: token === undefined ? {} : { Authorization: `Bearer ${token}` },
});

/** Whether a job has ended; the compiler knows all its states. */
const hasEnded = (status: Job["status"]): boolean => {
  switch (status) {
    case "uploading":
    case "queued":
    case "running":
    case "playable":
      return false;
    case "completed":
    case "failed":
    case "cancelled":
      return true;
    default: {
      const none: never = status;
      throw new Error(`an unknown state: ${String(none)}`);
    }
  }
};

const getJob = async (id: string): Promise<Job> => {
  const { data, error } = await client.GET("/api/jobs/{id}", { params: { path: { id } } });
  if (data === undefined) throw new Error(`${error.title}: ${error.detail}`);
  return data;
};

/** The job at its end: its stream of events ends there. */
const ended = async (id: string): Promise<Job> => {
  for (;;) {
    await client.GET("/api/jobs/{id}/events", { params: { path: { id } }, parseAs: "text" });
    const job = await getJob(id);
    if (hasEnded(job.status)) return job;
  }
};

const upload = async (bytes: Uint8Array<ArrayBuffer>, request: components["schemas"]["UploadRequest"]): Promise<Job> => {
  const { data: ticket, error } = await client.POST("/api/upload", { body: request });
  if (ticket === undefined) throw new Error(`${error.title}: ${error.detail}`);
  if (ticket.uploadUrl === undefined) throw new Error(`the job is ${ticket.status} already`);
  const stored = await fetch(ticket.uploadUrl, { method: "PUT", body: bytes });
  if (!stored.ok) throw new Error(`storage answered ${stored.status}`);
  const job = await ended(ticket.jobId);
  if (job.inputKey !== ticket.inputKey) throw new Error(`the input is at ${job.inputKey}`);
  return job;
};

/** What a receiver of webhooks does with a message. */
const told = (message: Message): string => {
  const { type, data: { jobId, errorCode } } = message;
  return type === "job.failed" ? `${jobId}: ${errorCode ?? "unknown"}` : jobId;
};

// A request needs no more than what the caller means to say.
const completed = await upload(await readFile(film), { fileName: "film.mp4", preset: "web-optimized", outputQualities: ["144p"] });
const failed = await upload(new TextEncoder().encode("no film"), { fileName: "notes.txt" });

const outputs = await Promise.all((completed.outputs ?? []).map(async ({ url: address, quality, size, container }) => {
  const answer = await fetch(address);
  return { quality, size, container, fetched: (await answer.arrayBuffer()).byteLength };
}));
const { createdAt, completedAt } = completed.timestamps;
const took: number | undefined = createdAt && completedAt && completedAt - createdAt;

const { data: list } = await client.GET("/api/jobs", { params: { query: { status: "failed", limit: 100 } } });
const refused = await client.POST("/api/upload", { body: { webhookUrl: "ftp://films.example/" } });
const problem: components["schemas"]["Problem"] | undefined = refused.error;
const submitted = await client.POST("/api/jobs", {
  body: { inputUrl: "http://127.0.0.1:9/film.mp4", delaySeconds: 3600, priority: -1 },
  params: { header: { "Idempotency-Key": crypto.randomUUID() } },
});
if (submitted.data === undefined) throw new Error(`${submitted.error.title}: ${submitted.error.detail}`);
const cancelled = await client.DELETE("/api/jobs/{id}", { params: { path: { id: submitted.data.jobId } } });
const { data: status } = await client.GET("/api/status");

console.log(JSON.stringify({
  completed, outputs, took, failed,
  listed: list?.jobs.map((job) => job.jobId),
  problem: { kind: problem?.type, field: problem?.field },
  submitted: { status: submitted.data.status, inputUrl: submitted.data.inputUrl, priority: submitted.data.priority },
  cancelled: cancelled.data?.status,
  workers: status?.workers.map((worker) => worker.state),
  told: told({ type: "job.failed", timestamp: new Date().toISOString(), data: failed }),
}));
