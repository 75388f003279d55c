// Drives the original TCoder's client package, unchanged, against an API: `node client.mjs URL FILM [TOKEN]`. Prints
// what its calls answered as JSON: {done, failed, unknown}.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const require = createRequire(`${process.env.NODE_MODULES}/`);
const { build } = require("esbuild");
const [url, film, token] = process.argv.slice(2);

// It is published as TypeScript.
const folder = await mkdtemp(join(tmpdir(), "tcoder-client-"));
await build({
  stdin: {
    contents: `export * from "tcoder-client"; export { Effect, Schedule } from "effect";`,
    resolveDir: process.env.NODE_MODULES,
  },
  bundle: true, format: "esm", platform: "node", outfile: join(folder, "client.mjs"), logLevel: "error",
});
const { TcoderClient, Effect } = await import(pathToFileURL(join(folder, "client.mjs")));
await rm(folder, { recursive: true });

const client = new TcoderClient(token ? { baseUrl: url, options: { headers: { authorization: `Bearer ${token}` } } } : url);

/** As its README does it: upload, then poll to the end. */
const transcode = (blob, options) => Effect.runPromise(Effect.gen(function* () {
  const sent = yield* client.upload(blob, options);
  const seen = [];
  for (;;) {
    const status = yield* client.getStatus(sent.jobId);
    if (seen.at(-1) !== status.status) seen.push(status.status);
    if (status.status === "completed" || status.status === "failed") return { sent, seen, status };
    yield* Effect.sleep("200 millis");
  }
}));

const done = await transcode(new Blob([readFileSync(film)], { type: "video/mp4" }), {
  filename: "my film.mp4", contentType: "video/mp4", preset: "web-optimized", outputQualities: ["144p", "360p"],
});
const failed = await transcode(new Blob(["Dear all, this is no film."]), { filename: "letter.mp4" });
const unknown = await Effect.runPromise(Effect.flip(client.getStatus("01890a5d-ac96-774b-bcce-b302099a8057")));
const refused = await Effect.runPromise(Effect.flip(client.upload(new Blob([]), { filename: "a.mp4", preset: "HLS" })));
const words = (error) => ({ tag: error._tag, message: error.message });
console.log(JSON.stringify({ done, failed, unknown: words(unknown), refused: words(refused) }));
