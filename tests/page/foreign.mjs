// A page of another site tries to use an API without tokens through the browser of its user: `node foreign.mjs URL OTHER`,
// the address of the API, and that of a server of the other site. Exits with what it could do.
import assert from "node:assert/strict";
import { launch, open } from "./browser.mjs";

const [url, other] = process.argv.slice(2).map((text) => new URL(text));
// The site has its name resolve to this machine, as in DNS rebinding.
const browser = await launch("--host-resolver-rules=MAP evil.example 127.0.0.1");
try {
  const { page } = await open(browser);
  const answers = [];
  page.on("response", (answer) => answers.push({
    method: answer.request().method(), path: new URL(answer.url()).pathname, status: answer.status(),
  }));
  const created = () => answers.filter(({ method, path }) => method === "POST" && path === "/api/jobs");

  // Requests that a browser sends without asking the server first.
  await page.goto(`http://evil.example:${other.port}/`);
  const job = JSON.stringify({ inputUrl: "https://evil.example/drive-by.mp4" });
  const send = (body, type) => page.evaluate(async ([api, job, type]) => {
    const body = type === null ? new TextEncoder().encode(job) : new Blob([job], { type });
    await fetch(`${api}api/jobs`, { method: "POST", mode: "no-cors", body });
  }, [url.href, body, type]);
  await send(job, null);
  await send(job, "text/plain");
  // A form needs no body for some routes.
  await Promise.all([
    page.waitForNavigation(),
    page.evaluate((api) => {
      const form = document.createElement("form");
      Object.assign(form, { method: "post", action: `${api}api/fleet/pause` });
      document.body.append(form);
      form.submit();
    }, url.href),
  ]);
  assert.deepEqual(created().map(({ status }) => status), [403, 403]);
  const paused = answers.filter(({ path }) => path === "/api/fleet/pause");
  assert.deepEqual(paused.map(({ status }) => status), [403]);

  // By its own name for the API's address, the page is of the same origin as the API.
  const rebound = await page.goto(`http://evil.example:${url.port}/`);
  assert.equal(rebound.status(), 403);
  const read = await page.evaluate(async () => {
    const answer = await fetch("/api/jobs");
    const made = await fetch("/api/jobs", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: '{"inputKey":"drive-by.mp4"}',
    });
    return { status: answer.status, made: made.status, text: await answer.text() };
  });
  assert.deepEqual([read.status, read.made], [403, 403]);
  assert.ok(!read.text.includes("jobId"), read.text);
} finally {
  await browser.close();
}
