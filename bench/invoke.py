#!/usr/bin/env python3
"""Service invocation through two bases: an app asks its base's Dapr API, which asks the base of the other app in mutual
TLS. 1,000 requests a second over 4 connections, 1 KB, beside the same requests sent to the app itself.

Bars: at most 0.4 ms added at the median and 1.5 ms at the 99th percentile, no errors.
usage: bench/invoke.py      env: see harness.py
"""
import subprocess, sys
import harness as h
from management import Server, wait

RATE, CONNECTIONS = 1000, 4
h.need("nginx", "h2load", "taskset")
backend = h.free_port()
serves = h.WORK / "serves"
told = h.WORK / "told"
server = Server()
server.api.apply(*(h.document("Base", name, f"labels: {{role: {name}}}") for name in ("front", "back")),
                 h.document("App", "caller", f"""
                     process: {{command: [sh, -c, "env > {told}.part && mv {told}.part {told} && exec sleep 1000000"]}}
                     placement: {{labels: {{role: front}}}}
                     """),
                 h.document("App", "backend", f"""
                     process: {{command: [sh, -c, "touch {serves} && exec sleep 1000000"]}}
                     placement: {{labels: {{role: back}}}}
                     services: [{{name: main, port: {backend}, protocol: http}}]
                     """))
bases = [server.joined("front"), server.joined("back")]
# An app is not started on a port that somebody else has, so the file server comes after its process.
wait("the process of the app", serves.exists, 60)
h.file_server(backend)
wait("the caller", told.exists, 60)
given = dict(line.split("=", 1) for line in told.read_text().splitlines() if "=" in line)
token = ["-H", f"dapr-api-token: {given.get('DAPR_API_TOKEN', '')}"]
places = {"direct": f"http://127.0.0.1:{backend}/1k",
          "invoke": f"http://127.0.0.1:{given['DAPR_HTTP_PORT']}/v1.0/invoke/backend/method/1k"}
wait("a call through both", lambda: subprocess.run(["curl", "-sf", "-o", "/dev/null", *token, places["invoke"]]).returncode == 0, 60)


def load(place, seconds):
    return h.h2load(places[place], seconds, CONNECTIONS, 1, ["--h1", f"--rps={RATE // CONNECTIONS}", *token])


h.table(f"invocation through two bases, 1 KB, {RATE} requests/s", "direct")
found = h.compare("invoke", {"direct": ("direct", []), "invoke": ("invoke", [base.pid for base in bases])}, load)["invoke"]
print(f"added: p50 {found.added_p50:.3f} ms, p99 {found.added_p99:.3f} ms")
if found.errors or found.added_p50 > 0.4 or found.added_p99 > 1.5:
    sys.exit(f"the bar is missed: p50 +{found.added_p50:.3f} ms (0.4), p99 +{found.added_p99:.3f} ms (1.5), {found.errors} errors")
