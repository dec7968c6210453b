#!/usr/bin/env python3
"""Module swaps under load: nothing may fail, be reset or be corrupted.

A hello module is deployed again and again, two versions in turn, while clients send GETs, POSTs whose answer carries a
hash of what arrived, streamed echoes whose hash is checked, and streams that last longer than a swap.
Bar: 100 swaps under 64 connections, zero failures.
usage: bench/swap.py      env: SWAPS=100, and see harness.py
"""
import hashlib, http.client, json, os, random, subprocess, sys, threading, time
import harness as h

SWAPS = int(os.environ.get("SWAPS", "10" if h.QUICK else "100"))
ARTIFACTS = h.ROOT / "examples" / "hello" / "artifacts"
port = h.free_port()
project = h.write("swap", h.document("App", "hello", """
    module: {artifact: hello.wasm, isolation: reuse}
    services: [{name: http}]
    """), h.gateway(port), h.plain_route("hello"))
(project / "hello.wasm").write_bytes((ARTIFACTS / "hello-v1.wasm").read_bytes())
h.start([h.dodai_binary(), "up", str(project)], pinned=False, stdout=subprocess.DEVNULL)
h.wait_for_ok(f"http://127.0.0.1:{port}/")
stop, failures, counts, seen = threading.Event(), [], [[0] * 4 for _ in range(h.CONNS)], set()


def fnv1a(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value


BODIES = [os.urandom(size) for size in (10, 1000, 5000)]
HASHES = [fnv1a(body) for body in BODIES]


def get(connection, _):
    connection.request("GET", "/")
    answer = connection.getresponse()
    text = answer.read().decode()
    seen.add(text.strip())
    return answer, text.startswith("hello")


def post(connection, dice):
    at = dice.randrange(len(BODIES))
    connection.request("POST", "/sum", BODIES[at])
    answer = connection.getresponse()
    got = json.loads(answer.read())
    return answer, int(str(got["fnv1a64"]), 16) == HASHES[at] and got.get("bytes", len(BODIES[at])) == len(BODIES[at])


def echo(connection, dice):
    body = BODIES[dice.randrange(len(BODIES))]
    pieces = (body[i:i + 700] for i in range(0, len(body), 700))
    connection.request("POST", "/echo", pieces, encode_chunked=True, headers={"transfer-encoding": "chunked"})
    answer = connection.getresponse()
    return answer, hashlib.sha256(answer.read()).digest() == hashlib.sha256(body).digest()


def slow_echo(connection, dice):
    """A body that is still on its way while the module behind the route is exchanged."""
    body = BODIES[2]

    def pieces():
        for i in range(0, len(body), 1250):
            yield body[i:i + 1250]
            time.sleep(0.05)

    connection.request("POST", "/echo", pieces(), encode_chunked=True, headers={"transfer-encoding": "chunked"})
    answer = connection.getresponse()
    return answer, hashlib.sha256(answer.read()).digest() == hashlib.sha256(body).digest()


KINDS = [get, post, echo, slow_echo]


def client(index):
    connection, dice = http.client.HTTPConnection("127.0.0.1", port, timeout=30), random.Random(index)
    while not stop.is_set():
        kind = dice.randrange(len(KINDS))
        try:
            answer, good = KINDS[kind](connection, dice)
            if answer.status != 200 or not good:
                failures.append(f"{KINDS[kind].__name__}: wrong answer, status {answer.status}")
            counts[index][kind] += 1
            if answer.will_close:
                connection.close()
        except Exception as error:
            failures.append(f"{KINDS[kind].__name__}: {type(error).__name__}: {error}")
            connection.close()


threads = [threading.Thread(target=client, args=(n,)) for n in range(h.CONNS)]
[thread.start() for thread in threads]
begin = time.time()
for swap in range(SWAPS):
    artifact = ARTIFACTS / f"hello-v{2 - swap % 2}.wasm"
    command = [h.dodai_binary(), "deploy", "hello", str(artifact), "--wait", "--folder", str(project)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
took = time.time() - begin
stop.set()
[thread.join() for thread in threads]
calls = {kind.__name__: sum(count[at] for count in counts) for at, kind in enumerate(KINDS)}
print(f"{SWAPS} swaps in {took:.1f} s under {h.CONNS} connections: {sum(calls.values())} calls {calls}, "
      f"{len(failures)} failures, answers {sorted(seen)}")
for failure in sorted(set(failures))[:10]:
    print(" ", failure)
sys.exit("the bar is missed" if failures or len(seen) < 2 else 0)
