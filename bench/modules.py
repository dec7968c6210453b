#!/usr/bin/env python3
"""A hello module behind a gateway beside a native server behind the same gateway: CPU per request of everything that
serves it. Reported, no bar.

usage: bench/modules.py      env: see harness.py
"""
import subprocess, sys
import harness as h

h.need("nginx", "wrk", "taskset")
native, ours = h.free_port(), h.free_port()
worker = h.nginx("native", f'server {{ listen 127.0.0.1:{native}; location / {{ return 200 "hello from v1\\n"; }} }}')
module = lambda name, isolation: h.document("App", name, f"""
    module: {{artifact: hello.wasm, isolation: {isolation}}}
    services: [{{name: http}}]
    """)
rewritten = lambda app: h.document("Route", app, f"""
    parentRefs: [{{name: front}}]
    rules:
      - matches: [{{path: {{type: PathPrefix, value: /{app}}}}}]
        filters: [{{type: URLRewrite, urlRewrite: {{path: {{type: ReplacePrefixMatch, replacePrefixMatch: /}}}}}}]
        backendRefs: [{{name: {app}}}]
    """)
names = ["native", "module", "single"]
project = h.write("modules", h.external("native", native), module("module", "reuse"), module("single", "per-request"),
                  h.gateway(ours), *map(rewritten, names))
(project / "hello.wasm").write_bytes((h.ROOT / "examples" / "hello" / "artifacts" / "hello-v1.wasm").read_bytes())
dodai = h.start([h.dodai_binary(), "up", str(project), "--threads", "1"], stdout=subprocess.DEVNULL)
for name in names:
    h.wait_for_ok(f"http://127.0.0.1:{ours}/{name}")

h.table("hello: a native server, a module whose instances are reused, a new instance for each call", "native")
load = lambda name: lambda _, seconds: h.wrk(f"http://127.0.0.1:{ours}/{name}", seconds, 16)
loads = {"native": [dodai.pid, worker], "module": [dodai.pid], "single": [dodai.pid]}
errors = 0
peers = {name: (name, pids) for name, pids in loads.items()}
for found in h.compare("hello, c16", peers, lambda name, seconds: load(name)(None, seconds)).values():
    errors += found.errors
sys.exit(f"{errors} calls failed" if errors else 0)
