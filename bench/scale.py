#!/usr/bin/env python3
"""A server with thousands of services, and a base that calls three of them.

Measured: how long it takes to apply everything through the API, the memory of server and base, what the first call to
a service that the base was not told of costs more than the next one, and that changes of tables under load lose nothing.
Bars: the base at most 10 MB idle and 11 MB after calls, as a stand-alone one, and within half a megabyte of one whose
server knows only the three; a first call 50 ms over the next at p99; no lost call and flat memory at 100 changes a second.
usage: bench/scale.py      env: SERVICES=5000, ENDPOINTS=10 (of each), FIRST=50, CHANGES=100 (a second), SETTLE=30,
CHURN=20 (seconds), and see harness.py
"""
import http.client, os, statistics, subprocess, sys, threading, time
import harness as h
from management import Api, Server, wait

h.need("nginx", "wrk", "taskset")
quick = h.QUICK
services = int(os.environ.get("SERVICES", "200" if quick else "5000"))
endpoints = int(os.environ.get("ENDPOINTS", "10"))
first_calls = int(os.environ.get("FIRST", "10" if quick else "50"))
changes = int(os.environ.get("CHANGES", "100"))
settle = float(os.environ.get("SETTLE", "5" if quick else "30"))
churn = float(os.environ.get("CHURN", "5" if quick else "20"))
bar_idle, bar_called, bar_more, bar_first, bar_flat = 10.0, 11.0, 0.5, 50.0, 1.10
missed = []
backend, alone_port = h.free_port(), h.free_port()
# One backend on every address of the loopback network.
h.nginx("backend", f"server {{ listen {backend}; root {h.files()}; }}")


def address(service, endpoint, turn=0):
    number = (service * endpoints + endpoint + turn * 7) % (250 * 250 * 250)
    return f"127.{1 + number // 62500}.{number // 250 % 250}.{1 + number % 250}:{backend}"


def app(service, turn=0):
    listed = ", ".join(f'"{address(service, one, turn)}"' for one in range(endpoints))
    return h.document("App", f"s{service}", f"""
        external: {{addresses: [{listed}]}}
        services: [{{name: main, port: {backend}, protocol: http}}]
        """)


def peak(pid):
    status = open(f"/proc/{pid}/status").read()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


# The server, and everything it holds.
big = Server()
api, server = big.api, big.process
empty = h.rss_mb(server.pid)
begin = time.monotonic()
for start in range(0, services, 500):
    api.apply(*(app(one) for one in range(start, min(start + 500, services))))
applied = time.monotonic() - begin
wait("every service serves", lambda: all((one.get("status") or {}).get("latestReadyRevision") for one in api.ask("GET", "/v1/documents?kind=App")["items"]))
ready = time.monotonic() - begin
begin = time.monotonic()
for turn in range(5):
    api.apply(app(services - 1, turn + 1))
single = (time.monotonic() - begin) / 5
print(f"{services} services with {services * endpoints} endpoints: applied in {applied:.1f} s, all serve after {ready:.1f} s; one more change {single * 1000:.0f} ms")
cpu = h.cpu_seconds(server.pid)
time.sleep(settle)
rest = (h.cpu_seconds(server.pid) - cpu) / settle * 100
print(f"server: VmRSS {h.rss_mb(server.pid):.1f} MB (empty {empty:.1f} MB, peak {peak(server.pid):.1f} MB), {rest:.2f} % of a core at rest")

# A base that joins, with one app that calls, and beside it one of a server that knows only what it calls.
CALLER = h.document("App", "caller", """
    process: {command: [sleep, "1000000"]}
    """)
small = Server("small-server")
small.api.apply(*(app(one) for one in range(3)))
joined, other = big.joined(f"scale{os.getpid()}", pinned=False), small.joined(f"small{os.getpid()}", pinned=False)
ways = {}
for mesh in (big, small):
    mesh.api.apply(CALLER)
    ways[mesh] = mesh.outbound("caller").rsplit(":", 1)
out_host, out_port = ways[big]


def call(service, mesh=big):
    """One call on a connection of its own, in milliseconds."""
    host, port = ways[mesh]
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    begin = time.monotonic()
    connection.request("GET", "/1k", headers={"Host": f"s{service}"})
    answer = connection.getresponse()
    body = answer.read()
    took = (time.monotonic() - begin) * 1000
    connection.close()
    if answer.status != 200 or len(body) != 1024:
        sys.exit(f"a call to s{service}: {answer.status} {body[:300]!r}")
    return took


