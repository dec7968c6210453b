#!/usr/bin/env python3
"""Memory of a stand-alone sidecar base: target/dist/dodai (profile dist) or DODAI_BINARY, two data-plane threads, one route.

Bars: VmRSS at most 10 MB 30 s after ready, and 11 MB after 10,000 requests over 64 connections.
usage: bench/rss.py      env: SETTLE=30, and see harness.py
"""
import os, sys, time
import harness as h

h.need("nginx", "wrk", "taskset")
backend, ours = h.free_port(), h.free_port()
h.file_server(backend)
dodai = h.base(h.write("rss", h.external("backend", backend), h.gateway(ours), h.plain_route("backend")), 2, pinned=False)
h.wait_for(ours)
h.wait_for_ok(f"http://127.0.0.1:{ours}/1k")
time.sleep(float(os.environ.get("SETTLE", "30")))
idle = h.rss_mb(dodai.pid)
print(f"VmRSS 30 s after ready {idle:.1f} MB ({h.rss_parts(dodai.pid)})")
done = 0
while done < 10_000:
    done += h.wrk(f"http://127.0.0.1:{ours}/1k", 2, 64)["requests"]
after = h.rss_mb(dodai.pid)
print(f"VmRSS after {done} requests {after:.1f} MB ({h.rss_parts(dodai.pid)}); bars 10 and 11 MB")
sys.exit(0 if idle <= 10 and after <= 11 else "the bar is missed: more than 10 MB idle or 11 MB after")
