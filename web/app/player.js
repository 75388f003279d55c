// Plays what a job made, with a choice of quality.

import Hls from "../vendor/hls.min.mjs";
import { h } from "./dom.js";
import { clock } from "./format.js";

const isPlaylist = (output) => output.container === "hls";

/** A player of a job's outputs; nothing where none can be played. `stop` frees it. */
export const player = (job) => {
  const outputs = (job.outputs ?? []).filter((output) => output.url);
  if (outputs.length === 0) return undefined;
  const video = h("video", { controls: true, playsinline: true, preload: "metadata", poster: job.poster?.url });
  const choice = h("select", { "aria-label": "Quality" });
  const note = h("span", { class: "quiet small", role: "status" });
  const box = h("div", {}, video, job.storyboard?.imageUrl && seekBar(video, job.storyboard), h("div", { class: "row" }, h("span", {}, "Quality"), choice, note));
  const entry = job.entries?.find(({ kind, url }) => kind === "hls" && url);
  const playlists = entry ? [{ quality: "auto", url: entry.url }] : outputs.filter(isPlaylist);
  let stop = () => {};
  if ((entry || playlists.length === outputs.length) && Hls.isSupported()) {
    stop = adaptive(video, choice, note, playlists);
  } else {
    stop = files(video, choice, outputs);
  }
  return { box, stop: () => { stop(); video.removeAttribute("src"); video.load(); } };
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
  video.addEventListener("durationchange", () => {
    if (Number.isFinite(video.duration)) bar.max = video.duration;
    tell();
  });
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

/** Playlists. One with several renditions lets the player choose, or the viewer. */
const adaptive = (video, choice, note, lists) => {
  const hls = new Hls({ capLevelToPlayerSize: false, enableWorker: false });
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