alone = h.start([h.dodai_binary(), "base", "--from",
                 str(h.write("alone", *(h.external(f"s{one}", backend) for one in range(3)), h.gateway(alone_port), h.plain_route("s0"))),
                 "--data", str(h.WORK / "alone-data"), "--threads", "1", "--metrics", "off"], pinned=False, stdout=subprocess.DEVNULL)
h.wait_for_ok(f"http://127.0.0.1:{alone_port}/1k")
time.sleep(settle)
idle = h.rss_mb(joined.pid)
for turn in range(2000):
    call(turn % 3)
    call(turn % 3, small)
    connection = http.client.HTTPConnection("127.0.0.1", alone_port, timeout=30)
    connection.request("GET", "/1k")
    connection.getresponse().read()
    connection.close()
time.sleep(settle)
called, beside = h.rss_mb(joined.pid), h.rss_mb(other.pid)
print(f"base: VmRSS {idle:.1f} MB idle (bar {bar_idle:.0f}), {called:.1f} MB after 2000 calls to 3 services ({h.rss_parts(joined.pid)}; bar {bar_called:.0f}); "
      f"of a server with those 3: {beside:.1f} MB ({h.rss_parts(other.pid)}); stand-alone: {h.rss_mb(alone.pid):.1f} MB ({h.rss_parts(alone.pid)})")
if idle > bar_idle or called > bar_called:
    missed.append(f"the base has {idle:.1f} and {called:.1f} MB")
if called - beside > bar_more:
    missed.append(f"the base of a large mesh has {called - beside:.1f} MB more than one of a small mesh")

# First calls to services that the base knows nothing of.
step = max(1, (services - 10) // first_calls)
pairs = [(call(service), call(service)) for service in range(5, 5 + first_calls * step, step)]
added = sorted(one - two for one, two in pairs)
p50, p99 = statistics.median(added), added[int(len(added) * 0.99)]
print(f"first call to a further service: {statistics.median(one for one, _ in pairs):.1f} ms, the next {statistics.median(two for _, two in pairs):.2f} ms; "
      f"added p50 {p50:.1f} ms, p99 {p99:.1f} ms (bar {bar_first:.0f})")
if p99 > bar_first:
    missed.append(f"a first call takes {p99:.0f} ms more at p99")

# Tables that change under load.
script = h.WORK / "three.lua"
script.write_text('local n = 0\nrequest = function() n = n + 1\n  return wrk.format("GET", "/1k", {Host = "s" .. (n % 3)}) end\n')
before = h.rss_mb(joined.pid), h.rss_mb(server.pid)
stop, made = threading.Event(), []


def change():
    own, turn, due = Api(big.data), 0, time.monotonic()
    while not stop.is_set():
        turn += 1
        own.apply(app(turn % 3, turn))
        made.append(time.monotonic())
        due = max(due + 1 / changes, time.monotonic() - 1)
        time.sleep(max(0, due - time.monotonic()))


changing = threading.Thread(target=change)
changing.start()
run = h.wrk(f"http://{out_host}:{out_port}/1k", int(churn), 32, script=script)
middle = h.rss_mb(joined.pid), h.rss_mb(server.pid)
again = h.wrk(f"http://{out_host}:{out_port}/1k", int(churn), 32, script=script)
stop.set()
changing.join()
after = h.rss_mb(joined.pid), h.rss_mb(server.pid)
rate = len(made) / (2 * churn)
errors = run["errors"] + again["errors"]
print(f"{rate:.0f} changes a second under {run['rps']:.0f} calls a second: {errors} lost of {run['requests'] + again['requests']}; p99 {again['p99']:.1f} ms; "
      f"base {before[0]:.1f}, {middle[0]:.1f}, {after[0]:.1f} MB, server {before[1]:.1f}, {middle[1]:.1f}, {after[1]:.1f} MB")
if errors:
    missed.append(f"{errors} calls were lost")
if after[0] > middle[0] * bar_flat:
    missed.append("the base grows with the changes")
if rate < changes * 0.9:
    missed.append(f"the server took {rate:.0f} changes a second, not {changes}")
sys.exit("; ".join(f"the bar is missed: {one}" for one in missed) or 0)
