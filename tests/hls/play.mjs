// Plays FOLDER/master.m3u8 in Chromium, as `node play.mjs FOLDER`: with Shaka Player, at normal speed and in trick play, and
// with hls.js, of which the page's own copy shows single I-frames; then FOLDER/manifest.mpd with Shaka Player, to its end.
// Prints as JSON what the players make of each.
import { createReadStream, statSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { extname, join, normalize } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import assert from "node:assert/strict";

const require = createRequire(`${process.env.NODE_MODULES}/`);
const { chromium } = (await import(pathToFileURL(require.resolve("playwright-core")))).default;
const [folder] = process.argv.slice(2);
const PATIENCE = 120_000;

const scripts = {
  "/shaka.js": require.resolve("shaka-player/dist/shaka-player.compiled.js"),
  "/hls.mjs": fileURLToPath(new URL("../../web/vendor/hls.min.mjs", import.meta.url)),
};
const types = { ".m3u8": "application/vnd.apple.mpegurl", ".mpd": "application/dash+xml", ".mp4": "video/mp4", ".m4s": "video/iso.segment", ".js": "text/javascript", ".mjs": "text/javascript" };
/** What was asked for: path and, where there was one, range. */
const requests = [];

const server = createServer((request, response) => {
  const { pathname } = new URL(request.url, "http://localhost");
  if (pathname === "/") {
    response.writeHead(200, { "content-type": "text/html" });
    response.end("<!doctype html><video id=film muted></video><video id=stills muted></video><script src=/shaka.js></script><script src=/within.js></script>");
    return;
  }
  if (pathname === "/within.js") {
    response.writeHead(200, { "content-type": types[".js"] });
    // What does not come in time fails, and says what it was.
    response.end(`within = (what, promise) => Promise.race([promise, new Promise((_, fail) =>
      setTimeout(() => fail(new Error(what + " took longer than a minute")), 60_000))]);`);
    return;
  }
  const path = scripts[pathname] ?? join(folder, normalize(pathname));
  const size = statSync(path, { throwIfNoEntry: false })?.size;
  if (size === undefined) {
    response.writeHead(404).end();
    return;
  }
  requests.push({ path: pathname, range: request.headers.range });
  const [, from, to] = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? "") ?? [];
  const [start, end] = [Number(from ?? 0), Math.min(Number(to || size - 1), size - 1)];
  const headers = { "content-type": types[extname(path)] ?? "application/octet-stream", "content-length": end - start + 1 };
  if (from !== undefined) headers["content-range"] = `bytes ${start}-${end}/${size}`;
  response.writeHead(from === undefined ? 200 : 206, headers);
  createReadStream(path, { start, end }).pipe(response);
});
await new Promise((done) => server.listen(0, "127.0.0.1", done));

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required"],
});
try {
  const page = await browser.newPage();
  page.setDefaultTimeout(PATIENCE);
  const complaints = [];
  page.on("pageerror", (error) => complaints.push(String(error)));
  await page.goto(`http://127.0.0.1:${server.address().port}/`);

  const played = await page.evaluate(async () => {
    const video = document.getElementById("film");
    const player = new shaka.Player();
    await player.attach(video);
    const errors = [];
    player.addEventListener("error", ({ detail }) => errors.push(`${detail.code}: ${detail.message}`));
    const until = (what, holds) => within(what, new Promise((done) => {
      const look = () => { if (errors.length > 0 || holds()) done(); else video.requestVideoFrameCallback(look); };
      look();
    }));
    await player.load("/master.m3u8");
    const tracks = player.getVariantTracks().map(({ width, height, bandwidth, frameRate, language, label, channelsCount, codecs }) =>
      ({ width, height, bandwidth, frameRate, language, label, channelsCount, codecs }));
    await video.play();
    await until("playing", () => video.currentTime > 0.5);
    const normal = video.currentTime;
    // Four times as fast, of I-frames alone.
    player.trickPlay(4, true);
    await until("trick play", () => video.currentTime > normal + 6);
    const fast = { from: normal, to: video.currentTime, width: video.videoWidth };
    player.cancelTrickPlay();
    await player.destroy();
    return { tracks, fast, errors };
  });
  assert.deepEqual(played.errors, []);
  assert.ok(requests.some(({ path, range }) => path.endsWith(".m4s") && range), "trick play fetched no byte range");

  requests.length = 0;
  const dash = await page.evaluate(async () => {
    const video = document.getElementById("film");
    const player = new shaka.Player();
    await player.attach(video);
    const errors = [];
    player.addEventListener("error", ({ detail }) => errors.push(`${detail.code}: ${detail.message}`));
    await player.load("/manifest.mpd");
    const tracks = player.getVariantTracks().map(({ width, height, frameRate, language, label, channelsCount, codecs }) =>
      ({ width, height, frameRate, language, label, channelsCount, codecs }));
    video.playbackRate = 4;
    await video.play();
    await within("playing the manifest", new Promise((done) => video.addEventListener("ended", done, { once: true })));
    const ended = { at: video.currentTime, of: video.duration, frames: video.getVideoPlaybackQuality().totalVideoFrames };
    const gaps = video.buffered.length - 1;
    await player.destroy();
    return { tracks, ended, gaps, errors };
  });
  assert.deepEqual(dash.errors, []);
  assert.equal(dash.gaps, 0, "there is a gap between segments");
  assert.ok(!requests.some(({ path }) => path.endsWith(".m3u8")), "DASH needs a playlist of HLS");

  requests.length = 0;
  const shown = await page.evaluate(async () => {
    const { default: Hls } = await import("/hls.mjs");
    const hls = new Hls({ enableWorker: false });
    const errors = [];
    const note = (_, { details, fatal, error }) => errors.push(`${details}${fatal ? ", fatal" : ""}: ${error?.message}`);
    hls.on(Hls.Events.ERROR, note);
    await within("parsing", new Promise((done) => { hls.once(Hls.Events.MANIFEST_PARSED, done); hls.loadSource("/master.m3u8"); }));
    const levels = hls.levels.map(({ width, height, bitrate, averageBitrate, frameRate, videoCodec, audioCodec }) =>
      ({ width, height, bitrate, averageBitrate, frameRate, videoCodec, audioCodec }));
    const audio = hls.audioTracks.map(({ name, lang, channels, default: isDefault, autoselect }) => ({ name, lang, channels, isDefault, autoselect }));
    const iframes = hls.iframeVariants.map(({ width, height, bitrate }) => ({ width, height, bitrate }));

    const stills = hls.createIFramePlayer();
    stills.on(Hls.Events.ERROR, note);
    const video = document.getElementById("stills");
    // What is asked for before that is not loaded.
    await within("attaching", new Promise((done) => { stills.once(Hls.Events.MEDIA_ATTACHED, done); stills.attachMedia(video); }));
    const canvas = document.createElement("canvas");
    const pictures = [];
    for (const time of [9, 1, 5]) {
      // `seeked` comes before the picture is composed; this does not. The I-frame is that of the segment of 4 s.
      const composed = new Promise((done) => {
        const look = (_, { mediaTime }) => {
          if (mediaTime <= time && mediaTime > time - 4.5) done(); else video.requestVideoFrameCallback(look);
        };
        video.requestVideoFrameCallback(look);
      });
      stills.loadMediaAt(time, { seekOnAppend: true });
      await within(`showing the I-frame at ${time} s`, composed);
      [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
      canvas.getContext("2d").drawImage(video, 0, 0);
      pictures.push(canvas.toDataURL());
    }
    const width = video.videoWidth;
    hls.destroy();
    return { levels, audio, iframes, width, distinct: new Set(pictures).size, pictures: pictures.length, errors };
  });
  assert.deepEqual(shown.errors, []);
  assert.equal(shown.distinct, shown.pictures, "hls.js shows one I-frame for another");
  const media = requests.filter(({ path }) => path.endsWith(".m4s"));
  assert.ok(media.length > 0 && media.every(({ range }) => range), `hls.js fetched whole segments: ${JSON.stringify(media)}`);
  assert.deepEqual(complaints, []);
  console.log(JSON.stringify({ shaka: played, dash, hls: shown }));
} finally {
  await browser.close();
  server.close();
}
