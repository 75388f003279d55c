// Numbers in words. Pure.

const digits = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** 1536 -> "1.5 KB" */
export const bytes = (n) => {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let at = 0;
  while (n >= 1000 && at < units.length - 1) {
    n /= 1000;
    at += 1;
  }
  return `${digits.format(n)} ${units[at]}`;
};

/** Bits a second -> "1,464 kbit/s" */
export const rate = (n) => (n >= 1e7 ? `${digits.format(n / 1e6)} Mbit/s` : `${whole.format(n / 1000)} kbit/s`);

/** Seconds -> "1 h 02 min", "3 min 20 s", "12.0 s" */
export const duration = (seconds) => {
  if (!Number.isFinite(seconds)) return "";
  const total = Math.round(seconds);
  const two = (n) => String(n).padStart(2, "0");
  if (total >= 3600) return `${Math.floor(total / 3600)} h ${two(Math.floor((total % 3600) / 60))} min`;
  if (total >= 60) return `${Math.floor(total / 60)} min ${two(total % 60)} s`;
  return `${digits.format(seconds)} s`;
};

/** Seconds -> "1:02:03", "2:03" */
export const clock = (seconds) => {
  const total = Math.floor(Number.isFinite(seconds) ? seconds : 0);
  const two = (n) => String(n).padStart(2, "0");
  const [h, m, s] = [Math.floor(total / 3600), Math.floor((total % 3600) / 60), total % 60];
  return h > 0 ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
};

/** Ranges of seconds -> "0:00 to 0:40, 2:20 to 2:28" */
export const ranges = (list) => list.map(({ start, end }) => `${clock(start)} to ${clock(end)}`).join(", ");

/** The state of a job in words. */
export const stateName = (state) => (state === "playable" ? "encoding, playable" : state);

/** What a job's file is called; in a web address it may be spelt with escapes. */
export const fileName = (job) => {
  try {
    return job.inputUrl ? decodeURIComponent(job.filename ?? "") : job.filename;
  } catch {
    return job.filename;
  }
};

/** How long ago, in words. */
export const ago = (date, now = Date.now()) => {
  const seconds = Math.max(0, (now - new Date(date).getTime()) / 1000);
  if (seconds < 5) return "just now";
  if (seconds < 90) return `${Math.round(seconds)} s ago`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h ago`;
  return `${Math.round(seconds / 86400)} days ago`;
};

/** Dollars, small ones too. */
export const dollars = (n) => `$${n < 0.01 ? n.toFixed(4) : n.toFixed(2)}`;

/** The speed of something that goes from one number to another: remembers the last few seconds. */
export class Pace {
  #seen = [];

  /** Takes a value down; answers how much comes in a second, once that can be told. */
  at(value, now = performance.now()) {
    const last = this.#seen.at(-1);
    if (last && value < last.value) this.#seen = [];
    this.#seen.push({ value, now });
    while (this.#seen.length > 2 && now - this.#seen[0].now > 5000) this.#seen.shift();
    const first = this.#seen[0];
    const seconds = (now - first.now) / 1000;
    return seconds > 0.2 ? (value - first.value) / seconds : undefined;
  }
}
