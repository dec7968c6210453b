#!/usr/bin/env python3
"""A call from one base to another: in at a gateway, out in mutual TLS 1.3 over kept connections, in again at the base of
the app. Beside it two nginx that do the same with certificates of one authority and the same cipher.

Figures are of both proxies together. Bar: at most 1.3x nginx's CPU per request.
usage: bench/mesh.py      env: see harness.py
"""
import subprocess, sys, time
import harness as h
from management import Server, wait

CIPHER = "TLS_AES_256_GCM_SHA384"
h.need("nginx", "wrk", "taskset", "openssl")
backend, inner, outer, ours = (h.free_port() for _ in range(4))
serves = h.WORK / "serves"

# nginx to nginx.
key, certificate = h.WORK / "key.pem", h.WORK / "cert.pem"
subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                "-subj", "/CN=peer", "-addext", "subjectAltName=DNS:peer", "-keyout", key, "-out", certificate],
               check=True, capture_output=True)
near = h.nginx("inner", f"""
    upstream up {{ server 127.0.0.1:{backend}; keepalive 512; keepalive_requests 1000000000; }}
    server {{ listen 127.0.0.1:{inner} ssl; ssl_certificate {certificate}; ssl_certificate_key {key};
      ssl_protocols TLSv1.3; ssl_conf_command Ciphersuites {CIPHER};
      ssl_client_certificate {certificate}; ssl_verify_client on;
      location / {{ proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffers 16 16k; }} }}""")
far = h.nginx("outer", f"""
    upstream up {{ server 127.0.0.1:{inner}; keepalive 512; keepalive_requests 1000000000; }}
    server {{ listen 127.0.0.1:{outer}; location / {{
      proxy_pass https://up; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffers 16 16k;
      proxy_ssl_protocols TLSv1.3; proxy_ssl_name peer; proxy_ssl_server_name on;
      proxy_ssl_certificate {certificate}; proxy_ssl_certificate_key {key};
      proxy_ssl_verify on; proxy_ssl_trusted_certificate {certificate}; }} }}""")
peers = {"nginx": (outer, [near, far])}

# Base to base, of one server. The app is the file server that all share.
server = Server()
server.api.apply(h.document("Base", "front", "labels: {dodai.dev/gateway: \"true\"}"), h.document("Base", "back", "labels: {role: back}"),
                 h.document("App", "backend", f"""
                     process: {{command: [sh, -c, "touch {serves} && exec sleep 1000000"]}}
                     placement: {{labels: {{role: back}}}}
                     services: [{{name: main, port: {backend}, protocol: http}}]
                     """), h.gateway(ours), h.filtered_route("backend"))
bases = [server.joined("front"), server.joined("back")]
# An app is not started on a port that somebody else has, so the file server comes after its process.
wait("the process of the app", serves.exists, 60)
h.file_server(backend)
peers["dodai"] = (ours, [base.pid for base in bases])
wait("the gateway", lambda: subprocess.run(["curl", "-sf", "-o", "/dev/null", f"http://127.0.0.1:{ours}/1k"]).returncode == 0, 60)
for port, _ in peers.values():
    h.wait_for_ok(f"http://127.0.0.1:{port}/1k")

h.table(f"two proxies with mutual TLS between them, {CIPHER}", "nginx")
missed = []
for what, path, connections, bar in ((f"1 KB, c{h.CONNS}", "/1k", h.CONNS, 1.3), (f"64 KB, c{h.CONNS}", "/64k", h.CONNS, None),
                                     ("1 B, c1", "/1b", 1, None)):
    load = lambda port, seconds: h.wrk(f"http://127.0.0.1:{port}{path}", seconds, connections)
    found = h.compare(what, peers, load)["dodai"]
    if found.errors or (bar and found.cpu > bar):
        missed.append(f"{what}: {found.cpu:.2f}x nginx, {found.errors} errors")
if h.TRAINING == "1":
    # What a base that joined does again and again at rest counts, too: its memory is made of that.
    time.sleep(40)
sys.exit("the bar is missed: " + "; ".join(missed) if missed else 0)
