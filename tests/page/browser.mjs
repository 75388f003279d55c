// Chromium as the tests use it, and what it shows.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

// The packages lie in the user's cache (hack/npm.sh).
export const require = createRequire(`${process.env.NODE_MODULES}/`);
const { chromium } = (await import(pathToFileURL(require.resolve("playwright-core")))).default;

export const PATIENCE = 120_000;

export const launch = () => chromium.launch({
  executablePath: process.env.CHROMIUM,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required"],
});

/** Waits until a video has gone on for some time, and shows a picture of this height where one is given. */
export const plays = (video, height) => video.evaluate((node, height) => new Promise((done) => {
  const from = node.currentTime;
  const look = () => {
    if (node.currentTime > from + 0.3 && (!height || node.videoHeight === height)) done(node.videoHeight);
    else requestAnimationFrame(look);
  };
  look();
}), height);
