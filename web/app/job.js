// One job: its stages as they happen, what came out, and what can be done with it.

import * as api from "./api.js";
import { entries } from "./choices.js";
import { h, show, table, terms, wide } from "./dom.js";
import { Pace, ago, bytes, duration, fileName, rate } from "./format.js";
import { ladder } from "./pictures.js";
import { player } from "./player.js";

const STAGES = [["uploading", "Uploading"], ["queued", "Waiting for a worker"], ["running", "Encoding"], ["completed", "Done"]];
const ENDS = { failed: "Failed", cancelled: "Cancelled" };

const stages = (job) => {
  const at = STAGES.findIndex(([state]) => state === (job.status === "playable" ? "running" : job.status));
  const list = STAGES.filter(([state]) => state !== "uploading" || job.inputKey).map(([state, words]) => {
    const n = STAGES.findIndex(([s]) => s === state);
    const done = at > n || job.status === "completed";
    return h("li", { class: done && "done", "aria-current": at === n && !done ? "step" : undefined },
      done ? "✓ " : "", words);
  });
  if (ENDS[job.status]) list.push(h("li", { class: "bad" }, `✕ ${ENDS[job.status]}`));
  return h("ol", { class: "stages", "aria-label": "Stages" }, list);
};

const entryTitle = (kind) => entries.find(({ value }) => value === kind)?.name ?? kind;

const nameOf = (job, fallback) => fallback || fileName(job) || job.jobId;

const progress = (job, pace) => {
  if (!["running", "playable"].includes(job.status)) return undefined;
  const percent = job.progress ?? 0;
  const speed = pace.at(percent);
  const left = speed > 0.05 ? `, ${speed.toFixed(1)} % a second, ${duration((100 - percent) / speed)} left` : "";
  return h("div", {},
    h("progress", { max: 100, value: percent, "aria-label": "Encode" }),
    h("span", { class: "small" }, job.status === "playable"
      ? `Playable already; the rest is still being encoded (${percent.toFixed(0)} %${left})`
      : `${percent.toFixed(0)} %${left}`));
};

const outcome = (job) => {
  if (job.status === "queued" && job.error) {
    return h("p", { class: "problem" }, `Attempt ${job.attempt} failed: ${job.error}. It is tried again`,
      job.timestamps.retryAt ? ` at ${new Date(job.timestamps.retryAt).toLocaleTimeString()}.` : ".");
  }
  if (job.partFailure) {
    const { part, error, retryAt } = job.partFailure;
    return h("p", { class: "problem" }, `An attempt at the part ${part} failed: ${error}. It is tried again`,
      retryAt ? ` at ${new Date(retryAt).toLocaleTimeString()}.` : ".");
  }
  if (job.status === "failed" && job.error) return h("p", { class: "problem" }, h("strong", {}, "It failed: "), job.error);
  return undefined;
};

const source = ({ source: probe }) => probe && h("div", {}, h("h3", {}, "The source"), terms([
  ["Container", probe.format],
  ["Size", bytes(probe.size)],
  ["Length", duration(probe.duration)],
  ["Video", `${probe.video.codec}, ${probe.video.width}×${probe.video.height}, ${probe.video.frameRate.toFixed(2)} frames/s${probe.video.hdr ? ", HDR" : ""}`],
  ["Sound", probe.audio ? `${probe.audio.codec}${probe.audio.channels ? `, ${probe.audio.channels} channels` : ""}` : "none"],
]));

const outputs = (job) => job.outputs && h("div", {}, h("h3", {}, "Outputs"),
  table("Outputs", ["Quality", "Picture", "Format", { name: "Bitrate", number: true }, { name: "Size", number: true }, "File"],
    job.outputs.map((o) => [
      o.quality, `${o.width}×${o.height}`, `${o.container} ${o.codec}`, rate(o.bitrate), bytes(o.size),
      o.url ? h("a", { href: o.url, download: o.container === "hls" ? undefined : "" }, o.container === "hls" ? "Playlist" : "Download") : o.key,
    ])),
  job.skipped?.length > 0 && h("ul", { class: "small quiet" }, job.skipped.map((one) => h("li", {}, `${one.quality}: ${one.reason}`))),
  h("p", { class: "small row" },
    job.entries?.filter(({ url }) => url).map(({ kind, url }) => h("a", { href: url }, entryTitle(kind))),
    job.poster?.url && h("a", { href: job.poster.url }, "Poster"),
    job.storyboard?.url && h("a", { href: job.storyboard.url }, "Storyboard (WebVTT)")));

