#!/usr/bin/env python3
"""An HTTP/2 hop without TLS beside nginx, HAProxy and Envoy: 8 connections with 16 streams each.

Bars: at most 0.80x nginx's CPU per request at 1 KB, 1.0x at 64 KB, no errors; 11 MB of memory after the small ones.

nginx carries HTTP/2 to a backend for gRPC only, so it is set up that way; it opens a connection per stream there.
usage: bench/h2.py      env: see harness.py
"""
import subprocess, sys
import harness as h

h.need("nginx", "h2load", "nghttpd", "taskset")
backend, proxy, balancer, mesh, ours = (h.free_port() for _ in range(5))
h.start(["nghttpd", "--no-tls", "-n1", "-m", "512", "-d", str(h.files()), str(backend)], stdout=subprocess.DEVNULL)
peers = {"nginx": (proxy, [h.nginx("proxy", f"""
    upstream up {{ server 127.0.0.1:{backend}; keepalive 512; keepalive_requests 1000000000; }}
    http2_max_concurrent_streams 512;
    server {{ listen 127.0.0.1:{proxy} http2; location / {{ grpc_pass grpc://up; }} }}""")])}
other = h.haproxy(balancer, backend, h2=True)
if other:
    peers["haproxy"] = (balancer, [other])
third = h.envoy(mesh, backend, h2=True)
if third:
    peers["envoy"] = (mesh, [third])
dodai = h.base(h.write("h2", h.external("backend", backend, "http2"), h.gateway(ours), h.filtered_route("backend")))
peers["dodai"] = (ours, [dodai.pid])
for port in [backend] + [port for port, _ in peers.values()]:
    h.wait_for(port)

h.table("HTTP/2 hop, 8 connections x 16 streams", "nginx")
missed = []
for what, path, bar in (("1 KB", "/1k", 0.80), ("64 KB", "/64k", 1.0)):
    load = lambda port, seconds: h.h2load(f"http://127.0.0.1:{port}{path}", seconds, 8, 16)
    found = h.compare(what, peers, load)["dodai"]
    resident = h.rss_mb(dodai.pid)
    print(f"RSS of dodai after {what}: {resident:.1f} MB ({h.rss_parts(dodai.pid)})")
    if what == "1 KB" and resident > 11 and not h.TRAINING:
        missed.append(f"{what}: {resident:.1f} MB resident")
    if found.errors or found.cpu > bar:
        missed.append(f"{what}: {found.cpu:.2f}x nginx, {found.errors} errors")
sys.exit("the bar is missed: " + "; ".join(missed) if missed else 0)
