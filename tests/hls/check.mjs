// Holds HLS output to RFC 8216, with parsers that others wrote: `node check.mjs FOLDER...`. A folder has a master playlist
// named master.m3u8, or a media playlist index.m3u8 in each of its folders. A DASH manifest beside a master playlist must name
// the same segments, and say the same of them. Prints what each master playlist says as a line of JSON; says what is wrong
// and exits with 1.
import { readdirSync, readFileSync, statSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";

const require = createRequire(`${process.env.NODE_MODULES}/`);
const HLS = require("hls-parser");
const { Parser } = require("m3u8-parser");
const { parse: parseDash } = require("mpd-parser");
// Throws at whatever the RFC forbids, a version too low for what is used among it.
HLS.setOptions({ strictMode: true, silent: true });

const wrong = [];
const check = (holds, what) => { if (!holds) wrong.push(what); };

const parse = (path) => {
  const text = readFileSync(path, "utf8");
  // A second opinion.
  const parser = new Parser();
  for (const event of ["warn", "error"]) parser.on(event, ({ message }) => wrong.push(`${path}: m3u8-parser: ${message}`));
  parser.push(text);
  parser.end();
  try {
    return { text, playlist: HLS.parse(text), manifest: parser.manifest };
  } catch (error) {
    throw new Error(`${path}: ${error.message}`, { cause: error });
  }
};

/** Peak and average segment bit rate as RFC 8216, 4.1 has them, from the files themselves: every run of segments is tried. */
const bitRates = (path, { segments, targetDuration }) => {
  const measured = segments.map(({ uri, byterange, duration }) => ({
    bits: 8 * (byterange ? byterange.length : statSync(join(dirname(path), uri)).size),
    us: Math.round(duration * 1e6),
  }));
  const rate = (run) => {
    const us = run.reduce((sum, segment) => sum + segment.us, 0);
    return { us, rate: run.reduce((sum, segment) => sum + segment.bits, 0) * 1e6 / us };
  };
  const runs = measured.flatMap((_, from) => measured.slice(from).map((_, more) => rate(measured.slice(from, from + more + 1))));
  const counted = runs.filter(({ us }) => us >= targetDuration * 0.5e6 && us <= targetDuration * 1.5e6);
  // Where all together are too short for the definition, no segment may need more than is said.
  const rates = (counted.length > 0 ? counted : runs).map((run) => run.rate);
  return { peak: Math.max(...rates), average: rate(measured).rate };
};

/** A media playlist, checked, with its bit rates. */
const media = (path) => {
  const { text, playlist, manifest } = parse(path);
  check(!playlist.isMasterPlaylist && playlist.endlist && playlist.playlistType === "VOD", `${path}: no complete VOD media playlist`);
  check(manifest.segments.length === playlist.segments.length, `${path}: the parsers disagree`);
  for (const { uri, duration, byterange, map } of playlist.segments) {
    check(Math.round(duration) <= playlist.targetDuration, `${path}: ${duration} s are more than the target duration`);
    const file = join(dirname(path), uri);
    check(!map || statSync(join(dirname(path), map.uri)).size > 0, `${path}: an initialisation section is missing`);
    if (byterange) {
      const range = readFileSync(file).subarray(byterange.offset, byterange.offset + byterange.length);
      check(range.length === byterange.length, `${path}: a range reaches beyond the end of ${uri}`);
      check(range.subarray(4, 8).toString() === "moof", `${path}: a range of ${uri} begins with no movie fragment`);
    }
  }
  // 4.3.2.1: a comma follows the seconds.
  check(text.split("\n").every((line) => !line.startsWith("#EXTINF:") || /^#EXTINF:[0-9.]+,$/.test(line)), `${path}: an EXTINF is malformed`);
  return { playlist, ...bitRates(path, playlist) };
};

/** A figure must be that sum, rounded up. */
const isCeiling = (said, sum, what) => check(said >= sum - 1e-3 && said < sum + 1.001, `${what} is ${said}, measured ${sum.toFixed(1)}`);

const master = (folder) => {
  const path = join(folder, "master.m3u8");
  const { text, playlist, manifest } = parse(path);
  check(playlist.isMasterPlaylist, `${path}: no master playlist`);
  const said = { independent: playlist.independentSegments, version: playlist.version, variants: [], audio: [], iframes: [] };
  const at = (uri) => join(folder, uri);
  const renditions = new Map(playlist.variants.flatMap((variant) => variant.audio).map((rendition) => [rendition.uri, rendition]));
  const audio = [...renditions.values()].map((rendition) => {
    const { name, language, isDefault, autoselect, channels, uri } = rendition;
    said.audio.push({ name, language, isDefault, autoselect, channels, uri });
    return media(at(uri));
  });
  const most = (figure) => Math.max(0, ...audio.map((rendition) => rendition[figure]));
  check(new Set(said.audio.map(({ name }) => name)).size === said.audio.length, `${path}: two sounds have one name`);
  for (const { isIFrameOnly, uri, bandwidth, averageBandwidth, codecs, resolution, frameRate } of playlist.variants) {
    const { playlist: { isIFrame, segments }, peak, average } = media(at(uri));
    check(Boolean(isIFrame) === Boolean(isIFrameOnly), `${path}: ${uri} is not of the kind that it is named as`);
    const sound = (figure) => (isIFrameOnly ? 0 : most(figure));
    isCeiling(bandwidth, peak + sound("peak"), `${path}: BANDWIDTH of ${uri}`);
    isCeiling(averageBandwidth ?? NaN, average + sound("average"), `${path}: AVERAGE-BANDWIDTH of ${uri}`);
    const { width, height } = resolution ?? {};
    (isIFrameOnly ? said.iframes : said.variants).push({ uri, codecs, width, height, frameRate, segments: segments.length });
  }
  const variants = text.split("\n").filter((line) => line.startsWith("#EXT-X-STREAM-INF:"));
  check(variants.every((line) => line.includes(",CLOSED-CAPTIONS=NONE")), `${path}: CLOSED-CAPTIONS is not NONE`);
  check(manifest.playlists.length === said.variants.length, `${path}: the parsers disagree on the variants`);
  check(manifest.iFramePlaylists.length === said.iframes.length, `${path}: the parsers disagree on the I-frame playlists`);
  console.log(JSON.stringify(said));
};

/** The DASH manifest, by Video.js's parser, against the playlists that the master playlist leads to. */
const dash = (folder) => {
  const path = join(folder, "manifest.mpd");
  const text = readFileSync(path, "utf8");
  const eventHandler = ({ type, message }) => wrong.push(`${path}: mpd-parser: ${type}: ${message}`);
  const manifest = parseDash(text, { manifestUri: "http://localhost/", eventHandler });
  const { variants } = parse(join(folder, "master.m3u8")).playlist;
  const pictures = variants.filter(({ isIFrameOnly }) => !isIFrameOnly);
  const sounds = [...new Map(pictures.flatMap(({ audio }) => audio).map((sound) => [sound.uri, sound])).values()];
  const groups = Object.values(manifest.mediaGroups.AUDIO).flatMap((group) => Object.entries(group));
  check(manifest.playlists.length === pictures.length, `${path}: ${manifest.playlists.length} pictures instead of ${pictures.length}`);
  check(groups.length === sounds.length, `${path}: ${groups.length} sounds instead of ${sounds.length}`);
  /** The same segments, which last as long; `bandwidth` is the peak of the track alone. */
  const same = (uri, { segments, attributes }) => {
    const { playlist, peak } = media(join(folder, uri));
    const below = (name) => join(dirname(uri), name);
    const [said, wanted] = [segments.map((one) => [one.map.uri, one.uri]), playlist.segments.map((one) => [below(playlist.segments[0].map.uri), below(one.uri)])];
    check(JSON.stringify(said) === JSON.stringify(wanted), `${path}: ${said} instead of ${wanted}`);
    let end = 0;
    for (const [n, { duration, presentationTime }] of segments.entries()) {
      check(Math.abs(duration - playlist.segments[n].duration) < 0.05, `${path}: segment ${n} of ${uri} lasts ${duration} s instead of ${playlist.segments[n].duration}`);
      check(Math.abs(presentationTime - end) < 1e-6, `${path}: segment ${n} of ${uri} begins at ${presentationTime} s instead of ${end}`);
      end = presentationTime + duration;
    }
    check(Math.abs(end - manifest.duration) < 0.1, `${path}: ${uri} ends at ${end} s of ${manifest.duration}`);
    isCeiling(attributes.BANDWIDTH, peak, `${path}: bandwidth of ${uri}`);
  };
  for (const { uri, codecs, resolution, frameRate } of pictures) {
    const found = manifest.playlists.find(({ attributes: { NAME } }) => uri.startsWith(`${NAME}/`));
    if (!found) { wrong.push(`${path}: no ${uri}`); continue; }
    const { CODECS, RESOLUTION, "FRAME-RATE": rate } = found.attributes;
    check(codecs.split(",").includes(CODECS), `${path}: codecs ${CODECS} instead of ${codecs}`);
    check(JSON.stringify(RESOLUTION) === JSON.stringify(resolution), `${path}: resolution of ${uri}`);
    check(Math.abs(rate - frameRate) < 0.001, `${path}: frame rate ${rate} instead of ${frameRate}`);
    same(uri, found);
  }
  for (const [n, { uri, name, language, isDefault }] of sounds.entries()) {
    const [label, sound] = groups[n];
    check(label.startsWith(name) && sound.language === (language ?? "") && Boolean(sound.default) === isDefault, `${path}: sound ${label} (${sound.language}) instead of ${name} (${language})`);
    same(uri, sound.playlists[0]);
  }
  const named = text.match(/<Label>.*<\/Label>/g) ?? [];
  check(named.length === sounds.length, `${path}: labels ${named}`);
};

for (const folder of process.argv.slice(2)) {
  try {
    if (readdirSync(folder).includes("master.m3u8")) {
      master(folder);
      dash(folder);
    }
    else for (const name of readdirSync(folder)) media(join(folder, name, "index.m3u8"));
  } catch (error) {
    wrong.push(error.message);
  }
}
for (const line of wrong) console.error(line);
process.exit(wrong.length > 0 ? 1 : 0);
