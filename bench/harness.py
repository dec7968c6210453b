"""Shared parts of the benchmarks: processes that end with the script, documents, CPU time, load runs, tables.

Method: load generator, backend and proxy on one CPU (a wake-up across CPUs would drown everything), peers visited in
turn within each round, medians over rounds with the spread beside them, CPU microseconds per request (user and system
time of the process, all threads) as the figure to compare. Everything is on loopback and bounded in time.

Settings by environment: BENCH_CPU=0, ROUNDS, SECS, CONNS, QUICK=1 (one short round), DODAI_BINARY, and BENCH_BATCH=1 to
run everything under SCHED_BATCH, which takes the wake-up contests of a shared machine out of the figures. TRAINING=1 loads
the product alone for a moment and measures nothing: `cargo xtask dist` counts meanwhile what its code does. TRAINING=start
does not even load it, so that what runs again and again can be told from what a start needs.
"""
import atexit, os, pathlib, re, shutil, signal, socket, statistics, subprocess, sys, tempfile, textwrap, time, typing

TICK = os.sysconf("SC_CLK_TCK")
ROOT = pathlib.Path(__file__).resolve().parent.parent
CPU = os.environ.get("BENCH_CPU", "0")
TRAINING = os.environ.get("TRAINING", "")
QUICK = TRAINING != "" or os.environ.get("QUICK") == "1"
ROUNDS = int(os.environ.get("ROUNDS", "1" if QUICK else "5"))
SECS = int(os.environ.get("SECS", "1" if QUICK else "3"))
CONNS = int(os.environ.get("CONNS", "64"))
FOURTEEN = [f"x-bench-header-{n}: a value of ordinary length {n}" for n in range(12)]  # wrk sends two itself
WORK = pathlib.Path(tempfile.mkdtemp(prefix="dodai-bench-"))
WORK.chmod(0o755)  # nginx workers run as another user
STARTED = []


def cleanup():
    for process in reversed(STARTED):
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
    shutil.rmtree(WORK, ignore_errors=True)


atexit.register(cleanup)


def need(*programs):
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        sys.exit(f"SKIPPED: {', '.join(missing)} not installed; `cargo xtask bench` installs what is needed")


def built(name):
    folder = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "dist"
    path = folder / name
    if not path.exists():
        sys.exit(f"SKIPPED: there is no {path}; `cargo xtask bench` builds it")
    return str(path)


def dodai_binary():
    return os.environ.get("DODAI_BINARY") or built("dodai")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def placed(command):
    batch = ["chrt", "-b", "0"] if os.environ.get("BENCH_BATCH") == "1" else []
    return batch + ["taskset", "-c", CPU] + command


def start(command, pinned=True, **options):
    process = subprocess.Popen(placed(command) if pinned else command, **options)
    STARTED.append(process)
    return process


def move(pid, cpu):
    """Puts a running process with all its threads on another CPU."""
    subprocess.run(["taskset", "-a", "-p", "-c", cpu, str(pid)], check=True, stdout=subprocess.DEVNULL)


def stop(process):
    """As Ctrl-C does."""
    process.send_signal(signal.SIGINT)
    if process.wait(60) != 0:
        sys.exit(f"{process.args} ended with {process.returncode}")


def wait_for(port, seconds=60):
    end = time.time() + seconds
    while time.time() < end:
        try:
            with socket.create_connection(("127.0.0.1", port), 0.2):
                return
        except OSError:
            time.sleep(0.02)
    sys.exit(f"nothing listens on port {port} after {seconds} s")


def wait_for_ok(url, seconds=60):
    end = time.time() + seconds
    while time.time() < end:
        if subprocess.run(["curl", "-sf", "-o", "/dev/null", url]).returncode == 0:
            return
        time.sleep(0.02)
    sys.exit(f"{url} does not answer with 200 after {seconds} s")


# Figures of processes.


