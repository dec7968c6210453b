"""The management API of a server that a benchmark started."""
import http.client, json, sys, time


class Api:
    """The management API on one kept connection."""

    def __init__(self, data):
        end = time.time() + 60
        while not (data / "admin.json").exists():
            if time.time() > end:
                sys.exit("the server did not start")
            time.sleep(0.05)
        told = json.loads((data / "admin.json").read_text())
        self.at = told["address"].split("//")[-1]
        self.headers = {"authorization": f"Bearer {told['token']}"}
        self.connection = http.client.HTTPConnection(self.at, timeout=600)
        self.asked = time.time()

    def ask(self, method, path, body=None):
        if time.time() - self.asked > 5:  # the server ends idle ones
            self.connection.close()
        self.asked = time.time()
        self.connection.request(method, path, body, self.headers)
        answer = self.connection.getresponse()
        text = answer.read()
        if answer.status >= 300:
            sys.exit(f"{method} {path}: {answer.status} {text[:2000].decode()}")
        return json.loads(text) if text else None

    def apply(self, *documents):
        return self.ask("POST", "/v1/documents", "---\n".join(documents).encode())


def wait(what, holds, seconds=300):
    end = time.time() + seconds
    while time.time() < end:
        found = holds()
        if found:
            return found
        time.sleep(0.05)
    sys.exit(f"not within {seconds} s: {what}")
