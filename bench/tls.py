#!/usr/bin/env python3
"""A hop that goes out in TLS 1.3 over kept connections, beside nginx with the same cipher. mesh.py has both ends of one.

Bar: at most 1.3x nginx's CPU per request.
usage: bench/tls.py      env: see harness.py
"""
import subprocess, sys
import harness as h

CIPHER = "TLS_AES_256_GCM_SHA384"
h.need("nginx", "wrk", "taskset", "openssl")
backend, proxy, ours = (h.free_port() for _ in range(3))
key, certificate = h.WORK / "key.pem", h.WORK / "cert.pem"
subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                "-subj", "/CN=backend", "-addext", "subjectAltName=DNS:backend", "-keyout", key, "-out", certificate],
               check=True, capture_output=True)
h.nginx("backend", f"""
    server {{ listen 127.0.0.1:{backend} ssl; root {h.files()}; ssl_certificate {certificate}; ssl_certificate_key {key};
      ssl_protocols TLSv1.3; ssl_conf_command Ciphersuites {CIPHER}; }}""")
peers = {"nginx": (proxy, [h.nginx("proxy", f"""
    upstream up {{ server 127.0.0.1:{backend}; keepalive 512; keepalive_requests 1000000000; }}
    server {{ listen 127.0.0.1:{proxy}; location / {{
      proxy_pass https://up; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffers 16 16k;
      proxy_ssl_protocols TLSv1.3; proxy_ssl_name backend; proxy_ssl_server_name on;
      proxy_ssl_verify on; proxy_ssl_trusted_certificate {certificate}; }} }}""")])}
app = h.document("App", "backend", f"""
    external: {{addresses: ["127.0.0.1:{backend}"], tls: {{serverName: backend, ca: {certificate}}}}}
    services: [{{name: main, port: {backend}}}]
    """)
dodai = h.base(h.write("tls", app, h.gateway(ours), h.filtered_route("backend")))
peers["dodai"] = (ours, [dodai.pid])
for port, _ in peers.values():
    h.wait_for(port)
    h.wait_for_ok(f"http://127.0.0.1:{port}/1k")

h.table(f"a hop out in TLS, {CIPHER}", "nginx")
missed = []
for what, path, bar in ((f"1 KB, c{h.CONNS}", "/1k", 1.3), (f"64 KB, c{h.CONNS}", "/64k", None)):
    load = lambda port, seconds: h.wrk(f"http://127.0.0.1:{port}{path}", seconds, h.CONNS)
    found = h.compare(what, peers, load)["dodai"]
    if found.errors or (bar and found.cpu > bar):
        missed.append(f"{what}: {found.cpu:.2f}x nginx, {found.errors} errors")
sys.exit("the bar is missed: " + "; ".join(missed) if missed else 0)
