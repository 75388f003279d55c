// Plays a job while it is encoded, and cancels it: `node early.mjs URL JOB FILE SHOTS`. The job is playable and has 150 s,
// of which the part at 140 s is far from encoded; FILE is its name. Exits with what went wrong; leaves screenshots.
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import assert from "node:assert/strict";
import { findings, launch, open, plays } from "./browser.mjs";

const [url, job, file, shots] = process.argv.slice(2);
mkdirSync(shots, { recursive: true });

const status = async () => (await (await fetch(`${url}/api/jobs/${job}`)).json()).status;

const browser = await launch();
try {
  const { page, wrong } = await open(browser, { viewport: { width: 1280, height: 900 }, colorScheme: "light" });
  const shot = (name) => page.screenshot({ path: join(shots, `${name}.png`), fullPage: true });

  await page.goto(url);
  const history = page.locator("section", { hasText: "History" });
  await page.locator("#filter").selectOption("playable");
  const row = history.getByRole("row", { name: file });
  await row.getByText("encoding, playable").waitFor();
  await row.getByRole("button", { name: "Open" }).click();
  const card = page.locator(`#job-${job}`);
  const video = card.locator("video");
  await video.waitFor();

  // It plays from the beginning while the rest is encoded.
  await video.evaluate((node) => { node.muted = true; return node.play(); });
  await page.waitForFunction((node) => node.currentTime > 1, await video.elementHandle());
  assert.ok(await video.evaluate((node) => node.currentTime < 30), "it did not begin at the beginning");
  assert.equal(await status(), "playable");
  await card.getByText(/^Playable already; the rest is still being encoded \(\d+ %/).waitFor();
  const bar = card.getByRole("img", { name: /^Encoded so far: 0:00 to / });
  await bar.waitFor();
  await shot("1-playable-desktop");

  // A click far ahead of what is encoded: the page says what it waits for, and that part is encoded next.
  const { width, height } = await bar.boundingBox();
  await bar.click({ position: { x: (width * 140) / 150, y: height / 2 } });
  const wait = card.getByText("This part is being encoded next");
  await wait.waitFor();
  await shot("2-awaited-desktop");
  assert.deepEqual(await findings(page), []);
  await page.setViewportSize({ width: 360, height: 740 });
  await page.emulateMedia({ colorScheme: "dark" });
  assert.ok(await page.evaluate(() => document.documentElement.scrollWidth) <= 360, "the page is too wide for a phone");
  await shot("3-awaited-phone-dark");
  assert.deepEqual(await findings(page), []);
  await page.setViewportSize({ width: 1280, height: 900 });
  await page.emulateMedia({ colorScheme: "light" });
  await plays(video);
  const at = await video.evaluate((node) => node.currentTime);
  assert.ok(at > 139, `it plays at ${at} s`);
  await wait.waitFor({ state: "detached" });
  assert.equal(await status(), "playable");
  await card.getByRole("img", { name: /^Encoded so far: 0:00 to .*, .* to 2:[23]\d$/ }).waitFor();
  await shot("4-ahead-desktop");

  // The job is cancelled from elsewhere: the player goes, and the page says why.
  const answer = await fetch(`${url}/api/jobs/${job}`, { method: "DELETE" });
  assert.equal(answer.status, 200);
  await card.getByText("Cancelled").waitFor();
  await video.waitFor({ state: "detached" });
  await row.waitFor({ state: "detached" });
  await shot("5-cancelled-desktop");
  // A segment that is not encoded yet is answered 503, and asked for again.
  assert.deepEqual(wrong.filter((text) => !text.includes("503")), []);
} finally {
  await browser.close();
}
