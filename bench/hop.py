#!/usr/bin/env python3
"""One HTTP/1.1 hop: Dodai beside nginx, same backend, same CPU, interleaved.

Dodai's route has three filters (request headers, response headers, rate limit) with metrics, trace context and timeouts
on. Bar: at most 1.0x nginx's CPU per request at 1 KB with 2 and with 14 request headers, no errors.
usage: bench/hop.py      env: ROUNDS=3 SECS=3 CONNS=64 BENCH_CPU=0 DODAI_BINARY=...
"""
import os, subprocess, sys, textwrap
import harness as h

ROUNDS, SECS, CONNS = (int(os.environ.get(name, default)) for name, default in (("ROUNDS", 3), ("SECS", 3), ("CONNS", 64)))
FOURTEEN = [f"x-bench-header-{n}: a value of ordinary length {n}" for n in range(12)]

h.need("nginx", "wrk", "taskset")
backend, proxy, ours = h.free_port(), h.free_port(), h.free_port()

h.WORK.chmod(0o755)  # nginx workers run as another user
(h.WORK / "www").mkdir()
(h.WORK / "www" / "1k").write_bytes(b"x" * 1024)
(h.WORK / "www" / "64k").write_bytes(b"y" * 65536)
NGINX = """
daemon off; worker_processes 1; pid {work}/{name}.pid; error_log {work}/{name}.err warn;
events {{ worker_connections 4096; }}
http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 300; sendfile on; tcp_nodelay on; {body} }}
"""
(h.WORK / "backend.conf").write_text(NGINX.format(work=h.WORK, name="backend", body=f"server {{ listen 127.0.0.1:{backend}; root {h.WORK}/www; }}"))
(h.WORK / "proxy.conf").write_text(NGINX.format(work=h.WORK, name="proxy", body=f"""
  upstream up {{ server 127.0.0.1:{backend}; keepalive 128; keepalive_requests 1000000000; }}
  server {{ listen 127.0.0.1:{proxy}; location / {{ proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffers 16 16k; }} }}"""))
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
      rules:
        - matches: [{{path: {{type: PathPrefix, value: /}}}}]
          filters:
            - type: RequestHeaderModifier
              requestHeaderModifier: {{set: [{{name: x-edge, value: bench}}]}}
            - type: ResponseHeaderModifier
              responseHeaderModifier: {{set: [{{name: x-served-by, value: dodai}}]}}
          backendRefs: [{{name: backend}}]
          timeouts: {{request: 10s}}
    ---
    apiVersion: dodai.dev/v1
    kind: Policy
    metadata: {{name: limits}}
    spec:
      targetRefs: [{{kind: Route, name: all}}]
      rateLimit: {{requestsPerSecond: 10000000, burst: 1000000}}
    """))

h.start(["nginx", "-c", str(h.WORK / "backend.conf")])
nginx = h.start(["nginx", "-c", str(h.WORK / "proxy.conf")])
dodai = h.start([h.dodai_binary(), "base", "--from", str(h.WORK / "dodai"), "--data", str(h.WORK / "data"), "--threads", os.environ.get("THREADS", "1")], stdout=subprocess.DEVNULL)
for port in (backend, proxy, ours):
    h.wait_for(port)
nginx_worker = int(subprocess.run(["pgrep", "-P", str(nginx.pid)], capture_output=True, text=True).stdout.split()[0])
peers = {"nginx": (proxy, nginx_worker), "dodai": (ours, dodai.pid)}
failed = False
print(f"HTTP/1.1 hop, {CONNS} connections, {ROUNDS} rounds x {SECS} s interleaved, all on CPU {h.CPU}")
print("\n| path | headers | peer | req/s | p50 ms | p99 ms | CPU us/req | ratio to nginx | RSS MB | errors |\n|---|---|---|---|---|---|---|---|---|---|")
for path, headers, connections in (("/1k", [], CONNS), ("/1k", FOURTEEN, CONNS), ("/64k", [], CONNS), ("/1k", [], 1)):
    results = {name: [] for name in peers}
    for _ in range(ROUNDS):
        for name, (port, pid) in peers.items():
            url = f"http://127.0.0.1:{port}{path}"
            h.wrk(url, 1, connections, headers)
            before = h.cpu_seconds(pid)
            run = h.wrk(url, SECS, connections, headers)
            run["cpu"] = (h.cpu_seconds(pid) - before) / max(run["requests"], 1) * 1e6
            run["rss"] = h.rss_mb(pid)
            results[name].append(run)
    for name, runs in results.items():
        m = lambda key: h.median(run[key] for run in runs)
        ratio = h.median(run["cpu"] / base["cpu"] for run, base in zip(runs, results["nginx"]))
        errors = sum(run["errors"] for run in runs)
        print(f"| {path} c{connections} | {2 + len(headers)} | {name} | {m('rps'):.0f} | {m('p50'):.3f} | {m('p99'):.2f} | {m('cpu'):.1f} | {ratio:.2f} | {m('rss'):.1f} | {errors} |", flush=True)
        failed |= name == "dodai" and (errors > 0 or (path == "/1k" and connections > 1 and ratio > 1.0))
sys.exit("the bar is missed: more than 1.0x nginx's CPU per request, or errors" if failed else 0)
