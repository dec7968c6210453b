#!/usr/bin/env python3
"""An HTTP/1.1 hop beside nginx and HAProxy: a route, three filters, timeouts, counters and trace context on.

Bar: at most 1.0x nginx's CPU per request at 1 KB, with 2 and with 14 request headers, and no errors.
usage: bench/hop.py      env: see harness.py
"""
import sys
import harness as h

h.need("nginx", "wrk", "taskset")
backend, proxy, balancer, ours = (h.free_port() for _ in range(4))
h.file_server(backend)
peers = {"nginx": (proxy, [h.nginx_proxy(proxy, backend)])}
other = h.haproxy(balancer, backend)
if other:
    peers["haproxy"] = (balancer, [other])
dodai = h.base(h.write("hop", h.external("backend", backend), h.gateway(ours), h.filtered_route("backend")))
peers["dodai"] = (ours, [dodai.pid])
for port in [backend] + [port for port, _ in peers.values()]:
    h.wait_for(port)
h.wait_for_ok(f"http://127.0.0.1:{ours}/1k")

h.table("HTTP/1.1 hop", "nginx")
missed = []
for what, path, headers, connections, bar in (
    (f"1 KB, 2 headers, c{h.CONNS}", "/1k", [], h.CONNS, 1.0),
    (f"1 KB, 14 headers, c{h.CONNS}", "/1k", h.FOURTEEN, h.CONNS, 1.0),
    (f"64 KB, c{h.CONNS}", "/64k", [], h.CONNS, None),
    ("1 B, c1", "/1b", [], 1, None),
):
    load = lambda port, seconds: h.wrk(f"http://127.0.0.1:{port}{path}", seconds, connections, headers)
    ratio, errors = h.compare(what, peers, load)["dodai"]
    if errors or (bar and ratio > bar):
        missed.append(f"{what}: {ratio:.2f}x nginx, {errors} errors")
sys.exit("the bar is missed: " + "; ".join(missed) if missed else 0)
