"""Shared parts of the benchmarks: processes that end with the script, CPU time, load runs.

Method: load generator, backend and proxy on one CPU (a wake-up across CPUs would drown everything), peers visited in
turn within each round, medians over rounds, CPU microseconds per request (user and system time of the process, all
threads) as the figure to compare. Everything is on loopback and bounded in time.
"""
import atexit, os, pathlib, re, shutil, signal, socket, statistics, subprocess, sys, tempfile, time

TICK = os.sysconf("SC_CLK_TCK")
ROOT = pathlib.Path(__file__).resolve().parent.parent
CPU = os.environ.get("BENCH_CPU", "0")
WORK = pathlib.Path(tempfile.mkdtemp(prefix="dodai-bench-"))
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
        sys.exit(f"SKIPPED: {', '.join(missing)} not installed (apt-get install {' '.join(missing)})")


def dodai_binary():
    given = os.environ.get("DODAI_BINARY")
    path = pathlib.Path(given) if given else pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "dodai"
    if not path.exists():
        sys.exit(f"no release binary at {path}; run `cargo build --release` or set DODAI_BINARY")
    return str(path)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(command, pinned=True, **options):
    prefix = ["taskset", "-c", CPU] if pinned else []
    process = subprocess.Popen(prefix + command, **options)
    STARTED.append(process)
    return process


def wait_for(port, seconds=30):
    end = time.time() + seconds
    while time.time() < end:
        try:
            with socket.create_connection(("127.0.0.1", port), 0.2):
                return
        except OSError:
            time.sleep(0.02)
    sys.exit(f"nothing listens on port {port} after {seconds} s")


def cpu_seconds(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def rss_mb(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", open(f"/proc/{pid}/status").read())[1]) / 1024


def milliseconds(text):
    value, unit = re.match(r"([\d.]+)(us|ms|s)", text).groups()
    return float(value) * {"us": 0.001, "ms": 1, "s": 1000}[unit]


def wrk(url, seconds, connections, headers=()):
    command = ["taskset", "-c", CPU, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency"]
    for header in headers:
        command += ["-H", header]
    text = subprocess.run(command + [url], capture_output=True, text=True, check=True).stdout
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


def median(values):
    return statistics.median(values)
