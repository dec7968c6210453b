"""A stock server as it has stood for years: plain HTTP, and every other answer is 503. Argument: the port."""
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Stock(BaseHTTPRequestHandler):
    asked = 0

    def do_GET(self):
        Stock.asked += 1
        is_well = Stock.asked % 2 == 0
        body = f"stock: {self.path} is there\n".encode() if is_well else b"stock: too busy\n"
        self.send_response(200 if is_well else 503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Stock).serve_forever()
