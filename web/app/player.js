// Plays what a job made, with a choice of quality, or what it has encoded so far.

import Hls from "../vendor/hls.min.mjs";
import { h, show } from "./dom.js";
import { clock, ranges } from "./format.js";
import { rangesBar } from "./pictures.js";

const isPlaylist = (output) => output.container === "hls";

/** How hls.js loads a video that is still encoded. The server holds a request for a segment that is not encoded yet for
    8 s, and then answers 503 and asks to repeat it after 1 s. One segment may need many such requests. */
const REPEAT = { maxNumRetry: 1000, retryDelayMs: 1000, maxRetryDelayMs: 1000, backoff: "linear" };
const PATIENT = {
  startPosition: 0,
  fragLoadPolicy: {
    default: { maxTimeToFirstByteMs: 15_000, maxLoadTimeMs: 120_000, timeoutRetry: REPEAT, errorRetry: REPEAT },
  },
};

/** A player of a job that is completed or playable; nothing where nothing can be played. `update` shows how far the job
    is meanwhile, without a disturbance of what is played. `stop` frees it. */
export const player = (job) => {
  const outputs = (job.outputs ?? []).filter((output) => output.url);
  const master = job.playUrl ?? job.entries?.find(({ kind, url }) => kind === "hls" && url)?.url;
  if (!master && outputs.length === 0) return undefined;
  const video = h("video", { controls: true, playsinline: true, preload: "metadata", poster: job.poster?.url });
  const choice = h("select", { "aria-label": "Quality" });
  const note = h("span", { class: "quiet small", role: "status" });
  const wait = h("p", { class: "wait", role: "status" });
  const bars = h("div");
  const box = h("div", {}, h("div", { class: "screen" }, video, wait), bars,
    h("div", { class: "row" }, h("span", {}, "Quality"), choice, note));
  const playlists = master ? [{ quality: "Automatic", url: master }] : outputs.filter(isPlaylist);
  let stop = () => {};
  if ((master || playlists.length === outputs.length) && Hls.isSupported()) {
    stop = adaptive(video, choice, note, playlists, job.playUrl !== undefined);
  } else {
    stop = files(video, choice, job.playUrl ? playlists : outputs);
  }
  let ready = job.playUrl && readyBar(video, bars, wait);
  const update = (now) => {
    if (now.status !== "completed") {
      ready?.show(now.ready ?? []);
      return;
    }
    ready?.stop();
    ready = undefined;
    bars.replaceChildren(...[now.storyboard?.imageUrl && seekBar(video, now.storyboard)].filter(Boolean));
  };
  update(job);
  return { box, update, stop: () => { ready?.stop(); stop(); video.removeAttribute("src"); video.load(); } };
};

/** Shows in `bars` what is encoded of a video, and in `wait` that its viewer waits for a part which is not. */
const readyBar = (video, bars, wait) => {
  const own = new AbortController();
  const bar = h("div", { class: "ready", role: "img" });
  let ready = [];
  const draw = () => {
    bar.setAttribute("aria-label", `Encoded so far: ${ranges(ready) || "nothing yet"}`);
    const length = video.duration;
    if (!(Number.isFinite(length) && length > 0)) return;
    show(bar, rangesBar(ready, length, video.currentTime));
    // A player stops a little before the end of what it has; what it needs then lies after that.
    const next = Math.min(video.currentTime + 0.5, length - 0.5);
    const isReady = ready.some(({ start, end }) => start <= next && next < end);
    const isWaiting = video.readyState < HTMLMediaElement.HAVE_FUTURE_DATA && !isReady;
    const words = isWaiting ? "This part is being encoded next" : "";
    if (wait.textContent !== words) wait.textContent = words;
  };
  for (const event of ["durationchange", "timeupdate", "seeking", "seeked", "waiting", "canplay", "playing"]) {
    video.addEventListener(event, draw, { signal: own.signal });
  }
  bar.addEventListener("click", (event) => {
    const { left, width } = bar.getBoundingClientRect();
    if (video.duration > 0) video.currentTime = ((event.clientX - left) / width) * video.duration;
  });
  bars.replaceChildren(bar, h("p", { class: "quiet small" },
    "Blue is encoded already. Click in the bar to watch from there: what is not encoded yet is encoded next."));
  return {
    show: (list) => { ready = list; draw(); },
    stop: () => { own.abort(); wait.textContent = ""; },
  };
};

