// Drives the page in Chromium as people do: `node page.mjs URL FILM HEAVY SHOTS`; HEAVY goes up in two parts. Exits with what went wrong; leaves
// screenshots. Prints figures as `name value unit`.
import { mkdirSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import assert from "node:assert/strict";
import { findings, launch, open as openPage, plays } from "./browser.mjs";

const [url, film, heavy, shots] = process.argv.slice(2);
mkdirSync(shots, { recursive: true });
const folder = mkdtempSync(join(tmpdir(), "tcoder-page-"));
const noFilm = join(folder, "letter.mp4");
writeFileSync(noFilm, "Dear all, this is a letter and no film.\n".repeat(100));

const browser = await launch();

const violations = [];
const check = async (page, where) => {
  for (const one of await findings(page)) violations.push(`${where}: ${one}`);
};

const open = (options) => openPage(browser, options);
const shot = (page, name) => page.screenshot({ path: join(shots, `${name}.png`), fullPage: true });
const card = (page, name) => page.locator("article.card", { hasText: name }).first();

/** Sends a file with the page as it stands; answers its card. */
const send = async (page, file) => {
  await page.locator("#file").setInputFiles(file);
  await page.getByRole("button", { name: "Start" }).click();
  const sent = card(page, file.split("/").at(-1));
  await sent.waitFor();
  return sent;
};

const choose = async (page, preset, qualities) => {
  await page.locator(`input[name=preset][value=${preset}]`).check();
  for (const box of await page.locator("input[name=quality]").all()) {
    await box.setChecked(qualities.includes(await box.inputValue()));
  }
};

/** Milliseconds until the page can be used, in a browser that has nothing of it: the middle of five. */
const interactive = async () => {
  const times = [];
  for (let n = 0; n < 5; n += 1) {
    const { context, page } = await open({ viewport: { width: 1280, height: 900 } });
    await page.goto(url);
    times.push(await page.evaluate(() => new Promise((done) => {
      const look = () => {
        const navigation = performance.getEntriesByType("navigation")[0];
        if (document.querySelector("button.main") && navigation.domComplete > 0) done(performance.now());
        else requestAnimationFrame(look);
      };
      look();
    })));
    await context.close();
  }
  return times.sort((a, b) => a - b)[2];
};

try {
  console.log(`page_interactive_ms ${(await interactive()).toFixed(1)} ms`);
  {
    const { context, page, wrong } = await open({ viewport: { width: 1280, height: 900 }, colorScheme: "light" });
    await page.goto(url);
    await page.getByRole("button", { name: "Start" }).waitFor();
    await shot(page, "1-start-desktop");
    await check(page, "start, light");

    // A film through the page; its upload and its encode are seen to move.
    await choose(page, "hls-adaptive", ["360p", "144p"]);
    // Every change is heard, however short it stands.
    await page.evaluate(() => {
      window.seen = new Set();
      const note = () => {
        for (const bar of document.querySelectorAll("article progress")) window.seen.add(`${bar.ariaLabel}: ${bar.value}`);
      };
      new MutationObserver(note).observe(document.body, { subtree: true, childList: true, attributeFilter: ["value"] });
    });
    const sent = await send(page, film);
    await sent.locator("video").waitFor();
    const seen = await page.evaluate(() => [...window.seen]);
    const encode = seen.filter((value) => value.startsWith("Encode"));
    assert.ok(encode.length >= 2, `the encode's progress does not move: ${seen.join(", ")}`);
    assert.ok(seen.some((value) => value.startsWith("Upload")), `no upload's progress is shown: ${seen.join(", ")}`);

    // It plays, and its quality can be switched.
    const video = sent.locator("video");
    const quality = sent.getByLabel("Quality");
    await quality.locator("option", { hasText: "144p" }).waitFor({ state: "attached" });
    await video.evaluate((node) => { node.muted = true; return node.play(); });
    await plays(video);
    await quality.selectOption({ label: "144p" });
    await video.evaluate((node) => { node.loop = true; });
    await plays(video, 144);
    await quality.selectOption({ label: "360p" });
    await plays(video, 360);
    // The seek bar shows what is on at a place before one goes there, by mouse and by keyboard.
    const seek = sent.getByRole("slider", { name: "Seek" });
    await seek.scrollIntoViewIfNeeded();
    const { x, y, width, height } = await seek.boundingBox();
    await page.mouse.move(x + width * 0.6, y + height / 2);
    const still = sent.locator(".still");
    await still.waitFor();
    const picture = await still.evaluate(async (node) => {
      const image = new Image();
      image.src = getComputedStyle(node).backgroundImage.slice(5, -2);
      await image.decode();
      return [image.naturalWidth % node.clientWidth, image.naturalHeight % node.clientHeight, node.ariaLabel];
    });
    assert.deepEqual(picture.slice(0, 2), [0, 0], `the still is cut wrong: ${picture}`);
    await shot(page, "8-seek-desktop");
    await video.evaluate((node) => node.pause());
    await seek.focus();
    await page.keyboard.press("Home");
    await page.keyboard.press("ArrowRight");
    await page.waitForFunction((node) => node.currentTime < 0.5, await video.elementHandle());
    await page.mouse.move(0, 0);
    await sent.getByRole("link", { name: "Poster" }).waitFor();
    assert.ok(await video.evaluate((node) => node.poster.includes("poster.jpg")));
    await sent.getByText("Master playlist").waitFor();
    await sent.getByRole("img", { name: /The ladder/ }).waitFor();
    await shot(page, "2-done-desktop");
    await check(page, "a job that is done, light");

    // One that fails says why; one that runs is called off.
    await choose(page, "web-optimized", ["360p"]);
    const failed = await send(page, noFilm);
    await failed.getByText("It failed:").waitFor();
    await failed.getByRole("button", { name: "Retry" }).waitFor();
    await choose(page, "web-optimized", ["1080p"]);
    await page.locator("article.card").first().getByRole("button", { name: "Close" }).click();
    const copy = join(folder, "to-cancel.mp4");
    writeFileSync(copy, readFileSync(film));
    const cancelled = await send(page, copy);
    await cancelled.getByRole("button", { name: "Cancel" }).click();
    await cancelled.getByText("Cancelled").waitFor();
    await page.locator("#filter").selectOption("cancelled");
    await page.locator("section", { hasText: "History" }).getByText("to-cancel.mp4").first().waitFor();
    await page.locator("#filter").selectOption("failed");
    await page.locator("section", { hasText: "History" }).getByText("letter.mp4").first().waitFor();
    await shot(page, "3-cancelled-desktop");

    // Whoever runs it sees the queue, the machines and the failure; pauses and resumes the fleet.
    await page.getByRole("link", { name: "Operation" }).click();
    await page.getByRole("img", { name: /Machines over time/ }).waitFor();
    await page.getByRole("region", { name: "Failed jobs" }).waitFor();
    page.on("dialog", (dialog) => dialog.accept());
    await page.getByRole("button", { name: "Pause the fleet" }).click();
    await page.getByText(/^Paused/).waitFor();
    await shot(page, "4-operation-paused-desktop");
    await page.getByRole("button", { name: "Resume the fleet" }).click();
    await page.getByRole("button", { name: "Pause the fleet" }).waitFor();
    await shot(page, "5-operation-desktop");
    await check(page, "operation, light");

    // What can be asked of the API, from its contract.
    await page.getByRole("link", { name: "API" }).click();
    await page.getByRole("heading", { name: "GET /api/jobs/{id}", exact: true }).waitFor();
    await page.getByRole("link", { name: "POST /api/upload" }).click();
    const upload = page.getByRole("region", { name: /^POST .api.upload$/ });
    await upload.getByRole("cell", { name: "outputQualities" }).waitFor();
    await upload.getByRole("link", { name: "UploadResponse" }).first().click();
    await page.getByRole("region", { name: "UploadResponse" }).getByRole("cell", { name: "uploadUrl" }).waitFor();
    await shot(page, "10-reference-desktop");
    await check(page, "the reference, light");

    // With the keyboard alone: the first stop leads past the head, the views are links.
    await page.goto(url);
    await page.keyboard.press("Tab");
    assert.equal(await page.evaluate(() => document.activeElement.textContent), "Skip to the content");
    await page.keyboard.press("Tab");
    await page.keyboard.press("Tab");
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { name: "Status" }).waitFor();
    // The job that failed is answered 403 or 404 nowhere; nothing else may stand in the console.
    assert.deepEqual(wrong, []);
    await context.close();
  }
  {
    const { context, page, wrong } = await open({ viewport: { width: 360, height: 740 }, colorScheme: "dark" });
    await page.goto(url);
    await page.getByRole("button", { name: "Start" }).waitFor();
    await choose(page, "web-optimized", ["240p", "144p"]);
    const sent = await send(page, film);
    const video = sent.locator("video");
    await video.waitFor();
    await sent.getByRole("link", { name: "Download" }).first().waitFor();
    // A file plays, too, and another quality goes on where the one before stood.
    await video.evaluate(async (node) => { node.muted = true; node.loop = true; await node.play(); });
    await plays(video, 240);
    await sent.getByLabel("Quality").selectOption({ label: "144p" });
    await plays(video, 144);
    const wide = await page.evaluate(() => document.documentElement.scrollWidth);
    assert.ok(wide <= 360, `the page is ${wide} wide on a phone`);
    await shot(page, "6-done-phone-dark");
    await check(page, "a job that is done, phone, dark");
    await page.getByRole("link", { name: "Operation" }).click();
    await page.getByRole("img", { name: /Machines over time/ }).waitFor();
    await shot(page, "7-operation-phone-dark");
    await check(page, "operation, phone, dark");
    assert.ok(await page.evaluate(() => document.documentElement.scrollWidth) <= 360);
    assert.deepEqual(wrong, []);
    await context.close();
  }
  {
    // A large file goes up in parts. The line breaks, the page is closed, and what was sent is not sent again.
    const { context, page } = await open({ viewport: { width: 1280, height: 900 } });
    const parts = [];
    page.on("request", (request) => {
      const part = /[?&]partNumber=(\d+)/.exec(request.url());
      if (part && request.method() === "PUT") parts.push(part[1]);
    });
    await page.goto(url);
    await page.getByRole("button", { name: "Start" }).waitFor();
    await page.route(/partNumber=2&/, (route) => route.abort());
    await choose(page, "web-optimized", ["144p"]);
    const broken = await send(page, heavy);
    await broken.getByText("The parts that were sent are kept").waitFor();
    assert.ok(parts.includes("1") && parts.filter((n) => n === "2").length === 5, `${parts}`);
    await shot(page, "9-broken-upload-desktop");
    await check(page, "a broken upload");
    await page.reload();
    await page.unroute(/partNumber=2&/);
    parts.length = 0;
    await choose(page, "web-optimized", ["144p"]);
    // Where there is no feed of a job's changes, it is asked for.
    let refused = 0;
    await page.route(/\/events$/, (route) => { refused += 1; return route.abort(); });
    const sent = await send(page, heavy);
    await sent.locator("video").waitFor();
    assert.ok(refused > 0, "nobody asked for the feed");
    assert.deepEqual(parts, ["2"], "only what was missing is sent");
    assert.deepEqual(await page.evaluate(() => Object.keys(localStorage)), [], "nothing is kept of what is done");
    await context.close();
  }
  console.log(`page_axe_violations ${violations.length} violations`);
  assert.deepEqual(violations, []);
} finally {
  await browser.close();
}