def cpu_seconds(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def rss_mb(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", open(f"/proc/{pid}/status").read())[1]) / 1024


def rss_parts(pid):
    """Where it lies: memory that is only the process's own, and files."""
    status = open(f"/proc/{pid}/status").read()
    own, files = (int(re.search(rf"{name}:\s+(\d+)", status)[1]) / 1024 for name in ("RssAnon", "RssFile"))
    return f"{own:.1f} MB of its own, {files:.1f} MB of files"


def descendants(pid):
    found = []
    for children in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            found += [int(child)] + descendants(int(child))
    return found


def median(values):
    return statistics.median(list(values))


# Documents.


def document(kind, name, spec):
    head = f"apiVersion: dodai.dev/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n"
    return head + textwrap.indent(textwrap.dedent(spec).strip(), "  ") + "\n"


def external(name, port, protocol="http"):
    return document("App", name, f"""
        external: {{addresses: ["127.0.0.1:{port}"]}}
        services: [{{name: main, port: {port}, protocol: {protocol}}}]
        """)


def gateway(port):
    return document("Gateway", "front", f"listeners: [{{name: http, address: 127.0.0.1, port: {port}, protocol: HTTP}}]")


def plain_route(app, path="/"):
    return document("Route", app, f"""
        parentRefs: [{{name: front}}]
        rules: [{{matches: [{{path: {{type: PathPrefix, value: {path}}}}}], backendRefs: [{{name: {app}}}]}}]
        """)


def filtered_route(app):
    """Four filters and a timeout: header edits both ways here, access rules and a rate limit beside it."""
    return document("Route", app, f"""
        parentRefs: [{{name: front}}]
        rules:
          - matches: [{{path: {{type: PathPrefix, value: /}}}}]
            filters:
              - type: RequestHeaderModifier
                requestHeaderModifier: {{set: [{{name: x-edge, value: bench}}]}}
              - type: ResponseHeaderModifier
                responseHeaderModifier: {{set: [{{name: x-served-by, value: dodai}}]}}
            backendRefs: [{{name: {app}}}]
            timeouts: {{request: 10s}}
        """) + "---\n" + document("Policy", "limits", f"""
        targetRefs: [{{kind: Route, name: {app}}}]
        rateLimits: [{{requests: 10000000, burst: 1000000}}]
        access:
          default: deny
          rules:
            - {{action: deny, paths: ["/internal/*"]}}
            - {{action: allow, methods: [GET, POST]}}
        """)


def write(name, *documents):
    folder = WORK / name
    folder.mkdir(exist_ok=True)
    (folder / "dodai.yaml").write_text("---\n".join(documents))
    return folder


def base(folder, threads=1, pinned=True):
    command = [dodai_binary(), "base", "--from", str(folder), "--data", str(WORK / "data"), "--threads", str(threads)]
    return start(command, pinned, stdout=subprocess.DEVNULL)


# Peers.

NGINX = """
daemon off; worker_processes 1; pid {work}/{name}.pid; error_log {work}/{name}.err warn; worker_rlimit_nofile 20000;
events {{ worker_connections 8192; }}
http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 300; sendfile on; tcp_nodelay on;
  client_body_temp_path {work}/{name}.b; proxy_temp_path {work}/{name}.p; fastcgi_temp_path {work}/{name}.f;
  uwsgi_temp_path {work}/{name}.u; scgi_temp_path {work}/{name}.s; {body} }}
"""


def nginx(name, body):
    """Starts nginx with one worker and returns that worker's pid."""
    (WORK / f"{name}.conf").write_text(NGINX.format(work=WORK, name=name, body=body))
    master = start(["nginx", "-c", str(WORK / f"{name}.conf")])
    end = time.time() + 10
    while time.time() < end:
        workers = descendants(master.pid)
        if workers:
            return workers[-1]
        time.sleep(0.05)
    sys.exit(f"nginx ({name}) has no worker: {(WORK / f'{name}.err').read_text()}")


def files():
    """A folder with files of 1 B, 1 KB and 64 KB."""
    folder = WORK / "www"
    folder.mkdir(exist_ok=True)
    for name, size in (("1b", 1), ("1k", 1024), ("64k", 65536)):
        (folder / name).write_bytes(b"x" * size)
    return folder


def file_server(port):
    return nginx("backend", f"server {{ listen 127.0.0.1:{port}; root {files()}; }}")


def nginx_proxy(port, backend):
    return nginx("proxy", f"""
        upstream up {{ server 127.0.0.1:{backend}; keepalive 512; keepalive_requests 1000000000; }}
        server {{ listen 127.0.0.1:{port}; location / {{
          proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffers 16 16k; }} }}""")


def haproxy(port, backend, h2=False):
    """Starts HAProxy if it is installed and returns its pid."""
    if shutil.which("haproxy") is None:
        print("SKIPPED: haproxy is not installed")
        return None
    proto = " proto h2" if h2 else ""
    (WORK / "haproxy.cfg").write_text(textwrap.dedent(f"""
        global
          nbthread 1
          maxconn 8192
        defaults
          mode http
          timeout connect 5s
          timeout client 300s
          timeout server 300s
          http-reuse always
        frontend front
          bind 127.0.0.1:{port}{proto}
          default_backend back
        backend back
          server one 127.0.0.1:{backend}{proto} pool-max-conn 512
        """))
    return start(["haproxy", "-db", "-q", "-f", str(WORK / "haproxy.cfg")]).pid


ENVOY = """
static_resources:
  listeners:
    - name: front
      address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: front
                codec_type: AUTO
                route_config:
                  virtual_hosts:
                    - {{name: all, domains: ["*"], routes: [{{match: {{prefix: /}}, route: {{cluster: back, timeout: 10s}}}}]}}
                http_filters:
                  - name: envoy.filters.http.router
                    typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
    - name: back
      type: STATIC
      connect_timeout: 5s
      circuit_breakers: {{thresholds: [{{max_connections: 100000, max_pending_requests: 100000, max_requests: 100000}}]}}
      load_assignment:
        cluster_name: back
        endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {backend}}}}}}}}}]}}]
"""
ENVOY_H2 = """
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config: {http2_protocol_options: {}}
"""


def envoy(port, backend, h2=False):
    """Starts Envoy with one thread if `ENVOY` says where it is, and returns its pid."""
    program = os.environ.get("ENVOY") or shutil.which("envoy")
    if program is None:
        print("SKIPPED: envoy is not installed")
        return None
    script = open(program, "rb").read(2) == b"#!"
    if script:  # what Python's installer puts there starts the real one in a new process
        found = list(pathlib.Path(program).parent.parent.glob("lib/python*/site-packages/envoy/_bin/envoy"))
        program = str(found[0]) if found else program
    (WORK / "envoy.yaml").write_text(ENVOY.format(port=port, backend=backend).rstrip() + (ENVOY_H2.rstrip() if h2 else "") + "\n")
    command = [program, "-c", str(WORK / "envoy.yaml"), "--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
    return start(command, stdout=subprocess.DEVNULL).pid


# Load.


def milliseconds(text):
    value, unit = re.match(r"([\d.]+)(us|ms|s)", text).groups()
    return float(value) * {"us": 0.001, "ms": 1, "s": 1000}[unit]


def wrk(url, seconds, connections, headers=(), script=None):
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency"]
    for header in headers:
        command += ["-H", header]
    if script:
        command += ["-s", str(script)]
    text = subprocess.run(placed(command + [url]), capture_output=True, text=True, check=True).stdout
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    socket_errors = re.search(r"Socket errors: (.*)", text)
    errors = (int(bad[1]) if bad else 0) + (sum(map(int, re.findall(r"\d+", socket_errors[1]))) if socket_errors else 0)
    return dict(
        requests=int(re.search(r"(\d+) requests in", text)[1]),
        rps=float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1]),
        p50=milliseconds(re.search(r"(?m)^\s+50%\s+(\S+)", text)[1]),
        p99=milliseconds(re.search(r"(?m)^\s+99%\s+(\S+)", text)[1]),
        errors=errors,
    )


def h2load(url, seconds, connections, streams, options=()):
    with tempfile.NamedTemporaryFile(dir=WORK) as log:
        command = ["h2load", "-t1", f"-c{connections}", f"-m{streams}", f"-D{seconds}", f"--log-file={log.name}", *options, url]
        subprocess.run(placed(command), capture_output=True, text=True, check=True)
        lines = [line.split() for line in open(log.name)]
    if not lines:
        sys.exit(f"h2load got no answer from {url}")
    times = sorted(int(line[2]) / 1000 for line in lines)
    good = sum(line[1] in ("200", "204") for line in lines)
    return dict(
        requests=len(lines),
        rps=good / seconds,
        p50=times[len(times) // 2],
        p99=times[int(len(times) * 0.99)],
        errors=len(lines) - good,
    )


HEADER = """
| load | peer | req/s | p50 ms | p99 ms | CPU us/req (spread) | ratio to {first} (spread) | RSS MB | errors |
|---|---|---|---|---|---|---|---|---|"""


OTHERS = ("nginx", "haproxy", "envoy")


class Found(typing.NamedTuple):
    """What one peer came to: CPU per request and p50, as ratios to the first peer, failed requests, and the latency that it
    adds to the first peer's, in milliseconds."""
    cpu: float
    p50: float
    errors: int
    added_p50: float = 0
    added_p99: float = 0


def compare(what, peers, load):
    """Runs `load(port, seconds)` against every peer in turn, ROUNDS times, and prints a row for each.

    `peers` maps names to `(port, pids)`; the first is what the others are compared with. Returns, of each peer, the
    median of its CPU ratio, the median of its p50 ratio and the sum of its errors.
    """
    if TRAINING:
        ours = [port for name, (port, _) in peers.items() if name not in OTHERS]
        errors = 0 if TRAINING == "start" else sum(load(port, 2)["errors"] for port in ours)
        return {name: Found(0, 0, 0) for name in peers} | {"dodai": Found(0, 0, errors)}
    results = {name: [] for name in peers}
    for _ in range(ROUNDS):
        for name, (port, pids) in peers.items():
            load(port, 1)
            before = sum(map(cpu_seconds, pids))
            run = load(port, SECS)
            run["cpu"] = (sum(map(cpu_seconds, pids)) - before) / max(run["requests"], 1) * 1e6
            run["rss"] = sum(map(rss_mb, pids))
            results[name].append(run)
    found, first = {}, results[next(iter(peers))]
    for name, runs in results.items():
        middle = lambda key: median(run[key] for run in runs)
        spread = lambda values, form: f"{form % median(values)} ({form % min(values)}-{form % max(values)})"
        ratios = [run["cpu"] / base["cpu"] if base["cpu"] else 0 for run, base in zip(runs, first)]
        errors = sum(run["errors"] for run in runs)
        cpu = spread([run["cpu"] for run in runs], "%.1f")
        print(f"| {what} | {name} | {middle('rps'):.0f} | {middle('p50'):.3f} | {middle('p99'):.2f} | {cpu} | {spread(ratios, '%.2f')} | {middle('rss'):.1f} | {errors} |", flush=True)
        waits = [run["p50"] / base["p50"] for run, base in zip(runs, first)]
        added = [median(run[key] - base[key] for run, base in zip(runs, first)) for key in ("p50", "p99")]
        found[name] = Found(median(ratios), median(waits), errors, *added)
    return found


def table(title, first):
    print(f"\n{title}: {ROUNDS} rounds x {SECS} s interleaved, everything on CPU {CPU}")
    print(HEADER.format(first=first))
