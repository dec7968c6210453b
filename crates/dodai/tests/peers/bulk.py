"""An app over HTTP that takes messages in bulk and one by one, dead letters, and messages without an envelope. It never
takes one whose data is `bad`. GET /seen tells what came: path, how many at once, and the texts."""

import base64
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BULK = {"enabled": True, "maxMessagesCount": 10, "maxAwaitDurationMs": 200}
RAW = {"rawPayload": "true"}
SUBSCRIPTIONS = [
    {"topic": "orders", "route": "/bulk", "bulkSubscribe": BULK, "deadLetterTopic": "dead"},
    {"topic": "single", "route": "/one", "deadLetterTopic": "dead"},
    {"topic": "dead", "route": "/dead"},
    {"topic": "raw", "route": "/raw", "metadata": RAW},
    {"topic": "rawbulk", "route": "/rawbulk", "metadata": RAW, "bulkSubscribe": BULK},
]
SEEN = []


def text(event):
    """The data of an event; of one in base64 what it says."""
    if isinstance(event, str):
        return base64.b64decode(event).decode()
    return base64.b64decode(event["data_base64"]).decode() if "data_base64" in event else event["data"]


class App(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        told = {"/seen": SEEN, "/dapr/subscribe": [{"pubsubname": "pubsub", **one} for one in SUBSCRIPTIONS]}
        self.answer(200 if self.path in told else 404, told.get(self.path))

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if "entries" in body:
            told = [(one["entryId"], text(one["event"])) for one in body["entries"]]
            SEEN.append({"path": self.path, "texts": [data for _, data in told]})
            status = {True: "RETRY", False: "SUCCESS"}
            return self.answer(200, {"statuses": [{"entryId": id, "status": status[data == "bad"]} for id, data in told]})
        SEEN.append({"path": self.path, "texts": [text(body)], "id": body["id"]})
        self.answer(500 if text(body) == "bad" and self.path != "/dead" else 200, {})

    def answer(self, status, told):
        body = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), App).serve_forever()
