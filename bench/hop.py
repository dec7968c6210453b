#!/usr/bin/env python3
"""An HTTP/1.1 hop beside nginx, HAProxy and Envoy: a route, three filters, timeouts, counters and trace context on.

Bars, each of nginx's figure: CPU per request 0.85 at 1 KB with 2 and with 14 request headers, 0.90 at 64 KB, 1.0 at 1 KB
where the proxies have a CPU of their own; p50 of one connection 1.0; no errors.
usage: bench/hop.py      env: see harness.py
"""
import os, sys
import harness as h

h.need("nginx", "wrk", "taskset")
backend, proxy, balancer, mesh, ours = (h.free_port() for _ in range(5))
h.file_server(backend)
peers = {"nginx": (proxy, [h.nginx_proxy(proxy, backend)])}
other = h.haproxy(balancer, backend)
if other:
    peers["haproxy"] = (balancer, [other])
third = h.envoy(mesh, backend)
if third:
    peers["envoy"] = (mesh, [third])
dodai = h.base(h.write("hop", h.external("backend", backend), h.gateway(ours), h.filtered_route("backend")))
peers["dodai"] = (ours, [dodai.pid])
for port in [backend] + [port for port, _ in peers.values()]:
    h.wait_for(port)
h.wait_for_ok(f"http://127.0.0.1:{ours}/1k")

missed = []


def run(what, path, headers, connections, cpu=None, p50=None):
    load = lambda port, seconds: h.wrk(f"http://127.0.0.1:{port}{path}", seconds, connections, headers)
    found = h.compare(what, peers, load)["dodai"]
    for name, ratio, bar in (("CPU", found.cpu, cpu), ("p50", found.p50, p50)):
        if bar and ratio > bar:
            missed.append(f"{what}: {name} {ratio:.2f}x nginx, at most {bar}")
    if found.errors:
        missed.append(f"{what}: {found.errors} errors")


h.table("HTTP/1.1 hop", "nginx")
run(f"1 KB, 2 headers, c{h.CONNS}", "/1k", [], h.CONNS, cpu=0.85)
run(f"1 KB, 14 headers, c{h.CONNS}", "/1k", h.FOURTEEN, h.CONNS, cpu=0.85)
run(f"64 KB, c{h.CONNS}", "/64k", [], h.CONNS, cpu=0.90)
run("1 B, c1", "/1b", [], 1, p50=1.0)
if os.cpu_count() > 1:
    for _, pids in peers.values():
        for pid in pids:
            h.move(pid, "1" if h.CPU == "0" else "0")
    run(f"1 KB, 2 headers, c{h.CONNS}, each proxy on a CPU of its own", "/1k", [], h.CONNS, cpu=1.0)
sys.exit("the bar is missed: " + "; ".join(missed) if missed else 0)
