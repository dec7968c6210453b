#!/usr/bin/env python3
"""The recommend app: what goes well with what. It runs wherever somebody starts it; the mesh knows its address.

Python 3.8 or newer, nothing else. Stop it with Ctrl-C: the shop goes on without it.
"""

import argparse
import json
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

VERSION = "1.0.0"
SHOWN = 3

# product -> what goes with it, and why
PAIRS = {
    "teapot": [("cups", "two to share a pot"), ("lantern", "light to drink tea by")],
    "cups": [("teapot", "something to pour from"), ("notebook", "for what comes to mind over tea")],
    "lantern": [("bell", "for evenings outside"), ("notebook", "enough light to write by")],
    "plane": [("broom", "for the shavings"), ("notebook", "measure twice, write it down")],
    "broom": [("knife", "crumbs come from somewhere"), ("plane", "so that there is something to sweep")],
    "knife": [("broom", "for the crumbs afterwards"), ("cups", "cook first, then tea")],
    "bell": [("lantern", "they hang well side by side"), ("teapot", "listen with something warm")],
    "notebook": [("lantern", "light to write by"), ("cups", "thinking makes thirsty")],
}
FAVOURITES = [("teapot", "most given as a present"), ("notebook", "most bought twice"), ("bell", "most talked about")]


def recommend(cart):
    """Products that are not in the cart, the ones that most of it asks for first."""
    wanted = {}
    for product in cart:
        for other, reason in PAIRS.get(product, []):
            if other not in cart:
                votes, first_reason = wanted.get(other, (0, reason))
                wanted[other] = (votes + 1, first_reason)
    ranked = sorted(wanted.items(), key=lambda item: -item[1][0])
    chosen = [(product, reason) for product, (_, reason) in ranked]
    known = {product for product, _ in chosen}
    chosen += [one for one in FAVOURITES if one[0] not in known and one[0] not in cart]
    return [{"id": product, "reason": reason} for product, reason in chosen[:SHOWN]]


class Recommend(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        url = urlsplit(self.path)
        if url.path == "/recommendations":
            cart = [name for name in parse_qs(url.query).get("with", [""])[0].split(",") if name]
            self.answer(200, {"products": recommend(cart)})
        elif url.path == "/info":
            self.answer(200, {"app": "recommend", "shape": "external", "revision": "external", "version": VERSION})
        elif url.path == "/healthz":
            self.answer(200, {"status": "ok"})
        else:
            self.answer(404, {"error": "no-route", "message": f"nothing answers GET {url.path} here"})

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, form, *arguments):
        pass


def main():
    options = argparse.ArgumentParser(description="The recommend app of the example shop.")
    options.add_argument("--port", type=int, default=9301, help="port on 127.0.0.1 (default: %(default)s)")
    port = options.parse_args().port
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), Recommend)
    except OSError as error:
        sys.exit(f"recommend cannot listen on 127.0.0.1:{port}: {error.strerror}; stop what does, or set --port")
    server.daemon_threads = True
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
    print(f"recommend listens on 127.0.0.1:{port}", flush=True)
    server.serve_forever()
    server.server_close()


if __name__ == "__main__":
    main()
