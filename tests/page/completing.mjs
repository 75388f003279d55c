// Sends a video with the page, and plays it from when it is playable until after its job has ended: `node completing.mjs
// URL FILM SHOTS`; FILM is long enough to be encoded in parts. Exits with what went wrong; leaves screenshots.
import { mkdirSync } from "node:fs";
import { basename, join } from "node:path";
import assert from "node:assert/strict";
import { PATIENCE, launch, open, plays } from "./browser.mjs";

const [url, film, shots] = process.argv.slice(2);
mkdirSync(shots, { recursive: true });

const browser = await launch();
try {
  const { page, wrong } = await open(browser, { viewport: { width: 1280, height: 900 }, colorScheme: "light" });
  await page.goto(url);
  for (const quality of ["240p", "144p"]) await page.locator(`input[name=quality][value="${quality}"]`).check();
  await page.locator("#file").setInputFiles(film);
  await page.getByRole("button", { name: "Start" }).click();
  const card = page.locator("article.card", { hasText: basename(film) });
  await card.getByText(/^Playable already/).waitFor();
  const video = card.locator("video");
  // Slowly, so that it is not over before its job.
  await video.evaluate((node) => { node.muted = true; node.playbackRate = 0.5; return node.play(); });
  await plays(video);
  const player = await video.elementHandle();
  const heard = await player.evaluateHandle((node) => {
    const events = [];
    for (const name of ["emptied", "loadstart", "pause", "error"]) node.addEventListener(name, () => events.push(name));
    return events;
  });
  const before = await player.evaluate((node) => node.currentTime);

  // Chunks that nobody waits for leave the processor to others, so that their encode takes long on a busy machine.
  await card.getByRole("region", { name: "Outputs" }).waitFor({ timeout: 2 * PATIENCE });
  assert.equal(await card.getByText(/^Playable already/).count(), 0);
  assert.equal(await card.getByRole("img", { name: /^Encoded so far/ }).count(), 0);
  await plays(video);
  const after = await player.evaluate((node) => (node.isConnected ? node.currentTime : undefined));
  assert.ok(after > before, `it played at ${before} s before its job had ended, and at ${after} s afterwards`);
  assert.deepEqual(await heard.jsonValue(), []);

  // Now it has a seek bar with stills, which knows how long the video is and where it is.
  const seek = card.getByRole("slider", { name: "Seek" });
  assert.ok(await seek.evaluate((node) => Number(node.max) > 149 && Number(node.value) > 0));
  await page.screenshot({ path: join(shots, "6-completed-desktop.png"), fullPage: true });
  await player.evaluate((node) => { node.currentTime = 140; });
  await plays(video);

  await card.getByText(/^Encoded in .*, in \d+ parts, /).waitFor();

  // After a reload the finished video is played, in each quality.
  await page.reload();
  await page.getByRole("row", { name: basename(film) }).first().getByRole("button", { name: "Open" }).click();
  await video.evaluate((node) => { node.muted = true; return node.play(); });
  await plays(video);
  await card.getByLabel("Quality").selectOption({ label: "144p" });
  await plays(video, 144);
  assert.deepEqual(wrong.filter((text) => !text.includes("503")), []);
} finally {
  await browser.close();
}
