"""A server that a benchmark started: its management API, and bases that join it."""
import http.client, json, subprocess, sys, time
import harness as h


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


class Server:
    """A `dodai server` that nothing is pinned to, with bases of one data-plane thread each."""

    def __init__(self, name="server"):
        self.control = h.free_port()
        data = self.data = h.WORK / name
        self.process = h.start([h.dodai_binary(), "server", "--data", str(data), "--listen", f"127.0.0.1:{self.control}", "--admin", "127.0.0.1:0",
                 "--metrics", "off"], pinned=False, stdout=subprocess.DEVNULL)
        self.api = Api(data)

    def joined(self, name, pinned=True):
        told = self.api.ask("POST", "/v1/tokens", json.dumps({"base": name}).encode())
        return h.start([h.dodai_binary(), "base", "--join", f"127.0.0.1:{self.control}", "--token", told["token"], "--pin", told["pin"],
                        "--name", name, "--data", str(h.WORK / name), "--threads", "1", "--metrics", "off"],
                       pinned=pinned, stdout=subprocess.DEVNULL)

    def outbound(self, app):
        """The address at which an app of a base calls others, once it is there."""
        def found():
            listeners = self.api.ask("GET", "/v1/status")["node"]["listeners"]
            return next((at for name, at in listeners.items() if name.endswith(f"outbound/default/{app}")), None)
        return wait(f"the way out of {app}", found)
