"""A server of lines that speaks first: it greets, and echoes until the other side has ended."""
import os
import signal
import socketserver
import sys


class Line(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"220 ready\r\n")
        for line in self.rfile:
            self.wfile.write(b"you said " + line)
        self.wfile.write(b"221 bye\r\n")


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
Server(("127.0.0.1", int(os.environ["PORT"])), Line).serve_forever()
