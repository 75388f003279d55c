// A receiver of webhooks with the npm package standardwebhooks: `node receiver.mjs SECRET WRONG-SECRET`. Prints its
// address, then one line of JSON for each message: what the package says of it, and of what it must refuse. The first
// message is answered 500 all the same, so that it comes again.
import { createServer } from "node:http";
import { createRequire } from "node:module";

const { Webhook } = createRequire(`${process.env.NODE_MODULES}/`)("standardwebhooks");
const [secret, wrongSecret] = process.argv.slice(2);
const now = Date.now;

/** What the package says of a message, at a time in seconds since 1970 or else now. */
const verdict = (secret, body, headers, time) => {
  if (time !== undefined) Date.now = () => time * 1000;
  try {
    return { accepted: new Webhook(secret).verify(body, headers) };
  } catch (error) {
    return { refused: error.message };
  } finally {
    Date.now = now;
  }
};

let answer = 500;
const server = createServer(async (request, response) => {
  let body = "";
  for await (const chunk of request.setEncoding("utf8")) body += chunk;
  const { headers } = request;
  const timestamp = Number(headers["webhook-timestamp"]);
  console.log(JSON.stringify({
    id: headers["webhook-id"],
    timestamp,
    valid: verdict(secret, body, headers),
    tamperedBody: verdict(secret, body.replace("cancelled", "completed"), headers),
    tamperedId: verdict(secret, body, { ...headers, "webhook-id": `${headers["webhook-id"]}x` }),
    tamperedTimestamp: verdict(secret, body, { ...headers, "webhook-timestamp": String(timestamp + 1) }),
    wrongSecret: verdict(wrongSecret, body, headers),
    tooOld: verdict(secret, body, headers, timestamp + 301),
    tooNew: verdict(secret, body, headers, timestamp - 301),
  }));
  response.writeHead(answer).end();
  answer = 204;
});
server.listen(0, "127.0.0.1", () => console.log(`http://127.0.0.1:${server.address().port}/`));
