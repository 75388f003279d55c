// Drives the page in Chromium as people do: `node page.mjs URL FILM SHOTS`. Exits with what went wrong; leaves
// screenshots. Prints figures as `name value unit`.
import { mkdirSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import assert from "node:assert/strict";

const require = createRequire(`${process.env.PAGE_MODULES}/`);
const { chromium } = (await import(pathToFileURL(require.resolve("playwright-core")))).default;
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

const [url, film, shots] = process.argv.slice(2);
mkdirSync(shots, { recursive: true });
const PATIENCE = 120_000;
const folder = mkdtempSync(join(tmpdir(), "tcoder-page-"));
const noFilm = join(folder, "letter.mp4");
writeFileSync(noFilm, "Dear all, this is a letter and no film.\n".repeat(100));

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required"],
});

const violations = [];
/** What axe-core finds. Its script may not run under the page's own policy, so it is handed in from outside. */
const check = async (page, where) => {
  await page.evaluate(axe);
  const { violations: found } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  for (const one of found) violations.push(`${where}: ${one.id}: ${one.help}: ${one.nodes.map((node) => node.html).join(" ")}`);
};

const open = async (options) => {
  const context = await browser.newContext({ bypassCSP: false, reducedMotion: "reduce", ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE);
  const wrong = [];
  page.on("console", (message) => { if (message.type() === "error") wrong.push(message.text()); });
  page.on("pageerror", (error) => wrong.push(String(error)));
  return { context, page, wrong };
};

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

try {
  {
    const { context, page, wrong } = await open({ viewport: { width: 1280, height: 900 }, colorScheme: "light" });
    await page.goto(url);
    const ready = await page.evaluate(() => new Promise((done) => {
      const look = () => {
        const navigation = performance.getEntriesByType("navigation")[0];
        if (document.querySelector("button.main") && navigation.domComplete > 0) done(performance.now());
        else requestAnimationFrame(look);
      };
      look();
    }));
    console.log(`page_interactive_ms ${ready.toFixed(1)} ms`);
    await shot(page, "1-start-desktop");
    await check(page, "start, light");

    // A film through the page; its upload and its encode are seen to move.
    await choose(page, "hls-adaptive", ["360p", "144p"]);
    const sent = await send(page, film);
    const seen = await page.evaluate(() => new Promise((done) => {
      const values = new Set();
      const look = () => {
        for (const bar of document.querySelectorAll("article progress")) values.add(`${bar.ariaLabel}: ${bar.value}`);
        if (document.querySelector("article video")) done([...values]);
        else requestAnimationFrame(look);
      };
      look();
    }));
    const encode = seen.filter((value) => value.startsWith("Encode"));
    assert.ok(encode.length >= 2, `the encode's progress does not move: ${seen.join(", ")}`);
    assert.ok(seen.some((value) => value.startsWith("Upload")), `no upload's progress is shown: ${seen.join(", ")}`);

    // It plays, and its quality can be switched.
    const video = sent.locator("video");
    const quality = sent.getByLabel("Quality");
    await quality.locator("option", { hasText: "144p" }).waitFor({ state: "attached" });
    await video.evaluate((node) => { node.muted = true; return node.play(); });
    const plays = (height) => video.evaluate((node, height) => new Promise((done) => {
      const from = node.currentTime;
      const look = () => {
        if (node.currentTime > from + 0.3 && (!height || node.videoHeight === height)) done(node.videoHeight);
        else requestAnimationFrame(look);
      };
      look();
    }), height);
    await plays();
    await quality.selectOption({ label: "144p" });
    await video.evaluate((node) => { node.loop = true; });
    await plays(144);
    await quality.selectOption({ label: "360p" });
    await plays(360);
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

    // With the keyboard alone: the first stop leads past the head, the views are links.
    await page.goto(url);
    await page.keyboard.press("Tab");
    assert.equal(await page.evaluate(() => document.activeElement.textContent), "Skip to the content");
    await page.keyboard.press("Tab");
    await page.keyboard.press("Tab");
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { name: "How the installation is doing" }).waitFor();
    // The job that failed is answered 403 or 404 nowhere; nothing else may stand in the console.
    assert.deepEqual(wrong, []);
    await context.close();
  }
  {
    const { context, page, wrong } = await open({ viewport: { width: 360, height: 740 }, colorScheme: "dark" });
    await page.goto(url);
    await page.getByRole("button", { name: "Start" }).waitFor();
    await choose(page, "web-optimized", ["144p"]);
    const sent = await send(page, film);
    await sent.locator("video").waitFor();
    await sent.getByRole("link", { name: "Download" }).waitFor();
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
  console.log(`page_axe_violations ${violations.length} violations`);
  assert.deepEqual(violations, []);
} finally {
  await browser.close();
}
