// Pictures made of numbers.

import { s } from "./dom.js";
import { rate } from "./format.js";

/** The ladder: each rendition's frame to scale inside the source's, and its bitrate as a bar. */
export const ladder = (source, outputs) => {
  const sorted = [...outputs].sort((a, b) => b.width * b.height - a.width * a.height);
  const frames = [{ name: "source", ...source?.video }, ...sorted.map((o) => ({ name: o.quality, ...o }))]
    .filter((frame) => frame.width > 0);
  if (frames.length === 0) return undefined;
  const [widest, tallest] = [Math.max(...frames.map((f) => f.width)), Math.max(...frames.map((f) => f.height))];
  const scale = Math.min(200 / widest, 120 / tallest);
  const most = Math.max(1, ...sorted.map((o) => o.bitrate));
  const height = Math.max(tallest * scale + 24, sorted.length * 34 + 12);
  const words = sorted.map((o) => `${o.quality}: ${o.width} by ${o.height}, ${rate(o.bitrate)}`).join("; ");
  return s("svg", { viewBox: `0 0 560 ${height}`, role: "img", "aria-label": `The ladder. ${words}` },
    frames.map((frame) => s("rect", {
      class: "frame", x: 4, y: 4, width: frame.width * scale, height: frame.height * scale,
      "stroke-dasharray": frame.name === "source" ? "4 3" : undefined,
    })),
    s("text", { class: "quiet-text", x: 4, y: tallest * scale + 18 }, "dashed: the source"),
    sorted.map((o, n) => {
      const y = 6 + n * 34;
      const width = Math.max(3, (o.bitrate / most) * 130);
      return [
        s("text", { x: 230, y: y + 16 }, o.quality),
        s("rect", { class: "bar", x: 285, y: y + 4, width, height: 16, rx: 3 }),
        s("text", { class: "quiet-text", x: 292 + width, y: y + 16 }, rate(o.bitrate)),
      ];
    }));
};

/** Ranges of a video of this many seconds, and a mark at one place. It is as wide as the element that contains it. */
export const rangesBar = (ranges, seconds, place) =>
  s("svg", { viewBox: `0 0 ${seconds} 10`, preserveAspectRatio: "none" },
    s("rect", { class: "rest", width: seconds, height: 10 }),
    ranges.map(({ start, end }) => s("rect", { class: "bar", x: start, width: Math.max(0, end - start), height: 10 })),
    s("line", { class: "place", x1: place, x2: place, y1: 0, y2: 10 }));

const line = (points) => points.map(([x, y], n) => `${n === 0 ? "M" : "L"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

/** Wanted and actual machines, and the queue, over the time the page has been open. */
export const fleetChart = (samples, seconds) => {
  const [width, height, left, bottom] = [640, 200, 28, 22];
  const now = samples.at(-1)?.at ?? 0;
  const top = Math.max(2, ...samples.flatMap((p) => [p.wanted, p.running, p.queue]));
  const x = (at) => width - 8 - ((now - at) / (seconds * 1000)) * (width - left - 8);
  const y = (n) => height - bottom - (n / top) * (height - bottom - 10);
  const shown = samples.filter((p) => now - p.at <= seconds * 1000);
  const path = (of, name) => s("path", { class: name, d: line(shown.map((p) => [x(p.at), y(of(p))])) });
  const last = shown.at(-1);
  const words = last
    ? `Machines over time. Now ${last.running} are running, ${last.wanted} are desired, ${last.queue} jobs are waiting.`
    : "Machines over time: no data yet.";
  return s("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": words },
    [0, Math.ceil(top / 2), top].map((n) => [
      s("line", { class: "axis", x1: left, x2: width - 8, y1: y(n), y2: y(n) }),
      s("text", { class: "quiet-text", x: 4, y: y(n) + 4 }, n),
    ]),
    s("text", { class: "quiet-text", x: left, y: height - 4 }, seconds < 120 ? `${Math.round(seconds)} s ago` : `${Math.round(seconds / 60)} min ago`),
    s("text", { class: "quiet-text", x: width - 34, y: height - 4 }, "now"),
    path((p) => p.queue, "queue"), path((p) => p.wanted, "want"), path((p) => p.running, "have"));
};

/** What each machine did over the time the page has been open: a strip a machine. */
export const machineStrips = (samples, seconds, names) => {
  const [width, row, left] = [640, 22, 150];
  const now = samples.at(-1)?.at ?? 0;
  const x = (at) => Math.max(left, width - 8 - ((now - at) / (seconds * 1000)) * (width - left - 8));
  const kind = (role) => (["busy", "idle", "booting"].includes(role) ? role : "rest");
  const strips = names.map((name, n) => {
    const y = n * row + 4;
    const pieces = samples.slice(0, -1).map((sample, i) => {
      const role = sample.machines[name];
      const [from, to] = [x(sample.at), x(samples[i + 1].at)];
      return role && to > from
        ? s("rect", { class: kind(role), x: from, y, width: Math.max(0.5, to - from), height: row - 8 })
        : undefined;
    });
    return [s("text", { x: 4, y: y + 11 }, name), pieces];
  });
  const words = names.map((name) => `${name} ${samples.at(-1)?.machines[name] ?? "gone"}`).join(", ");
  return s("svg", { viewBox: `0 0 ${width} ${names.length * row + 4}`, role: "img", "aria-label": `Machines: ${words}` }, strips);
};
