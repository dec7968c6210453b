#!/usr/bin/env python3
"""`dodai daprd` with state and messages on Redis: how soon it is ready, what a read over gRPC adds to Redis's own answer,
and its memory under 1,000 requests a second of reads, writes and messages that come back to an app.

Bars: ready within 300 ms, at most 0.3 ms added at the median, 25 MB under that load, no errors.
usage: bench/daprd.py      env: see harness.py
"""
import http.server, json, pathlib, re, struct, subprocess, sys, threading, time, urllib.request
import harness as h

h.need("redis-server", "redis-benchmark", "h2load", "taskset")
redis, http_port, grpc_port, internal, app_port = (h.free_port() for _ in range(5))
h.start(["redis-server", "--port", str(redis), "--bind", "127.0.0.1", "--save", "", "--dir", str(h.WORK)], stdout=subprocess.DEVNULL)
h.wait_for(redis)
folder = h.WORK / "components"
folder.mkdir()
for kind, name in (("state", "statestore"), ("pubsub", "pubsub")):
    (folder / f"{kind}.yaml").write_text(f"""
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {{name: {name}}}
spec: {{type: {kind}.redis, version: v1, metadata: [{{name: redisHost, value: "127.0.0.1:{redis}"}}]}}
""")


class App(http.server.BaseHTTPRequestHandler):
    """Takes every message of a topic."""
    protocol_version, seen = "HTTP/1.1", 0

    def handle(self):
        try:
            super().handle()
        except (BrokenPipeError, ConnectionResetError):
            pass  # a sidecar that was ended

    def answer(self, body):
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        wanted = [{"pubsubname": "pubsub", "topic": "orders", "route": "/orders"}]
        self.answer(json.dumps(wanted if self.path == "/dapr/subscribe" else {}).encode())

    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        App.seen += 1
        self.answer(b"")

    def log_message(self, *_):
        pass


app = http.server.ThreadingHTTPServer(("127.0.0.1", app_port), App)
threading.Thread(target=app.serve_forever, daemon=True).start()
URL = f"http://127.0.0.1:{http_port}/v1.0"


def daprd():
    return h.start([h.dodai_binary(), "daprd", "--app-id", "orders", "--app-port", str(app_port), "--dapr-http-port", str(http_port),
                    "--dapr-grpc-port", str(grpc_port), "--resources-path", str(folder), "--enable-metrics=false",
                    "--log-level", "error"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def until_ready():
    began = time.perf_counter()
    process = daprd()
    while time.perf_counter() - began < 30:
        try:
            urllib.request.urlopen(URL + "/healthz", timeout=1).read()
            return process, (time.perf_counter() - began) * 1000
        except OSError:
            time.sleep(0.002)
    sys.exit("not ready within 30 s")


def post(path, value):
    request = urllib.request.Request(URL + path, json.dumps(value).encode(), {"content-type": "application/json"})
    urllib.request.urlopen(request, timeout=5).read()


missed, starts = [], []
for _ in range(3 if h.QUICK else 10):
    process, took = until_ready()
    starts.append(took)
    process.terminate()
    process.wait(30)
ready = h.median(starts)
print(f"start to ready: {ready:.0f} ms ({min(starts):.0f}-{max(starts):.0f}); bar 300")
if ready > 300:
    missed.append(f"ready after {ready:.0f} ms")

# A read of 1 KB over gRPC beside Redis's own client with the command that the driver sends.
process, _ = until_ready()
post("/state/statestore", [{"key": "k1", "value": "x" * 1022}])
text = lambda number, value: bytes([number << 3 | 2, len(value)]) + value
message = text(1, b"statestore") + text(2, b"k1")
question = h.WORK / "get-state"
question.write_bytes(struct.pack(">BI", 0, len(message)) + message)
grpc = f"http://127.0.0.1:{grpc_port}/dapr.proto.runtime.v1.Dapr/GetState"
headers = ["-d", str(question), "-H", "content-type: application/grpc", "-H", "te: trailers"]
direct, through = [], []
for _ in range(h.ROUNDS):
    told = subprocess.run(h.placed(["redis-benchmark", "-p", str(redis), "-c", "1", "-n", "20000", "--precision", "3",
                                    "HMGET", "orders||k1", "data", "version"]), capture_output=True, text=True, check=True).stdout
    direct.append(float(re.search(r"avg\s+min\s+p50.*\n\s+\S+\s+\S+\s+(\S+)", told)[1]))
    run = h.h2load(grpc, h.SECS, 1, 1, headers)
    if run["errors"]:
        missed.append(f"{run['errors']} reads failed")
    through.append(run["p50"])
added = h.median(two - one for one, two in zip(direct, through))
print(f"state over gRPC on Redis, p50: direct {h.median(direct):.3f} ms, through the sidecar {h.median(through):.3f} ms, added {added:.3f} ms; bar 0.3")
if added > 0.3:
    missed.append(f"p50 +{added:.3f} ms")

# Everything at once for a while, once the start's pages have been given back.
time.sleep(0 if h.TRAINING else 12)
load = lambda path, rate, extra: lambda: h.h2load(URL + path, 2 * h.SECS, 4, 1, ["--h1", f"--rps={rate // 4}", *extra])
body = h.WORK / "body"
body.write_text(json.dumps([{"key": "k1", "value": "x" * 1022}]))
json_body = ["-d", str(body), "-H", "content-type: application/json"]
jobs = {"reads": load("/state/statestore/k1", 400, []), "writes": load("/state/statestore", 300, json_body),
        "messages": load("/publish/pubsub/orders", 300, json_body)}
results, peak = {}, 0.0
threads = [threading.Thread(target=lambda name=name, job=job: results.update({name: job()})) for name, job in jobs.items()]
for thread in threads:
    thread.start()
while any(thread.is_alive() for thread in threads):
    peak = max(peak, h.rss_mb(process.pid))
    time.sleep(0.1)
sent = results["messages"]["requests"]
end = time.time() + 30
while App.seen < sent and time.time() < end:
    time.sleep(0.05)
rates = ", ".join(f"{run['rps']:.0f} {name}" for name, run in results.items())
print(f"VmRSS with {rates} a second: at most {peak:.1f} MB ({h.rss_parts(process.pid)}), {App.seen} of {sent} messages taken; bar 25")
failed = sum(run["errors"] for run in results.values())
if failed or App.seen < sent or peak > 25:
    missed.append(f"{failed} failed, {App.seen} of {sent} messages, {peak:.1f} MB")
sys.exit("the bar is missed: " + "; ".join(missed) if missed and not h.TRAINING else 0)
