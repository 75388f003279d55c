"""A receiver of webhooks with the PyPI package standardwebhooks: `receiver.py SECRET WRONG-SECRET`.

Prints its address, then one line of JSON for each message: what the package says of it, and of what it must refuse. The
first message is answered 500 all the same, so that it comes again.
"""

import json
import sys
from datetime import datetime
from http.server import BaseHTTPRequestHandler, HTTPServer

import standardwebhooks.webhooks
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

secret, wrong_secret = sys.argv[1:]


class Clock(datetime):
    """The clock that the package reads."""

    time = None

    @classmethod
    def now(cls, tz=None):
        return datetime.now(tz) if cls.time is None else datetime.fromtimestamp(cls.time, tz)


standardwebhooks.webhooks.datetime = Clock


def verdict(secret, body, headers, time=None):
    """What the package says of a message, at a time in seconds since 1970 or else now."""
    Clock.time = time
    try:
        return {"accepted": Webhook(secret).verify(body, headers)}
    except WebhookVerificationError as error:
        return {"refused": str(error)}


class Receiver(BaseHTTPRequestHandler):
    answer = 500

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = dict(self.headers)
        timestamp = int(self.headers["webhook-timestamp"])
        moved = {**headers, "webhook-timestamp": str(timestamp + 1)}
        verdicts = {
            "id": self.headers["webhook-id"],
            "timestamp": timestamp,
            "valid": verdict(secret, body, headers),
            "tamperedBody": verdict(secret, body.replace(b"cancelled", b"completed"), headers),
            "tamperedId": verdict(secret, body, {**headers, "webhook-id": f"{self.headers['webhook-id']}x"}),
            "tamperedTimestamp": verdict(secret, body, moved),
            "wrongSecret": verdict(wrong_secret, body, headers),
            "tooOld": verdict(secret, body, headers, timestamp + 301),
            "tooNew": verdict(secret, body, headers, timestamp - 301),
        }
        print(json.dumps(verdicts), flush=True)
        self.send_response(Receiver.answer)
        self.end_headers()
        Receiver.answer = 204

    def log_message(self, format, *args):
        pass


server = HTTPServer(("127.0.0.1", 0), Receiver)
print(f"http://127.0.0.1:{server.server_port}/", flush=True)
server.serve_forever()