/** How long a completed job took. Its last attempt only joined the parts, if there are several. */
const effort = ({ timestamps, timings, split }) =>
  (split?.chunks > 1
    ? `${duration(timings.transcodeSeconds)}, in ${split.chunks} parts`
    : duration((new Date(timestamps.completedAt) - new Date(timestamps.startedAt)) / 1000));

/** Whether there is something to play. */
const canPlay = (job) => job.status === "completed" || (job.status === "playable" && job.playUrl !== undefined);

/** A card that follows the job until `signal`. `sending` is the upload that this page makes for it. */
export const jobCard = (id, signal, sending, changed) => {
  const [title, state, upload, bar, why, result] = [h("h2"), h("div"), h("div"), h("div"), h("div", { role: "status" }), h("div")];
  const screen = h("div");
  const said = h("div", { role: "alert" });
  const cancel = h("button", { type: "button" }, "Cancel");
  const retry = h("button", { type: "button", hidden: true }, "Retry");
  const close = h("button", { type: "button" }, "Close");
  const card = h("article", { class: "card", id: `job-${id}`, tabindex: "-1", "aria-label": "A video" },
    h("div", { class: "row apart" }, title, h("span", { class: "row" }, cancel, retry, close)),
    state, upload, bar, why, said, screen, result, h("p", { class: "quiet small" }, id));
  if (sending) upload.append(sending.box);
  const own = new AbortController();
  signal.addEventListener("abort", () => own.abort());
  const pace = new Pace();
  let playing;
  // When the job became playable that is played: another attempt makes another video.
  let playableAt;
  let last;

  const stop = () => {
    playing?.stop();
    playing = undefined;
    screen.replaceChildren();
  };
  const play = (job) => {
    if (!canPlay(job) || job.timestamps.playableAt !== playableAt) stop();
    if (!canPlay(job)) return;
    if (playing) {
      playing.update(job);
      return;
    }
    playableAt = job.timestamps.playableAt;
    playing = player(job);
    if (playing) screen.replaceChildren(playing.box);
  };
  const tell = (job) => {
    const moved = last?.status !== job.status;
    last = job;
    title.textContent = nameOf(job, sending?.name);
    card.setAttribute("aria-label", title.textContent);
    show(state, stages(job));
    bar.replaceChildren(...[progress(job, pace)].filter(Boolean));
    show(why, outcome(job));
    if (job.status !== "uploading") upload.replaceChildren();
    cancel.hidden = api.hasEnded(job);
    retry.hidden = !["failed", "cancelled"].includes(job.status);
    play(job);
    if (job.status === "completed" && moved) {
      const picture = ladder(job.source, job.outputs ?? []);
      result.replaceChildren(...[outputs(job), picture && h("div", {}, h("h3", {}, "The ladder"), wide("The ladder", picture)), source(job)].filter(Boolean));
      result.append(h("p", { class: "small quiet" }, `Encoded in ${effort(job)}, ${ago(job.timestamps.completedAt)}.`));
    }
    if (moved) changed();
  };
  const follow = () => api.watch(id, own.signal, tell);
  const attempt = (what) => async () => {
    said.replaceChildren();
    try {
      tell(await what(id));
    } catch (error) {
      said.replaceChildren(h("p", { class: "problem" }, error.message));
    }
  };
  cancel.addEventListener("click", attempt(api.cancelJob));
  retry.addEventListener("click", async () => {
    await attempt(api.retryJob)();
    follow();
  });
  close.addEventListener("click", () => {
    own.abort();
    card.remove();
  });
  own.signal.addEventListener("abort", stop);
  follow();
  return card;
};
