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
backend, ours, secure = h.free_port(), h.free_port(), h.free_port()
h.file_server(backend)
subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                "-subj", "/CN=localhost", "-keyout", h.WORK / "key.pem", "-out", h.WORK / "cert.pem"],
               check=True, capture_output=True)
front = h.document("Gateway", "front", f"""
    listeners:
      - {{name: http, address: 127.0.0.1, port: {ours}, protocol: HTTP}}
      - {{name: https, address: 127.0.0.1, port: {secure}, protocol: HTTPS,
         tls: {{certificateFile: {h.WORK}/cert.pem, keyFile: {h.WORK}/key.pem}}}}
    """)
dodai = h.base(h.write("burst", h.external("backend", backend), front, h.plain_route("backend")), 1, pinned=False)
h.wait_for_ok(f"http://127.0.0.1:{ours}/1k")
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


time.sleep(12)
idle = h.rss_mb(dodai.pid)
print(f"idle {idle:.1f} MB")
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
missed = []
for what, port, wrap, number, bar in (("plain", ours, None, count, 3), ("TLS", secure, context, count // 5, 20)):
    before = h.rss_mb(dodai.pid)
    opened = crowd(port, wrap, number)
    full = h.rss_mb(dodai.pid)
    each = (full - before) * 1024 / number
    print(f"{what}: {number} idle connections, each used once: {full:.1f} MB, {each:.2f} KB each (bar {bar})")
    if each > bar:
        missed.append(f"{each:.1f} KB for a {what} connection")
    for connection in opened:
        connection.close()
time.sleep(settle)
after = h.rss_mb(dodai.pid)
print(f"{settle:.0f} s after all have gone {after:.1f} MB, {after / idle:.2f} of idle (bar 1.10)")
if after > 1.1 * idle:
    missed.append(f"{after:.1f} MB afterwards, {idle:.1f} MB before")
sys.exit("the bar is missed: " + "; ".join(missed) if missed else 0)