/** A seek bar that shows what is on at the place under the pointer, or under the focus. */
const seekBar = (video, board) => {
  const bar = h("input", { type: "range", min: 0, max: 0, step: 0.1, value: 0, "aria-label": "Seek" });
  const still = h("span", { class: "still", role: "img" });
  const time = h("span", { class: "small" });
  const preview = h("span", { class: "preview", hidden: true }, still, time);
  // Through the CSSOM: a style in markup is against the page's own policy.
  still.style.width = `${board.width}px`;
  still.style.height = `${board.height}px`;
  still.style.backgroundImage = `url("${board.imageUrl.replaceAll('"', "%22")}")`;
  const show = (seconds) => {
    const length = Number(bar.max);
    if (!(length > 0)) return;
    const n = Math.min(board.count - 1, Math.max(0, Math.floor(seconds / board.interval)));
    still.style.backgroundPosition = `${-(n % board.columns) * board.width}px ${-Math.floor(n / board.columns) * board.height}px`;
    still.setAttribute("aria-label", `Still at ${clock(n * board.interval)}`);
    time.textContent = clock(seconds);
    preview.hidden = false;
    const room = bar.clientWidth - board.width;
    preview.style.left = `${Math.max(0, Math.min(room, (seconds / length) * bar.clientWidth - board.width / 2))}px`;
  };
  const hide = () => { preview.hidden = true; };
  const tell = () => {
    bar.value = video.currentTime;
    bar.setAttribute("aria-valuetext", `${clock(video.currentTime)} of ${clock(Number(bar.max))}`);
  };
  const measure = () => {
    if (Number.isFinite(video.duration)) bar.max = video.duration;
    tell();
  };
  // The video may play already.
  measure();
  video.addEventListener("durationchange", measure);
  video.addEventListener("timeupdate", tell);
  bar.addEventListener("input", () => { video.currentTime = Number(bar.value); show(Number(bar.value)); });
  bar.addEventListener("pointermove", (event) => {
    const { left, width } = bar.getBoundingClientRect();
    show(Math.min(1, Math.max(0, (event.clientX - left) / width)) * Number(bar.max));
  });
  bar.addEventListener("focus", () => { if (bar.matches(":focus-visible")) show(Number(bar.value)); });
  bar.addEventListener("pointerleave", hide);
  bar.addEventListener("blur", hide);
  return h("div", { class: "seek" }, preview, bar);
};

const option = (value, text) => h("option", { value }, text);

/** Playlists. One with several renditions lets the player choose, or the viewer. `isEarly`: the video is still encoded. */
const adaptive = (video, choice, note, lists, isEarly) => {
  const hls = new Hls({ capLevelToPlayerSize: false, enableWorker: false, ...(isEarly ? PATIENT : {}) });
  if (isEarly) {
    // The time for which the server held a request says nothing about the viewer's connection, by which hls.js chooses
    // the quality.
    hls.on(Hls.Events.FRAG_LOADED, (_, { frag }) => { frag.stats.loading.start = frag.stats.loading.first; });
  }
  hls.on(Hls.Events.ERROR, (_, data) => {
    if (!data.fatal) return;
    note.textContent = data.type === Hls.ErrorTypes.NETWORK_ERROR
      ? "The video cannot be loaded. Reload this page: addresses in a private bucket end after a day."
      : "This browser cannot play this video.";
  });
  hls.on(Hls.Events.LEVEL_SWITCHED, (_, data) => {
    const level = hls.levels[data.level];
    if (level) note.textContent = `Now ${level.height}p`;
  });
  if (lists.length === 1) {
    hls.on(Hls.Events.MANIFEST_PARSED, () => {
      const levels = hls.levels.map((level, n) => option(n, `${level.height}p`)).reverse();
      choice.replaceChildren(option(-1, "Automatic"), ...levels);
    });
    choice.addEventListener("change", () => { hls.currentLevel = Number(choice.value); });
    hls.loadSource(lists[0].url);
  } else {
    choice.replaceChildren(...lists.map((output, n) => option(n, output.quality)));
    choice.addEventListener("change", () => {
      const at = video.currentTime;
      hls.loadSource(lists[Number(choice.value)].url);
      hls.once(Hls.Events.MANIFEST_PARSED, () => { video.currentTime = at; });
    });
    hls.loadSource(lists[0].url);
  }
  hls.attachMedia(video);
  return () => hls.destroy();
};

/** Files. Another quality goes on where the one before stood. */
const files = (video, choice, outputs) => {
  choice.replaceChildren(...outputs.map((output, n) => option(n, output.quality)));
  choice.addEventListener("change", () => {
    const [at, paused] = [video.currentTime, video.paused];
    video.src = outputs[Number(choice.value)].url;
    video.addEventListener("loadedmetadata", () => {
      video.currentTime = at;
      if (!paused) video.play().catch(() => {});
    }, { once: true });
  });
  video.src = outputs[0].url;
  return () => {};
};
