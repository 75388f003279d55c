// Sends a file straight to storage: in one piece, or in parts that can be sent again and gone on with later.

import * as api from "./api.js";
import { Pace } from "./format.js";

/** Parts under way at once, and times one is sent before the upload stops. */
const [AT_ONCE, TRIES] = [3, 5];

class Refused extends Error {}

/** One request of an upload; `tell(bytes)` as they leave. Answers the request that has ended well. */
const send = (method, url, body, signal, tell, contentType) => new Promise((resolve, reject) => {
  // fetch does not tell how far an upload is.
  const request = new XMLHttpRequest();
  const stop = () => request.abort();
  request.upload.onprogress = (event) => tell?.(event.loaded);
  request.onload = () => {
    if (request.status >= 200 && request.status < 300) resolve(request);
    else if (request.status === 403) reject(new Refused("the upload address is no longer good"));
    else if (request.status === 404) reject(new Refused("storage has forgotten this upload"));
    else reject(new Error(`storage answered ${request.status}`));
  };
  request.onerror = () => reject(new Error(
    "the connection to storage broke; check that the bucket lets this page upload (its CORS rule)"));
  request.onabort = () => reject(new Error("the upload was stopped"));
  request.onloadend = () => signal.removeEventListener("abort", stop);
  if (signal.aborted) return reject(new Error("the upload was stopped"));
  signal.addEventListener("abort", stop);
  request.open(method, url);
  // Where the ticket names one, the address is signed for it.
  if (contentType) request.setRequestHeader("Content-Type", contentType);
  request.send(body);
});

const pause = (ms, signal) => new Promise((done) => {
  const timer = setTimeout(done, ms);
  signal.addEventListener("abort", () => { clearTimeout(timer); done(); }, { once: true });
});

/** What is kept of uploads in parts, so that one goes on after the page was closed. */
const store = (key) => ({
  read: () => { try { return JSON.parse(localStorage.getItem(key)) ?? undefined; } catch { return undefined; } },
  write: (state) => { try { localStorage.setItem(key, JSON.stringify(state)); } catch { /* Then it does not. */ } },
  drop: () => { try { localStorage.removeItem(key); } catch { /* Nothing was kept. */ } },
});

/** What storage is to take, and nothing else. */
export const about = (file) => ({ fileName: file.name, fileSize: file.size, contentType: file.type || undefined });

/** The same file with the same options is the same upload. */
const keyOf = (file, options) => `tcoder-upload ${JSON.stringify([file.name, file.size, file.lastModified, options])}`;

/** The upload of this file that was begun before and can go on; nothing where there is none. */
export const begun = async (file, options) => {
  const kept = store(keyOf(file, options));
  const state = kept.read();
  if (!state) return undefined;
  const job = await api.getJob(state.jobId).catch(() => undefined);
  if (job?.status === "uploading") return { jobId: state.jobId, goesOn: true };
  kept.drop();
  return undefined;
};

const element = (xml, name) => new DOMParser().parseFromString(xml, "application/xml").getElementsByTagName(name)[0];

const completion = (tags) => {
  const parts = Object.keys(tags).map(Number).sort((a, b) => a - b).map((n) =>
    `<Part><PartNumber>${n}</PartNumber><ETag>${tags[n].replaceAll("&", "&amp;").replaceAll("<", "&lt;")}</ETag></Part>`);
  return `<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">${parts.join("")}</CompleteMultipartUpload>`;
};

/** Sends what is missing of a file in parts. */
const inParts = async (file, options, ticket, signal, tell) => {
  const kept = store(keyOf(file, options));
  let state = kept.read();
  if (!state) {
    const { multipart, contentType } = ticket.multipart ? ticket
      : await api.upload({ ...options, ...about(file), jobId: ticket.jobId });
    const started = await send("POST", multipart.startUrl, null, signal, undefined, contentType);
    const uploadId = element(started.responseText, "UploadId")?.textContent;
    if (!uploadId) throw new Error("storage gave the upload no id");
    state = { jobId: ticket.jobId, uploadId, size: multipart.partSize, tags: {} };
    kept.write(state);
  }
  const count = Math.ceil(file.size / state.size);
  const bytesOf = (n) => file.slice((n - 1) * state.size, n * state.size);
  const moving = {};
  const say = () => {
    const done = Object.keys(state.tags).reduce((sum, n) => sum + bytesOf(n).size, 0);
    tell(done + Object.values(moving).reduce((sum, bytes) => sum + bytes, 0));
  };
  const sign = (partNumbers) => api.signParts(state.jobId, { uploadId: state.uploadId, partNumbers });
  const part = async (n) => {
    for (let tries = 1; ; tries += 1) {
      try {
        const { parts: [{ url }] } = await sign([n]);
        const sent = await send("PUT", url, bytesOf(n), signal, (bytes) => { moving[n] = bytes; say(); });
        const tag = sent.getResponseHeader("ETag");
        if (!tag) throw new Refused("storage keeps a part's ETag to itself; the bucket's CORS rule must expose it");
        state.tags[n] = tag;
        kept.write(state);
        return;
      } catch (error) {
        if (signal.aborted || error instanceof Refused || error instanceof api.Problem || tries === TRIES) throw error;
        await pause(500 * 2 ** (tries - 1), signal);
      } finally {
        delete moving[n];
        say();
      }
    }
  };
  const missing = Array.from({ length: count }, (_, n) => n + 1).filter((n) => !state.tags[n]);
  say();
  const lane = async () => { while (missing.length > 0) await part(missing.shift()); };
  try {
    await Promise.all(Array.from({ length: AT_ONCE }, lane));
    const ended = await send("POST", (await sign([])).completeUrl, completion(state.tags), signal);
    if (element(ended.responseText, "Error")) throw new Error("storage could not join the parts");
  } catch (error) {
    // A new try begins anew.
    if (error instanceof Refused) kept.drop();
    throw error;
  }
  kept.drop();
};

/** Sends `file` for the job of `ticket`; `tell({sent, total, speed})` as it goes. Answers {done, stop}: `done` rejects
    with words where it did not work, and what was sent until then need not be sent again. */
export const put = (file, options, ticket, tell) => {
  const own = new AbortController();
  const pace = new Pace();
  const say = (sent) => tell({ sent, total: file.size, speed: pace.at(sent) });
  const work = ticket.multipart || ticket.goesOn
    ? inParts(file, options, ticket, own.signal, say)
    : send("PUT", ticket.uploadUrl, file, own.signal, say, ticket.contentType);
  // If storage reports no events, this request starts the job; otherwise it has no effect.
  const done = work.then(() => api.uploaded(ticket.jobId).catch(() => undefined));
  return { done, stop: () => own.abort() };
};
