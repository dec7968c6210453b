"""An app that keeps what it is told in the state store: PUT /KEY answers 204 once it is kept, GET /KEY tells it. A job
that PUT /later/NAME asks for is kept as ran-NAME when it runs."""
import os
import signal
import sys
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

API = os.environ["DAPR_HTTP_ENDPOINT"] + "/v1.0"
STORE = API + "/state/state"
HEADERS = {"dapr-api-token": os.environ.get("DAPR_API_TOKEN", ""), "content-type": "application/json"}
# The API is on this host; no proxy is in between.
OPEN = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


class Keeper(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_PUT(self):
        value = self.rfile.read(int(self.headers["content-length"])).decode()
        if self.path.startswith("/later/"):
            name, body = self.path.removeprefix("/later/"), '{"dueTime": "%s"}' % value
            return self.tell(urllib.request.Request(API + "/jobs/" + name, body.encode(), HEADERS, method="POST"))
        body = '[{"key": "%s", "value": "%s"}]' % (self.path[1:], value)
        self.tell(urllib.request.Request(STORE, body.encode(), HEADERS, method="POST"))

    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        body = '[{"key": "ran-%s", "value": "yes"}]' % self.path.removeprefix("/job/")
        self.tell(urllib.request.Request(STORE, body.encode(), HEADERS, method="POST"))

    def do_GET(self):
        self.tell(urllib.request.Request(STORE + self.path, headers=HEADERS))

    def tell(self, request):
        try:
            with OPEN(request, timeout=30) as answer:
                status, body = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, body = error.code, error.read()
        self.send_response(status)
        if status != 204:
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        if status != 204:
            self.wfile.write(body)

    def log_message(self, *_):
        pass


signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Keeper).serve_forever()
