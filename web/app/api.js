// The API, as the page uses it.

import { h } from "./dom.js";

let token = sessionStorage.getItem("tcoder-token") ?? "";
let asking;

/** What the API says is wrong (RFC 9457), or that it does not answer. */
export class Problem extends Error {
  constructor(status, body) {
    const detail = body?.detail ?? `the server answered ${status}`;
    super(body?.field ? `${body.field}: ${detail}` : detail);
    this.status = status;
  }
}

/** Asks for a token, once however many requests need it. */
const askForToken = (wrong) => {
  asking ??= new Promise((done) => {
    const input = h("input", { type: "password", autocomplete: "off", required: true, id: "token" });
    const dialog = h("dialog", { "aria-labelledby": "token-title" },
      h("h2", { id: "token-title" }, "A token is needed"),
      h("form", { method: "dialog" },
        h("p", {}, wrong ? "That token was not accepted. " : "",
          "This installation requires a token: one of its API_TOKENS, or one that `tcoder tokens create` made. The page keeps it until you close this tab."),
        h("label", { class: "field", for: "token" }, "Token"), input,
        h("p", {}),
        h("button", { class: "main" }, "Go on")));
    dialog.addEventListener("close", () => {
      token = input.value.trim();
      sessionStorage.setItem("tcoder-token", token);
      dialog.remove();
      asking = undefined;
      done();
    });
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    document.body.append(dialog);
    dialog.showModal();
  });
  return asking;
};

const request = async (method, path, options = {}) => {
  for (;;) {
    const used = token;
    const headers = { ...options.headers, ...(used ? { authorization: `Bearer ${used}` } : {}) };
    let response;
    try {
      response = await fetch(path, { ...options, method, headers });
    } catch (error) {
      if (options.signal?.aborted) throw error;
      throw new Problem(0, { detail: "the server cannot be reached; is it running?" });
    }
    if (response.status !== 401) return response;
    if (used === token) await askForToken(used !== "");
  }
};

const answer = async (method, path, body) => {
  const options = body === undefined ? {} :
    { body: JSON.stringify(body), headers: { "content-type": "application/json" } };
  const response = await request(method, path, options);
  const said = await response.json().catch(() => undefined);
  if (!response.ok) throw new Problem(response.status, said);
  return said;
};

const jobPath = (id) => `/api/jobs/${encodeURIComponent(id)}`;

export const upload = (options) => answer("POST", "/api/upload", options);
export const signParts = (id, wanted) => answer("POST", `${jobPath(id)}/parts`, wanted);
export const uploaded = (id) => answer("POST", `${jobPath(id)}/uploaded`);
export const submit = (options) => answer("POST", "/api/jobs", options);
export const getJob = (id) => answer("GET", jobPath(id));
export const cancelJob = (id) => answer("DELETE", jobPath(id));
export const retryJob = (id) => answer("POST", `${jobPath(id)}/retry`, {});
export const listJobs = (query) => answer("GET", `/api/jobs?${new URLSearchParams(query)}`);
export const getStats = () => answer("GET", "/api/stats");
export const getStatus = () => answer("GET", "/api/status");
export const getFleet = () => answer("GET", "/api/fleet");
export const pauseFleet = (reason) => answer("POST", "/api/fleet/pause", reason ? { reason } : {});
export const resumeFleet = () => answer("POST", "/api/fleet/resume");

export const hasEnded = (job) => ["completed", "failed", "cancelled"].includes(job.status);

const pause = (ms, signal) => new Promise((done) => {
  const timer = setTimeout(done, ms);
  signal.addEventListener("abort", () => { clearTimeout(timer); done(); }, { once: true });
});

/** The data of each server-sent event in this body. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const data = part.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trim());
      if (data.length > 0) yield JSON.parse(data.join("\n"));
    }
  }
}

/** Calls `tell` with the job at once and at each change, until it has ended or `signal`. By its feed; where that
    cannot be had, by asking. A plain EventSource cannot send a token. */
export const watch = async (id, signal, tell) => {
  while (!signal.aborted) {
    try {
      const response = await request("GET", `${jobPath(id)}/events`, { signal });
      if (response.status === 404) return;
      if (!response.ok) throw new Problem(response.status);
      for await (const job of events(response.body)) {
        tell(job);
        if (hasEnded(job)) return;
      }
    } catch {
      if (signal.aborted) return;
      await pause(2000, signal);
      try {
        const job = await getJob(id);
        tell(job);
        if (hasEnded(job)) return;
      } catch {
        // It is asked again in a moment.
      }
    }
  }
};
