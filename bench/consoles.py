#!/usr/bin/env python3
"""What open consoles cost the server: processor time of a `dodai up` whose apps are called, with nobody looking and with
fifty live streams, in turn.

Every app is called a few times a second, so each message carries all of them. Bars: fifty consoles cost less than 5 % of
a core, and each gets a message a second.
usage: bench/consoles.py      env: CONSOLES=50, APPS=100, CALLS=200 (a second), and ROUNDS, SECS, QUICK of harness.py
"""
import http.client, os, socket, sys, threading, time
import harness as h
from management import Api, wait

h.need("nginx", "taskset")
consoles = int(os.environ.get("CONSOLES", "50"))
apps = int(os.environ.get("APPS", "20" if h.QUICK else "100"))
calls = int(os.environ.get("CALLS", "200"))
seconds = int(os.environ.get("SECS", "3" if h.QUICK else "10"))
bar_share, bar_messages = 0.05, 0.9
backend, front = h.free_port(), h.free_port()
h.nginx("backend", f"server {{ listen 127.0.0.1:{backend}; root {h.files()}; }}")

documents = [h.gateway(front)]
for number in range(apps):
    documents.append(h.external(f"app-{number}", backend))
    documents.append(h.document("Route", f"app-{number}", f"""
        parentRefs: [{{name: front}}]
        rules:
          - matches: [{{path: {{type: PathPrefix, value: /app-{number}/}}}}]
            filters:
              - type: URLRewrite
                urlRewrite: {{path: {{type: ReplacePrefixMatch, replacePrefixMatch: /}}}}
            backendRefs: [{{name: app-{number}}}]
        """))
folder = h.write("project", *documents)
data = h.WORK / "up"
up = h.start([h.dodai_binary(), "up", str(folder), "--data", str(data), "--admin", "127.0.0.1:0", "--threads", "1"], pinned=False,
             stdout=h.subprocess.DEVNULL)
api = Api(data)
h.wait_for_ok(f"http://127.0.0.1:{front}/app-0/1b")
over = threading.Event()


def load():
    connection = http.client.HTTPConnection("127.0.0.1", front, timeout=10)
    begin, sent = time.monotonic(), 0
    while not over.is_set():
        connection.request("GET", f"/app-{sent % apps}/1b")
        connection.getresponse().read()
        sent += 1
        over.wait(max(0, begin + sent / calls - time.monotonic()))


class Console(threading.Thread):
    """One open page: a live stream that is read as it comes."""

    def __init__(self):
        super().__init__(daemon=True)
        host, port = api.at.rsplit(":", 1)
        self.stream = socket.create_connection((host, int(port)))
        head = ["GET /v1/live HTTP/1.1", f"host: {api.at}"] + [f"{name}: {value}" for name, value in api.headers.items()]
        self.stream.sendall(("\r\n".join(head) + "\r\n\r\n").encode())
        self.messages = self.bytes = 0
        self.start()

    def run(self):
        rest = b""
        while True:
            try:
                read = self.stream.recv(1 << 16)
            except OSError:
                return
            if not read:
                return
            self.bytes += len(read)
            rest += read
            self.messages += rest.count(b"event: beat")
            rest = rest[-10:]  # shorter than what is looked for

    def close(self):
        self.stream.shutdown(socket.SHUT_RDWR)
        self.stream.close()


def share():
    before, begin = h.cpu_seconds(up.pid), time.monotonic()
    time.sleep(seconds)
    return (h.cpu_seconds(up.pid) - before) / (time.monotonic() - begin)


caller = threading.Thread(target=load, daemon=True)
caller.start()
wait("calls are counted", lambda: len(api.ask("GET", "/v1/traffic?seconds=60")["sums"]) >= apps)
alone, crowded, rates, sizes = [], [], [], []
for _ in range(h.ROUNDS):
    # A message is made until a minute after the last console left; one that stays pays for it in both.
    first = Console()
    time.sleep(1.5)
    alone.append(share())
    more = [Console() for _ in range(consoles)]
    time.sleep(1.5)
    for one in more:
        one.messages = one.bytes = 0
    crowded.append(share())
    rates.append(min(one.messages for one in more) / seconds)
    sizes.append(h.median(one.bytes for one in more) / max(1, h.median(one.messages for one in more)))
    for one in more + [first]:
        one.close()
nobody = None
if not h.QUICK:
    time.sleep(70)  # the server makes messages for a minute more
    nobody = share()
over.set()
caller.join()
h.stop(up)

first, all_of_them = h.median(alone), h.median(crowded)
costs = [with_all - with_one for with_one, with_all in zip(alone, crowded)]
# What the first costs (making the message) is looked at apart; it is part of what fifty cost.
whole = h.median(costs) + (max(0, first - nobody) if nobody is not None else 0)
if nobody is not None:
    print(f"nobody looks: {nobody:.2%} of a core, {calls} calls a second to {apps} apps")
print(f"one console: {first:.2%}, {consoles} more: {all_of_them:.2%} ({min(costs):+.2%} to {max(costs):+.2%})")
print(f"{consoles} consoles cost {whole:.2%} of a core; the slowest got {min(rates):.2f} messages a second of {h.median(sizes) / 1024:.1f} KiB")
missed = []
if whole > bar_share:
    missed.append(f"{consoles} consoles cost {whole:.2%} of a core")
if min(rates) < bar_messages:
    missed.append(f"the slowest console got {min(rates):.2f} messages a second")
sys.exit("; ".join(f"the bar is missed: {one}" for one in missed) or 0)
