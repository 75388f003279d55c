// Sends a video with the page, and plays it as soon as it is shown: `node first_frame.mjs URL FILM [SEEK]`. Prints the
// milliseconds from the end of the upload to the first frame; where SEEK is given, also from a seek to the end of the
// video to the first frame there. Cancels the job afterwards. Exits with what went wrong.
import { basename } from "node:path";
import { launch, open } from "./browser.mjs";

const [url, film, seek] = process.argv.slice(2);
const QUALITIES = ["720p", "360p", "144p"];
/** How long before the end of the video the seek goes, seconds. */
const BEFORE_END = 18;

/** Notes when the last request of the upload has ended, and when a video shows its first frame, and starts each video. */
const observe = () => {
  const { open } = XMLHttpRequest.prototype;
  XMLHttpRequest.prototype.open = function observed(method, ...more) {
    // Only uploads send something; the player only gets.
    if (method !== "GET") this.addEventListener("load", () => { window.uploadedAt = performance.now(); });
    return open.call(this, method, ...more);
  };
  const seen = new WeakSet();
  new MutationObserver(() => {
    for (const video of document.querySelectorAll("video")) {
      if (seen.has(video)) continue;
      seen.add(video);
      video.requestVideoFrameCallback((now) => { window.firstFrameAt ??= now; });
      video.muted = true;
      video.scrollIntoView();
      video.play().catch(() => {});
    }
  }).observe(document, { childList: true, subtree: true });
};

/** Milliseconds from the seek to the first frame there. */
const sought = (video, before) => new Promise((done) => {
  const to = video.duration - before;
  const began = performance.now();
  const look = (now, { mediaTime }) => {
    if (mediaTime > to - 1) done(now - began);
    else video.requestVideoFrameCallback(look);
  };
  video.requestVideoFrameCallback(look);
  video.currentTime = to;
});

const browser = await launch();
try {
  const { context, page, wrong } = await open(browser, { viewport: { width: 1280, height: 900 }, colorScheme: "light" });
  await context.addInitScript(observe);
  await page.goto(url);
  for (const quality of QUALITIES) await page.locator(`input[name=quality][value="${quality}"]`).check();
  await page.locator("#file").setInputFiles(film);
  await page.getByRole("button", { name: "Start" }).click();
  const card = page.locator("article.card", { hasText: basename(film) });
  await card.waitFor();
  const job = (await card.getAttribute("id")).replace("job-", "");
  await page.waitForFunction(() => window.firstFrameAt !== undefined);
  console.log(`first_play_ms ${await page.evaluate(() => window.firstFrameAt - window.uploadedAt)}`);
  if (seek) console.log(`seek_ahead_ms ${await card.locator("video").evaluate(sought, BEFORE_END)}`);
  // A job that has ended meanwhile cannot be cancelled.
  await fetch(`${url}/api/jobs/${job}`, { method: "DELETE" });
  // A segment that is not encoded yet is answered 503, and asked for again.
  const others = wrong.filter((text) => !text.includes("503"));
  if (others.length > 0) throw new Error(others.join("\n"));
} finally {
  await browser.close();
}
