#!/usr/bin/env python3
"""State over the Dapr HTTP API: get and set of a small value, in memory and in SQLite. Reported, no bar.

usage: bench/state.py      env: see harness.py
"""
import os, pathlib, subprocess, sys, textwrap, time
import harness as h

h.need("wrk", "taskset", "curl")
component = lambda kind, extra: textwrap.dedent(f"""
    apiVersion: dapr.io/v1alpha1
    kind: Component
    metadata: {{name: {kind}}}
    spec:
      type: state.{kind}
      version: v1
      metadata: [{extra}]
    """)
told = h.WORK / "told"
project = h.write("state", component("in-memory", ""), component("sqlite", "{name: connectionString, value: state.db}"),
                  h.document("App", "user", f"""
    process: {{command: [sh, -c, "env > {told}.part && mv {told}.part {told} && exec sleep 100000"]}}
    """))
dodai = h.start([h.dodai_binary(), "up", str(project), "--threads", "1"], stdout=subprocess.DEVNULL)
end = time.time() + 60
while not told.exists() and time.time() < end:
    time.sleep(0.1)
if not told.exists():
    sys.exit("the app was not started")
given = dict(line.split("=", 1) for line in told.read_text().splitlines() if "=" in line)
url, token = f"http://127.0.0.1:{given['DAPR_HTTP_PORT']}/v1.0/state", given.get("DAPR_API_TOKEN", "")
headers = [f"dapr-api-token: {token}"]
setting = h.WORK / "set.lua"
setting.write_text("""
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
local n = 0
request = function() n = (n + 1) % 1000; return wrk.format(nil, nil, nil, '[{"key":"k' .. n .. '","value":{"count":' .. n .. '}}]') end
""")
for store in ("in-memory", "sqlite"):
    command = ["curl", "-sf", "-H", headers[0], "-H", "content-type: application/json", "-d", '[{"key":"k1","value":{"count":1}}]', f"{url}/{store}"]
    if subprocess.run(command).returncode:
        sys.exit(f"a value cannot be set in {store}")

h.table("state over the Dapr HTTP API, 16 connections", "in-memory")
errors = 0
for what, script, path in (("get", None, "/k1"), ("set", setting, "")):
    load = lambda store, seconds: h.wrk(f"{url}/{store}{path}", seconds, 16, headers, script)
    peers = {store: (store, [dodai.pid]) for store in ("in-memory", "sqlite")}
    errors += sum(found.errors for found in h.compare(what, peers, load).values())
sys.exit(f"{errors} calls failed" if errors else 0)
