// Plays a job whose HLS lies in a private bucket: `node private.mjs URL TOKEN JOB HEIGHT...`, the heights of its
// renditions, each of which is switched to. Exits with what went wrong.
import assert from "node:assert/strict";
import { PATIENCE, launch, plays } from "./browser.mjs";

const [url, token, job, ...heights] = process.argv.slice(2);
const browser = await launch();
try {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 } });
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE);
  const [wrong, answers] = [[], []];
  page.on("console", (message) => { if (message.type() === "error") wrong.push(message.text()); });
  page.on("pageerror", (error) => wrong.push(String(error)));
  page.on("response", (answer) => answers.push({ status: answer.status(), url: answer.url() }));

  await page.goto(url);
  await page.locator("#token").fill(token);
  await page.getByRole("button", { name: "Go on" }).click();
  const history = page.locator("section", { hasText: "History" });
  await history.getByRole("button", { name: "Open" }).first().click();
  const card = page.locator(`#job-${job}`);
  const video = card.locator("video");
  await video.waitFor();
  const quality = card.getByLabel("Quality");
  await quality.locator("option", { hasText: `${heights[0]}p` }).waitFor({ state: "attached" });
  await video.evaluate((node) => { node.muted = true; node.loop = true; return node.play(); });
  await plays(video);
  for (const height of heights) {
    await quality.selectOption({ label: `${height}p` });
    await plays(video, Number(height));
  }

  // The playlists came from the API, the segments by a redirect from storage, signed for each.
  const media = answers.filter((answer) => answer.url.startsWith(`${url}/media/`));
  const playlists = media.filter((answer) => answer.url.endsWith(".m3u8"));
  assert.ok(playlists.length >= 3 && playlists.every(({ status }) => status === 200), JSON.stringify(playlists));
  const redirects = media.filter(({ status }) => status === 307);
  assert.ok(redirects.length >= 4, JSON.stringify(media));
  const signed = answers.filter((answer) => answer.url.includes("X-Amz-Signature=") && /\.(m4s|mp4|ts)\?/.test(answer.url));
  assert.ok(signed.length >= 4 && signed.every(({ status }) => status === 200 || status === 206), JSON.stringify(signed));
  // Before the token was given, the first answer was 401.
  assert.deepEqual(wrong.filter((text) => !text.includes("401")), []);
} finally {
  await browser.close();
}
