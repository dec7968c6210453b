// A shop of our own for the browser to look at: a copy of examples/shop on free ports, under load.
import { spawn } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "../..");

export const freePort = () =>
  new Promise((done) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => done(port));
    });
  });

/** Starts it; `stop` ends it and removes its folder. */
export async function shop(binary) {
  const folder = mkdtempSync(join(tmpdir(), "dodai-console-"));
  cpSync(join(root, "examples/shop"), folder, { recursive: true, filter: (path) => !/\/(target|\.dodai)(\/|$)/.test(path) });
  // Built once and kept with the other products.
  const built = join(dirname(binary), "console-orders");
  mkdirSync(built, { recursive: true });
  symlinkSync(built, join(folder, "apps/orders/target"));
  const [gateway, recommend] = [await freePort(), await freePort()];
  for (const file of ["traffic.yaml", "dodai.yaml"]) {
    const path = join(folder, file);
    writeFileSync(path, readFileSync(path, "utf8").replaceAll("8080", String(gateway)).replaceAll("9301", String(recommend)));
  }
  const up = spawn(binary, ["up", folder, "--admin", "127.0.0.1:0", "--threads", "1"], { stdio: ["ignore", "pipe", "pipe"] });
  let told = "";
  const link = await new Promise((done, failed) => {
    const look = (chunk) => {
      told += chunk;
      const found = /console: (http:\S+)/.exec(told);
      if (found) done(found[1]);
    };
    up.stdout.on("data", look);
    up.stderr.on("data", look);
    up.on("exit", (code) => failed(new Error(`dodai up ended with ${code}:\n${told}`)));
  });
  const stop = async () => {
    const ended = new Promise((done) => up.on("exit", done));
    up.kill("SIGINT");
    await ended;
    rmSync(folder, { recursive: true, force: true });
  };
  return { link, gateway: `http://127.0.0.1:${gateway}`, pid: up.pid, folder, stop };
}

const PATHS = ["/", "/api/products", "/api/products", "/api/cart", "/api/orders", "/api/recommendations", "/api/notifications", "/api/banner"];

/** Orders something, so that the shop keeps something. */
export async function order(gateway) {
  const headers = { "content-type": "application/json" };
  const take = (response) => {
    const cookie = response.headers.getSetCookie()[0]?.split(";")[0];
    if (cookie) headers.cookie = cookie;
    return response;
  };
  take(await fetch(`${gateway}/api/cart`));
  for (const [path, method, body] of [
    ["/api/cart/lines/lantern", "PUT", { quantity: 2 }],
    ["/api/orders", "POST", { customer: "Aiko <b>" }],
  ]) {
    const response = take(await fetch(gateway + path, { method, headers, body: JSON.stringify(body) }));
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${await response.text()}`);
  }
}

/** Calls the shop `perSecond` times a second until the result is called. */
export function load(gateway, perSecond) {
  let count = 0;
  const timer = setInterval(() => {
    count += 1;
    const path = PATHS[count % PATHS.length];
    fetch(gateway + path, { headers: { "x-lane": count % 3 ? "blue" : "green" } })
      .then((response) => response.arrayBuffer())
      .catch(() => undefined);
  }, 1000 / perSecond);
  return () => clearInterval(timer);
}
