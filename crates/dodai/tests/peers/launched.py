"""An app as a launcher of Dapr starts it: it subscribes, says what comes, and answers with its environment."""

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class App(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def reply(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/dapr/subscribe":
            return self.reply([{"pubsubname": "pubsub", "topic": "orders", "route": "/orders"}])
        names = ["APP_ID", "APP_PORT", "DAPR_HTTP_PORT", "DAPR_GRPC_PORT"]
        self.reply({name: os.environ.get(name) for name in names})

    def do_POST(self):
        event = json.loads(self.rfile.read(int(self.headers["content-length"])))
        print("heard", json.dumps(event["data"]), flush=True)
        self.reply({"status": "SUCCESS"})

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), App).serve_forever()
