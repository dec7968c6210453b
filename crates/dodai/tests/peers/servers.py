"""Servers that know nothing of anybody, on IPv4 and IPv6: HTTP that tells its port and what it was asked, and lines
of a server that greets first. Arguments are the ports: `8000` for HTTP, `8001/line` for lines. `ready` is written to
the folder when all of them listen."""
import socket
import socketserver
import sys
import threading
from http.server import BaseHTTPRequestHandler


class Http(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        port = self.server.server_address[1]
        if self.path.startswith("/big/"):
            body = bytes(range(256)) * (int(self.path[5:]) // 256)
        else:
            body = f"port {port} peer {self.client_address[0]}\r\n{self.headers}".encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Line(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"220 ready\r\n")
        for line in self.rfile:
            self.wfile.write(b"you said " + line)


class V4(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64


class V6(V4):
    address_family = socket.AF_INET6

    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        super().server_bind()


servers = []
for argument in sys.argv[1:]:
    port, _, kind = argument.partition("/")
    handler = Line if kind == "line" else Http
    servers += [V4(("0.0.0.0", int(port)), handler), V6(("::", int(port)), handler)]
for server in servers:
    threading.Thread(target=server.serve_forever, daemon=True).start()
open("ready", "w").close()
threading.Event().wait()
