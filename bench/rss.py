#!/usr/bin/env python3
"""Memory of a stand-alone sidecar base: default release binary, two data-plane threads, one route.

Bar: VmRSS at most 15 MB 30 s after ready, and after 10,000 requests.
usage: bench/rss.py      env: SETTLE=30 DODAI_BINARY=...
"""
import http.server, os, subprocess, sys, textwrap, threading, time
import harness as h

h.need("wrk", "taskset")


class Quiet(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
threading.Thread(target=server.serve_forever, daemon=True).start()
backend, ours = server.server_address[1], h.free_port()
(h.WORK / "dodai").mkdir()
(h.WORK / "dodai" / "dodai.yaml").write_text(textwrap.dedent(f"""
    apiVersion: dodai.dev/v1
    kind: App
    metadata: {{name: backend}}
    spec:
      external: {{addresses: ["127.0.0.1:{backend}"]}}
      services: [{{name: http, port: {backend}}}]
    ---
    apiVersion: dodai.dev/v1
    kind: Gateway
    metadata: {{name: front}}
    spec:
      listeners: [{{name: http, address: 127.0.0.1, port: {ours}, protocol: HTTP}}]
    ---
    apiVersion: dodai.dev/v1
    kind: Route
    metadata: {{name: all}}
    spec:
      parentRefs: [{{name: front}}]
      rules: [{{backendRefs: [{{name: backend}}]}}]
    """))
dodai = h.start([h.dodai_binary(), "base", "--from", str(h.WORK / "dodai"), "--data", str(h.WORK / "data"), "--threads", "2"], pinned=False, stdout=subprocess.DEVNULL)
h.wait_for(ours)
time.sleep(float(os.environ.get("SETTLE", "30")))
idle = h.rss_mb(dodai.pid)
done = 0
while done < 10_000:
    done += h.wrk(f"http://127.0.0.1:{ours}/", 2, 16)["requests"]
after = h.rss_mb(dodai.pid)
print(f"VmRSS idle {idle:.1f} MB, after {done} requests {after:.1f} MB (bar 15 MB)")
sys.exit(0 if max(idle, after) <= 15 else "the bar is missed: more than 15 MB")
