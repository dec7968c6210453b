"""A small app: says its name, calls others by name, keeps state, publishes and hears messages."""

import http.client
import json
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

HEARD = []


def ask(base, method, path, host=None, body=None, headers=None):
    at = urlsplit(base)
    connection = http.client.HTTPConnection(at.hostname, at.port, timeout=20)
    try:
        head = dict(headers or {})
        if host:
            head["Host"] = host
        connection.request(method, path, body=body, headers=head)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def api(method, path, value=None):
    headers = {"content-type": "application/json"}
    if os.environ.get("DAPR_API_TOKEN"):
        headers["dapr-api-token"] = os.environ["DAPR_API_TOKEN"]
    body = None if value is None else json.dumps(value)
    return ask(os.environ["DAPR_HTTP_ENDPOINT"], method, path, body=body, headers=headers)


class Member(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        words = self.path.strip("/").split("/")
        if words[0] == "me":
            words = words[1:]
        if words[:1] == ["call"]:
            status, text = ask(os.environ["DODAI_OUTBOUND"], "GET", "/", host=words[1])
            self.reply(f"{status} {text}" if status == 200 else f"{status}\n")
        elif words[:1] == ["keep"]:
            status, _ = api("POST", "/v1.0/state/store", [{"key": words[1], "value": words[2]}])
            kept, value = api("GET", f"/v1.0/state/store/{words[1]}")
            self.reply(f"{status} {kept} {value}\n")
        elif words[:1] == ["config"]:
            _, text = api("GET", f"/v1.0/configuration/settings?key={words[1]}")
            found = json.loads(text or "{}").get(words[1], {})
            self.reply(f"{found.get('value')}\n")
        elif words[:1] == ["env"]:
            self.reply(f"{os.environ.get(words[1])}\n")
        elif words[:1] == ["publish"]:
            status, _ = api("POST", "/v1.0/publish/bus/news", {"text": words[1]})
            self.reply(f"{status}\n")
        elif words[:1] == ["schedule"]:
            status, _ = api("POST", f"/v1.0/jobs/{words[1]}", {"schedule": "@daily", "repeats": 9})
            self.reply(f"{status}\n")
        elif words[:1] == ["hold"]:
            wish = {"resourceId": words[1], "lockOwner": sys.argv[1], "expiryInSeconds": 600}
            status, text = api("POST", "/v1.0-alpha1/lock/doors", wish)
            self.reply(f"{status} {text}\n")
        elif words[:1] == ["heard"]:
            self.reply(",".join(sorted(set(HEARD))) + "\n")
        elif words[:1] == ["dapr"]:
            self.reply("[]")
        elif words[:1] == ["where"]:
            self.reply(os.getcwd() + "\n")
        else:
            self.reply(sys.argv[1] + "\n")

    def do_POST(self):
        event = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))))
        HEARD.append(event["data"]["text"])
        self.reply("{}")

    def reply(self, text):
        body = text.encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
server = ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Member)
print(sys.argv[1], "listens", flush=True)
server.serve_forever()
