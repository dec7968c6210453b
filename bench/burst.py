#!/usr/bin/env python3
"""Memory of a base before, during and after 10,000 client connections, plain and with TLS.

Bars: 3 KB for each further idle plain connection, 20 KB for one with TLS; within 10 % of idle 60 s after a burst.
usage: bench/burst.py      env: BURST=10000, SETTLE=60, and see harness.py
"""
import os, resource, socket, ssl, subprocess, sys, time
import harness as h

h.need("nginx", "taskset", "openssl")
count, settle = int(os.environ.get("BURST", "10000")), float(os.environ.get("SETTLE", "60"))
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # the base inherits it; both hold one descriptor a connection
if count + 500 > most:
    sys.exit(f"SKIPPED: {count} connections need more descriptors than the {most} that `ulimit -Hn` gives")
backend = h.free_port()
h.file_server(backend)
subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                "-subj", "/CN=localhost", "-keyout", h.WORK / "key.pem", "-out", h.WORK / "cert.pem"],
               check=True, capture_output=True)
FEW = 100
REQUEST = b"GET /1k HTTP/1.1\r\nHost: a\r\n\r\n"


def use(connection):
    connection.sendall(REQUEST)
    got = b""
    while len(got) < 1024 or b"\r\n\r\n" not in got:
        got += connection.recv(4096)


def crowd(port, context, number):
    opened = []
    for _ in range(number):
        connection = socket.create_connection(("127.0.0.1", port))
        if context:
            connection = context.wrap_socket(connection)
        use(connection)
        opened.append(connection)
    return opened


def gateway(port, protocol):
    tls = f", tls: {{certificateFile: {h.WORK}/cert.pem, keyFile: {h.WORK}/key.pem}}" if protocol == "HTTPS" else ""
    return h.document("Gateway", "front", f"""
        listeners: [{{name: main, address: 127.0.0.1, port: {port}, protocol: {protocol}{tls}}}]
        """)


def measure(what, protocol, context, number, bar):
    """A base of its own for each kind, since one would use the memory again that the other left."""
    port, name = h.free_port(), what.lower()
    folder = h.write(name, h.external("backend", backend), gateway(port, protocol), h.plain_route("backend"))
    dodai = h.base(folder, 1, pinned=False)
    rss = lambda: f"{h.rss_mb(dodai.pid):.1f} MB ({h.rss_parts(dodai.pid)})"
    h.wait_for(port)
    # Some at first: the first calls of a kind read the code for them from the program's file.
    for connection in crowd(port, context, FEW):
        connection.close()
    time.sleep(settle)
    idle = h.rss_mb(dodai.pid)
    print(f"{what}: idle {rss()}")
    opened = crowd(port, context, FEW)
    before = h.rss_mb(dodai.pid)
    opened += crowd(port, context, number)
    each = (h.rss_mb(dodai.pid) - before) * 1024 / number
    print(f"{what}: {number} idle connections, each used once: {rss()}, {each:.2f} KB each (bar {bar})")
    for connection in opened:
        connection.close()
    time.sleep(settle)
    after = h.rss_mb(dodai.pid)
    print(f"{what}: {settle:.0f} s after all have gone {rss()}, {after / idle:.2f} of idle (bar 1.10)")
    h.stop(dodai)
    if each > bar:
        missed.append(f"{each:.1f} KB for a {what} connection")
    if after > 1.1 * idle:
        missed.append(f"{what}: {after:.1f} MB afterwards, {idle:.1f} MB before")


context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
missed = []
measure("plain", "HTTP", None, count, 3)
measure("TLS", "HTTPS", context, count // 5, 20)
sys.exit("the bar is missed: " + "; ".join(missed) if missed else 0)
