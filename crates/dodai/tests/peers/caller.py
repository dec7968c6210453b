"""An app that calls others as unmodified clients do, and tells what it got."""
import http.client
import os
import signal
import socket
import subprocess
import sys
import traceback
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def proxied():
    """urllib reads HTTP_PROXY."""
    with urllib.request.urlopen("http://plain/plain", timeout=20) as answer:
        return answer.read().decode()


def direct():
    """The outbound port, the service named by Host."""
    host, port = os.environ["DODAI_OUTBOUND"].removeprefix("http://").rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=20)
    connection.request("GET", "/headers", headers={"Host": "plain.default"})
    return connection.getresponse().read().decode()


def line():
    """A declared TCP dependency has an address of its own; its server speaks first."""
    host, port = os.environ["DODAI_LINE_ADDRESS"].rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=20) as stream:
        heard = stream.makefile("rb")
        greeting = heard.readline()
        stream.sendall(b"me\r\n")
        echo = heard.readline()
        stream.shutdown(socket.SHUT_WR)
        return (greeting + echo + heard.read()).decode()


def tunnel():
    """CONNECT leads to a TCP service by name."""
    host, port = os.environ["DODAI_OUTBOUND"].removeprefix("http://").rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=20) as stream:
        # One reader for the answer and what follows it: they may come together.
        heard = stream.makefile("rb")
        stream.sendall(b"CONNECT line:80 HTTP/1.1\r\nHost: line:80\r\n\r\n")
        while heard.readline().strip():
            pass
        return heard.readline().decode()


def socks():
    """SOCKS 5 at the outbound address: HTTP by a client that has nothing else, and bytes to a TCP service by name."""
    address = os.environ["DODAI_OUTBOUND"].removeprefix("http://")
    curl = ["curl", "-sS", "--max-time", "20", "--socks5-hostname", address, "http://plain/plain"]
    heard = subprocess.run(curl, stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=20) as stream:
        answers = stream.makefile("rb")
        stream.sendall(b"\x05\x01\x00")
        assert answers.read(2) == b"\x05\x00"
        stream.sendall(b"\x05\x01\x00\x03\x04line\x00\x50")
        assert answers.read(10)[:2] == b"\x05\x00"
        return (heard + answers.readline()).decode()


def rpc():
    import greeter
    return greeter.calls(os.environ["DODAI_OUTBOUND"].removeprefix("http://"), "greeter")


def declared():
    """Addresses of their own, for clients that know of no proxy: a process, a module, gRPC."""
    import greeter
    heard = []
    for app in ("PLAIN", "HELLO"):
        host, port = os.environ[f"DODAI_{app}_ADDRESS"].rsplit(":", 1)
        connection = http.client.HTTPConnection(host, int(port), timeout=20)
        connection.request("GET", "/")
        heard.append(connection.getresponse().read().decode())
    heard.append(greeter.calls(os.environ["DODAI_GREETER_ADDRESS"]))
    return "".join(heard)


def named():
    """The runtime API carries calls of any service to the app that their metadata name."""
    import greeter
    metadata = {"dapr-app-id": "greeter", "dapr-api-token": os.environ["DAPR_API_TOKEN"]}
    return greeter.calls("127.0.0.1:" + os.environ["DAPR_GRPC_PORT"], metadata=metadata)


class Caller(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        known = {f.__name__: f for f in (proxied, direct, line, tunnel, socks, rpc, declared, named)}
        wanted = known.get(self.path.removeprefix("/call/"))
        try:
            status, text = (200, wanted()) if wanted else (404, "there is no such call")
        except Exception:
            status, text = 500, traceback.format_exc()
        body = text.encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Caller).serve_forever()
