// Chromium as the tests use it, and what it shows.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

// The packages lie in the user's cache (hack/npm.sh).
const require = createRequire(`${process.env.NODE_MODULES}/`);
const { chromium } = (await import(pathToFileURL(require.resolve("playwright-core")))).default;

export const PATIENCE = 120_000;

export const launch = (...options) => chromium.launch({
  executablePath: process.env.CHROMIUM,
  args: [...options, "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required"],
});

/** A page of a new user, and the errors that its console shows from now on. */
export const open = async (browser, options) => {
  const context = await browser.newContext({ bypassCSP: false, reducedMotion: "reduce", ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE);
  const wrong = [];
  page.on("console", (message) => { if (message.type() === "error") wrong.push(message.text()); });
  page.on("pageerror", (error) => wrong.push(String(error)));
  return { context, page, wrong };
};

const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

/** What axe-core finds. Its script may not run under the page's own policy, so it is handed in from outside. */
export const findings = async (page) => {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  return violations.map((one) => `${one.id}: ${one.help}: ${one.nodes.map((node) => node.html).join(" ")}`);
};

/** Waits until a video has gone on for some time, and shows a picture of this height where one is given. */
export const plays = (video, height) => video.evaluate((node, height) => new Promise((done) => {
  const from = node.currentTime;
  const look = () => {
    if (node.currentTime > from + 0.3 && (!height || node.videoHeight === height)) done(node.videoHeight);
    else requestAnimationFrame(look);
  };
  look();
}), height);
