// A server and two bases for the browser to look at: one is the gateway to an app that runs outside, under load.
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer as serve } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { freePort } from "./shop.mjs";

const wait = (ms) => new Promise((done) => setTimeout(done, ms));

async function until(what, holds) {
  const end = Date.now() + 60_000;
  while (Date.now() < end) {
    const found = await holds().catch(() => undefined);
    if (found) return found;
    await wait(100);
  }
  throw new Error(`not within a minute: ${what}`);
}

/** Starts them; `stop` ends them and removes their folders. */
export async function fleet(binary) {
  const folder = mkdtempSync(join(tmpdir(), "dodai-fleet-"));
  const [control, gateway, outside] = [await freePort(), await freePort(), await freePort()];
  const running = [];
  const start = (...args) => {
    const child = spawn(binary, args, { cwd: folder, stdio: "ignore" });
    running.push(child);
  };
  const backend = serve((_, response) => response.end("hello\n")).listen(outside, "127.0.0.1");
  start("server", "--data", join(folder, "server"), "--listen", `127.0.0.1:${control}`, "--admin", "127.0.0.1:0", "--metrics", "off");
  const file = join(folder, "server/admin.json");
  const admin = await until("the server answers", async () => existsSync(file) && JSON.parse(readFileSync(file, "utf8")));
  const origin = `http://${admin.address}`;
  const ask = async (method, path, body) => {
    const headers = { authorization: `Bearer ${admin.token}`, "content-type": "application/json" };
    const response = await fetch(origin + path, { method, headers, body: body && JSON.stringify(body) });
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${await response.text()}`);
    return response.json();
  };
  for (const name of ["one", "two"]) {
    const { token, pin } = await ask("POST", "/v1/tokens", { base: name });
    start("base", "--join", `127.0.0.1:${control}`, "--data", join(folder, name), "--name", name, "--token", token, "--pin", pin, "--threads", "1", "--metrics", "off");
  }
  const documents = [
    { apiVersion: "dodai.dev/v1", kind: "Base", metadata: { name: "one" }, spec: { labels: { "dodai.dev/gateway": "" } } },
    { apiVersion: "dodai.dev/v1", kind: "App", metadata: { name: "hello" }, spec: { external: { addresses: [`127.0.0.1:${outside}`] }, services: [{ name: "http", port: outside }] } },
    { apiVersion: "dodai.dev/v1", kind: "Gateway", metadata: { name: "front" }, spec: { listeners: [{ name: "http", address: "127.0.0.1", port: gateway, protocol: "HTTP" }] } },
    { apiVersion: "dodai.dev/v1", kind: "Route", metadata: { name: "all" }, spec: { parentRefs: [{ name: "front" }], rules: [{ backendRefs: [{ name: "hello" }] }] } },
  ];
  await ask("POST", "/v1/documents", { files: documents.map((one) => ({ name: one.kind, content: JSON.stringify(one) })) });
  await until("the gateway answers", async () => (await fetch(`http://127.0.0.1:${gateway}/`)).ok);
  await until("both bases tell", async () => {
    const { known, silent } = await ask("GET", "/v1/traffic");
    return known && silent.length === 0 && (await ask("GET", "/v1/bases")).items.length === 2;
  });
  const stop = async () => {
    const ended = running.map((child) => new Promise((done) => child.on("exit", done)));
    for (const child of running) child.kill("SIGINT");
    await Promise.all(ended);
    backend.close();
    rmSync(folder, { recursive: true, force: true });
  };
  return { link: `${origin}/#token=${encodeURIComponent(admin.token)}`, gateway: `http://127.0.0.1:${gateway}`, stop };
}
