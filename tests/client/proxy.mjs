// A proxy that ends TLS, as nginx or Caddy do: `proxy.mjs PORT TARGET CERTIFICATE KEY`. It passes on the header Host.

import { readFileSync } from "node:fs";
import { request } from "node:http";
import { createServer } from "node:https";

const [port, target, certificate, key] = process.argv.slice(2);
const options = { cert: readFileSync(certificate), key: readFileSync(key) };

const server = createServer(options, (incoming, outgoing) => {
  const { method, url, headers } = incoming;
  const forwarded = request(
    { host: "127.0.0.1", port: target, method, path: url, headers: { ...headers, "x-forwarded-proto": "https" } },
    (answer) => {
      outgoing.writeHead(answer.statusCode, answer.headers);
      answer.pipe(outgoing);
    });
  forwarded.on("error", () => outgoing.writeHead(502).end());
  outgoing.on("close", () => forwarded.destroy());
  incoming.pipe(forwarded);
});
server.listen(Number(port), "127.0.0.1", () => console.log("ready"));
