#!/usr/bin/env python3
"""Module swaps under load: nothing may fail, be reset or be corrupted.

A hello module is deployed again and again, two versions in turn, while clients send GETs, POSTs whose answer carries a
hash of what arrived, and streamed echoes. Bar: 100 swaps under 64 connections, zero failures.
usage: bench/swap.py      env: SWAPS=100 CONNS=64 DODAI_BINARY=...
"""
import http.client, json, os, random, subprocess, sys, textwrap, threading, time
import harness as h

SWAPS, CONNS = int(os.environ.get("SWAPS", "100")), int(os.environ.get("CONNS", "64"))
ARTIFACTS = h.ROOT / "examples" / "hello" / "artifacts"
port = h.free_port()
project = h.WORK / "project"
project.mkdir()
(project / "hello.wasm").write_bytes((ARTIFACTS / "hello-v1.wasm").read_bytes())
(project / "dodai.yaml").write_text(textwrap.dedent(f"""
    apiVersion: dodai.dev/v1
    kind: App
    metadata: {{name: hello}}
    spec:
      module: {{artifact: hello.wasm, isolation: reuse}}
      services: [{{name: http}}]
    ---
    apiVersion: dodai.dev/v1
    kind: Gateway
    metadata: {{name: front}}
    spec:
      listeners: [{{name: http, address: 127.0.0.1, port: {port}, protocol: HTTP}}]
    ---
    apiVersion: dodai.dev/v1
    kind: Route
    metadata: {{name: all}}
    spec:
      parentRefs: [{{name: front}}]
      rules: [{{backendRefs: [{{name: hello}}]}}]
    """))
dodai = h.start([h.dodai_binary(), "up", str(project)], pinned=False, stdout=subprocess.DEVNULL)
h.wait_for(port, 60)
for _ in range(600):
    if subprocess.run(["curl", "-sf", "-o", "/dev/null", f"http://127.0.0.1:{port}/"]).returncode == 0:
        break
    time.sleep(0.1)
stop, failures, counts, seen = threading.Event(), [], [0] * CONNS, set()


def fnv1a(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value


BODIES = [os.urandom(size) for size in (10, 1000, 5000)]
HASHES = [fnv1a(body) for body in BODIES]


def client(index):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    random_number = random.Random(index)
    while not stop.is_set():
        try:
            kind = random_number.randrange(3)
            if kind == 0:
                connection.request("GET", "/")
                answer = connection.getresponse()
                text = answer.read().decode()
                seen.add(text.strip())
                good = answer.status == 200 and text.startswith("hello")
            elif kind == 1:
                at = random_number.randrange(len(BODIES))
                connection.request("POST", "/sum", BODIES[at])
                answer = connection.getresponse()
                got = json.loads(answer.read())
                digest = got["fnv1a64"]
                good = answer.status == 200 and int(str(digest), 16) == HASHES[at]
            else:
                body = BODIES[random_number.randrange(len(BODIES))]
                pieces = (body[i:i + 700] for i in range(0, len(body), 700))
                connection.request("POST", "/echo", pieces, encode_chunked=True, headers={"transfer-encoding": "chunked"})
                answer = connection.getresponse()
                good = answer.status == 200 and answer.read() == body
            if not good:
                failures.append(f"wrong answer to kind {kind}: {answer.status}")
            counts[index] += 1
            if answer.will_close:
                connection.close()
        except Exception as error:
            failures.append(f"{type(error).__name__}: {error}")
            connection.close()


threads = [threading.Thread(target=client, args=(n,)) for n in range(CONNS)]
[thread.start() for thread in threads]
begin = time.time()
for swap in range(SWAPS):
    artifact = ARTIFACTS / f"hello-v{2 - swap % 2}.wasm"
    subprocess.run([h.dodai_binary(), "deploy", "hello", str(artifact), "--wait", "--folder", str(project)], check=True, stdout=subprocess.DEVNULL)
took = time.time() - begin
stop.set()
[thread.join() for thread in threads]
print(f"{SWAPS} swaps in {took:.1f} s under {CONNS} connections: {sum(counts)} calls, {len(failures)} failures, answers {sorted(seen)}")
for failure in sorted(set(failures))[:10]:
    print(" ", failure)
sys.exit("the bar is missed" if failures or len(seen) < 2 else 0)
