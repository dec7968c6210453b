// Opens every page of the console in a browser, against a shop under load, and uses it: what is shown must be right,
// nothing may be refused by the content policy or fail in the page, and axe must find nothing serious.
import assert from "node:assert/strict";
import { join } from "node:path";
import { chromium } from "playwright-core";
import { actions, locks } from "./actions.mjs";
import { fleet } from "./fleet.mjs";
import { keyboard } from "./keyboard.mjs";
import { apply, binary, check, copied, drawn, go, inTerminal as inProject, shot, shots } from "./page.mjs";
import { load, order, shop } from "./shop.mjs";
import { sweep } from "./sweep.mjs";
import { calls } from "./tap.mjs";
import { topology } from "./topology.mjs";

const browserPath = process.env.CHROMIUM ?? "/usr/bin/chromium";

const running = await shop(binary);
await order(running.gateway);
const unload = load(running.gateway, 60);
const browser = await chromium.launch({ executablePath: browserPath, args: ["--no-sandbox", "--disable-gpu"] });
const mishaps = [];

/** A page of a browser of its own. */
async function open(options = {}) {
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, locale: "en-US", colorScheme: "light", ...options });
  await context.grantPermissions(["clipboard-read", "clipboard-write"]);
  const page = await context.newPage();
  page.setDefaultTimeout(15_000);
  page.on("pageerror", (error) => mishaps.push(`${page.url()}: ${error.message}`));
  page.on("console", (message) => {
    // What the server refuses on purpose is told by the browser too.
    if (message.type() === "error" && !/status of (400|401|404|409|422)/.test(message.text())) mishaps.push(`${page.url()}: ${message.text()}`);
  });
  return page;
}

/** Runs a command that was copied where the shop's folder is. */
const inTerminal = (command) => inProject(running.folder, command);

async function login(page) {
  await page.goto(new URL("/", running.link).href);
  await page.getByText("Or paste the token").waitFor();
  await check(page, "login");
  await page.getByLabel("Or paste the token").fill("dodai-api-wrong");
  await page.getByRole("button", { name: "Log in" }).click();
  await page.getByRole("alert").waitFor();
  await page.goto("about:blank");
  await page.goto(running.link);
  await page.getByRole("heading", { name: "Home" }).waitFor();
  assert.ok(!page.url().includes("token"), "the token stays in the address");
  const cookies = await page.context().cookies();
  assert.equal(cookies.length, 1);
  assert.ok(cookies[0].httpOnly && cookies[0].sameSite === "Strict", "the cookie is open to scripts or other sites");
}

async function home(page) {
  await page.locator(".app-card", { hasText: "web" }).waitFor();
  await page.getByText("What changed lately").waitFor();
  await page.locator(".list", { hasText: "recommend" }).first().waitFor();
  await drawn(page);
  await page.waitForFunction(() => [...document.querySelectorAll(".app-card")].some((card) => card.textContent.includes("web") && Number.parseFloat(card.querySelector("dd").textContent) > 0));
  await shot(page, "home");
  await check(page, "home");
}

async function app(page) {
  await page.locator(".app-card", { hasText: "web" }).first().click();
  await page.getByRole("heading", { name: "Latency" }).waitFor();
  await page.getByText("Calls, as seen in traffic").waitFor();
  await page.getByRole("cell", { name: "catalog" }).waitFor();
  await drawn(page);
  await shot(page, "app");
  await check(page, "app");
  await page.getByRole("link", { name: "Revisions" }).click();
  await page.getByText("newest").waitFor();
  // The load calls it: rate, no errors, and latencies of the revision itself.
  await page.waitForFunction(() => {
    const row = [...document.querySelectorAll("tbody tr")].find((one) => one.textContent.includes("newest"));
    const [perSecond, errors, p50, p99] = [...(row?.querySelectorAll("td") ?? [])].slice(3, 7).map((cell) => cell.textContent);
    return Number.parseFloat(perSecond ?? "") > 1 && /%$/.test(errors) && /[µm]?s$/.test(p50) && /[µm]?s$/.test(p99);
  });
  await shot(page, "revisions");
  await check(page, "revisions");
  await shares(page);
  await page.getByRole("link", { name: "Configuration" }).click();
  await page.getByText("artifacts/web.wasm").or(page.getByText("sha256:")).first().waitFor();
  await check(page, "configuration");
  await go(page, "/apps/default/orders/logs");
  await page.getByLabel("Search in lines").waitFor();
  await page.locator(".logs > div").first().waitFor();
  await shot(page, "logs");
  await check(page, "logs");
  await go(page, "/apps/default/catalog");
  await page.getByRole("button", { name: "Restart" }).click();
  const act = page.getByRole("dialog").getByRole("button", { name: "Restart", exact: true });
  assert.ok(await act.isDisabled(), "nothing was typed");
  await page.getByLabel("Type catalog to confirm").fill("catalog");
  await shot(page, "restart");
  await check(page, "restart");
  await act.click();
  await page.getByRole("dialog").waitFor({ state: "detached" });
  await go(page, "/");
  await page.locator(".list", { hasText: "catalog" }).first().waitFor();
}

/** Calls are split between the newest revision by its name and whichever is the newest, and all given back. */
async function shares(page) {
  const newest = await page.locator("tr", { hasText: "newest" }).locator("code").first().textContent();
  const dialog = page.getByRole("dialog");
  const open = () => page.getByRole("button", { name: "Move calls…" }).click();
  const move = async () => {
    await dialog.getByLabel("Type web to confirm").fill("web");
    await dialog.getByRole("button", { name: "Move", exact: true }).click();
    await dialog.waitFor({ state: "detached" });
  };
  // Whoever else changes the shares, the dialog shows what is.
  const says75 = () => page.waitForFunction(() => document.querySelector("dialog input[type=number]")?.value === "75");
  await open();
  await dialog.getByText("This app came from a file.").waitFor();
  await dialog.getByLabel("Type web").fill("web");
  assert.ok(await dialog.getByRole("button", { name: "Move", exact: true }).isDisabled(), "nothing was changed, and it can be moved");
  await dialog.getByLabel(`Weight of ${newest}`).fill("25");
  await dialog.getByLabel("Weight of latest").fill("75");
  await dialog.getByText(`revision: ${newest}`).waitFor();
  await dialog.getByLabel("Type web to confirm").fill("web");
  await shot(page, "shares");
  await check(page, "shares");
  await dialog.getByRole("button", { name: /Copy as a command/ }).click();
  const command = await copied(page);
  await move();
  await open();
  await says75();
  await dialog.getByLabel(`Weight of ${newest}`).fill("0");
  await move();
  // What is copied does the same from a terminal.
  await inTerminal(command);
  await open();
  await says75();
  await dialog.getByLabel(`Weight of ${newest}`).fill("0");
  await move();
}

async function documents(page) {
  await go(page, "/documents");
  await page.getByRole("link", { name: "recommend" }).last().waitFor();
  await go(page, "/documents/Policy/default/recommend");
  const field = page.getByLabel("The document as YAML");
  await field.waitFor();
  const text = await field.inputValue();
  assert.match(text, /request: 700ms/);
  await field.fill(text.replace("request: 700ms", "requst: 800ms")); // misspelt, to see what is said
  await page.getByText("did you mean `request`?").first().waitFor();
  await shot(page, "documents");
  await check(page, "documents");
  await field.fill(text.replace("request: 700ms", "request: 800ms"));
  await page.getByText("The server would take it.").waitFor();
  await page.getByRole("button", { name: "See what changes…" }).click();
  await page.getByRole("dialog").getByText("request: 800ms").waitFor();
  await shot(page, "diff");
  await check(page, "diff");
  await page.getByRole("dialog").getByRole("button", { name: "Apply", exact: true }).click();
  await page.getByRole("dialog").waitFor({ state: "detached" });
  await page.getByRole("button", { name: "History" }).click();
  await page.locator(".list li", { hasText: "console" }).first().waitFor();
  await page.getByRole("button", { name: "What changed" }).first().click();
  await page.getByRole("region", { name: "What changed" }).getByText("request: 800ms").waitFor();
  await shot(page, "history");
  await check(page, "history");
  await page.getByRole("button", { name: "Bring back…" }).first().click();
  await page.getByRole("dialog").getByRole("button", { name: "Apply", exact: true }).click();
  await page.getByRole("dialog").waitFor({ state: "detached" });
  await page.getByRole("button", { name: "Document", exact: true }).click();
  await page.waitForFunction(() => document.querySelector(".editor textarea")?.value.includes("request: 700ms"));
}

async function components(page) {
  await go(page, "/components/default/shop-state?of=orders");
  await page.getByText("Keys in shop-state").waitFor();
  await page.locator(".list button").first().click();
  await page.locator("pre.value").waitFor();
  await shot(page, "components");
  await check(page, "components");
  await go(page, "/components/default/shop-pubsub");
  await page.getByRole("combobox", { name: "Topic" }).fill("order.placed");
  await page.getByRole("button", { name: "Publish…", exact: true }).click();
  await page.getByLabel("Type order.placed to confirm").fill("order.placed");
  await page.getByRole("dialog").getByRole("button", { name: "Publish", exact: true }).click();
  await page.getByText("1 published from here").waitFor();
  // What nobody listens to waits, is looked at, and goes where it is wanted.
  await page.getByRole("combobox", { name: "Topic" }).fill("letters");
  await page.getByLabel("Data").first().fill('{"topic": "order.unheard", "note": "<img src=x onerror=globalThis.hit=1>"}');
  await page.getByRole("button", { name: "Publish…", exact: true }).click();
  await page.getByLabel("Type letters to confirm").fill("letters");
  await page.getByRole("dialog").getByRole("button", { name: "Publish", exact: true }).click();
  await page.getByRole("button", { name: "Look at letters of nobody yet" }).click();
  await page.locator("pre.value", { hasText: "onerror" }).first().waitFor();
  await shot(page, "topics");
  await check(page, "topics");
  await page.getByRole("button", { name: "Replay…" }).first().click();
  await page.getByLabel("To topic").fill("order.unheard");
  await page.getByLabel("Type order.unheard to confirm").fill("order.unheard");
  await shot(page, "replay");
  await check(page, "replay");
  await page.getByRole("dialog").getByRole("button", { name: /Copy as a command/ }).click();
  const command = await copied(page);
  assert.match(command, /^dodai topic replay --to=order.unheard shop-pubsub letters \S+$/);
  await page.getByRole("dialog").getByRole("button", { name: "Replay", exact: true }).click();
  await page.getByText("Nothing waits").waitFor();
  await page.getByRole("button", { name: "Look at order.unheard of nobody yet" }).click();
  await page.locator("pre.value", { hasText: "onerror" }).first().waitFor();
  assert.equal(await page.evaluate(() => globalThis.hit), undefined, "markup of a message ran in the page");
  await go(page, "/components/default/shop-config");
  await page.getByLabel("Key", { exact: true }).fill("banner");
  await page.getByLabel("Value", { exact: true }).waitFor();
  await check(page, "values");
}

/** Jobs of an app of our own, of which one is deleted by the button and one from a terminal. */
async function jobs(page) {
  await go(page, "/jobs");
  await page.getByText("Apps schedule jobs by their runtime API:").waitFor();
  await check(page, "no jobs");
  const markup = "<img src=x onerror=globalThis.hit=1>";
  const script = `
    const headers = { "dapr-api-token": process.env.DAPR_API_TOKEN, "content-type": "application/json" };
    const body = JSON.stringify({ schedule: "@daily", repeats: 3 });
    for (const name of ["report", "markup"]) fetch(process.env.DAPR_HTTP_ENDPOINT + "/v1.0/jobs/" + encodeURIComponent(name === "markup" ? ${JSON.stringify(markup)} : name), { method: "POST", headers, body });
    setInterval(() => undefined, 1000);`;
  const app = { apiVersion: "dodai.dev/v1", kind: "App", metadata: { name: "timer" }, spec: { process: { command: [process.execPath, "-e", script] } } };
  await apply(page, app);
  const row = (name) => page.locator("tbody tr", { hasText: name });
  await row("onerror").waitFor();
  await row("report").getByText("0 of 3").waitFor();
  await row("report").getByText("has not run yet").waitFor();
  await page.getByRole("combobox", { name: "App" }).selectOption("default/timer");
  await page.waitForURL(/of=default%2Ftimer/);
  await shot(page, "jobs");
  await check(page, "jobs");
  await page.getByRole("button", { name: "Delete report of timer" }).click();
  await page.getByLabel("Type report to confirm").fill("report");
  await check(page, "delete a job");
  await page.getByRole("dialog").getByRole("button", { name: "Delete", exact: true }).click();
  await page.getByRole("dialog").waitFor({ state: "detached" });
  await row("report").waitFor({ state: "detached" });
  await page.getByRole("button", { name: /^Delete .* of timer$/ }).click();
  await page.getByRole("dialog").getByRole("button", { name: /Copy as a command/ }).click();
  await inTerminal(await copied(page));
  await page.getByRole("dialog").getByRole("button", { name: "Cancel" }).click();
  await row("onerror").waitFor({ state: "detached" });
  assert.equal(await page.evaluate(() => globalThis.hit), undefined, "markup of a job ran in the page");
  await inTerminal("dodai delete app timer");
}

async function bases(page) {
  await go(page, "/bases");
  await page.getByText("Snapshot in force").waitFor();
  await check(page, "bases");
}

/** An app that writes markup, whose output must stay text; it is removed as a person would. */
async function attacks(page) {
  const markup = "<img src=x onerror=globalThis.hit=1><script>globalThis.hit=1</script>";
  const document = {
    apiVersion: "dodai.dev/v1",
    kind: "App",
    metadata: { name: "shouter", labels: { note: "x" }, annotations: { note: markup } },
    spec: { process: { command: ["/bin/sh", "-c", `while :; do echo '${markup}'; sleep 1; done`] } },
  };
  const bare = await page.evaluate(async (body) => {
    const headers = { "content-type": "application/json" };
    return (await fetch("/v1/documents", { method: "POST", headers, body })).status;
  }, JSON.stringify({ files: [{ name: "shouter", content: JSON.stringify(document) }] }));
  assert.equal(bare, 401, "the cookie alone opens the API");
  await apply(page, document);
  await go(page, "/apps/default/shouter/logs");
  await page.getByText(markup).first().waitFor();
  await page.getByLabel("Search in lines").fill("<img");
  await page.locator("mark", { hasText: "<img" }).first().waitFor();
  await go(page, "/apps/default/shouter/configuration");
  await page.getByText("onerror").first().waitFor();
  await go(page, "/documents/App/default/shouter");
  await page.getByRole("button", { name: "Remove" }).click();
  await page.getByLabel("Type shouter to confirm").fill("shouter");
  await page.getByRole("dialog").getByRole("button", { name: "Remove", exact: true }).click();
  await page.getByText("It is not there now.").waitFor();
  await page.getByRole("button", { name: "Bring back…" }).first().waitFor();
  assert.equal(await page.evaluate(() => globalThis.hit), undefined, "markup of an app ran in the page");
}

async function shell(page) {
  await page.keyboard.press("Control+k");
  await page.getByRole("combobox").fill("orders");
  await page.getByRole("option").first().waitFor();
  await shot(page, "search");
  await check(page, "search");
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "orders", level: 1 }).waitFor();
  await page.getByRole("button", { name: "15m" }).click();
  await page.getByRole("link", { name: "Home" }).click();
  assert.match(page.url(), /range=15m/, "the time range is lost from page to page");
  await page.getByRole("button", { name: "5m", exact: true }).click();
  await page.getByRole("button", { name: "Dark" }).click();
  await drawn(page);
  await shot(page, "home-dark");
  await check(page, "home in the dark");
  await page.getByRole("button", { name: "中文" }).click();
  await page.getByRole("heading", { name: "首页" }).waitFor();
  await drawn(page);
  await shot(page, "home-zh");
  await check(page, "home in Chinese");
  // Problems of a document: what this page finds, and what the server does.
  await go(page, "/documents/Policy/default/recommend");
  const field = page.locator(".editor textarea");
  await field.waitFor();
  const text = await field.inputValue();
  await field.fill(text.replace("request:", "requst:")); // misspelt, to see what is said
  await page.getByText("是否想写 `request`？").first().waitFor();
  await field.fill(text.replace(/(targetRefs:\s+- kind: App\s+name: )recommend/, "$1nobody"));
  await page.getByText(/引用的对象不存在：/).first().waitFor();
  await check(page, "problems in Chinese");
  await field.fill(text);
  await page.getByRole("link", { name: "首页" }).click();
  await page.getByRole("button", { name: "English" }).click();
  await page.getByRole("heading", { name: "Home" }).waitFor();
  await page.getByRole("button", { name: "Log out" }).click();
  await page.getByText("Or paste the token").waitFor();
  await page.reload();
  await page.getByText("Or paste the token").waitFor();
}

/** The page that the shop's own customers see, in a browser of its own: something is bought. */
async function customer() {
  const page = await open();
  await page.goto(running.gateway);
  await page.getByRole("button", { name: /^Add .+ to the cart$/ }).nth(7).waitFor();
  await page.getByText("recommendations are unavailable right now").waitFor();
  await page.getByRole("button", { name: /^Add .+ to the cart$/ }).first().click();
  await page.locator("#cart-count", { hasText: "1" }).waitFor();
  await page.locator("#open-cart").click();
  await page.getByLabel("Your name").fill("Mei from the browser");
  await page.getByRole("button", { name: "Place the order" }).click();
  await page.locator("#orders li", { hasText: "Mei from the browser" }).first().waitFor();
  await page.locator("#notes li", { hasText: "Mei from the browser" }).first().waitFor();
  await check(page, "the shop");
  await page.context().close();
}

/** A server with 150 bases: some are shown at a time, and any is found. */
async function manyBases(page) {
  await page.route("**/v1/bases", async (route) => {
    const response = await route.fetch();
    const told = await response.json();
    const items = Array.from({ length: 150 }, (_, at) => ({ ...told.items[at % told.items.length], name: `base-${at}`, connected: at !== 77 }));
    await route.fulfill({ response, json: { ...told, items } });
  });
  const are = (count) => page.waitForFunction((count) => [...document.querySelectorAll("dt")].filter((one) => one.textContent === "Snapshot in force").length === count, count);
  await page.getByText("1 to 20 of 150").waitFor();
  await page.getByText("150 bases, 1 away").waitFor();
  await are(20);
  assert.match(await page.locator("section.panel h2").first().textContent(), /base-77$/, "what is in trouble comes first");
  await check(page, "many bases");
  await page.getByRole("button", { name: "More" }).click();
  await page.getByText("21 to 40 of 150").waitFor();
  await page.getByRole("searchbox", { name: "Base, app or component" }).fill("base-149");
  await are(1);
  await page.getByRole("searchbox", { name: "Base, app or component" }).fill("");
  await page.unroute("**/v1/bases");
}

/** The console of a server: what its bases measure is there, added up. */
async function server() {
  const several = await fleet(binary);
  const unload = load(several.gateway, 20);
  try {
    const page = await open();
    await page.goto(several.link);
    const card = page.locator(".app-card", { hasText: "hello" });
    await card.waitFor();
    await page.waitForFunction(() => Number.parseFloat(document.querySelector(".app-card dd")?.textContent ?? "0") > 5);
    await check(page, "home of a server");
    await go(page, "/bases");
    for (const name of ["one", "two"]) {
      const base = page.getByRole("region", { name });
      await base.getByText("Memory of the base").waitFor();
      await base.getByText("connected for").waitFor();
    }
    await shot(page, "bases");
    await check(page, "bases of a server");
    await manyBases(page);
    await go(page, "/topology");
    await page.getByRole("button", { name: "Calls of Outside to hello" }).press("Enter");
    await page.locator(".samples li").first().waitFor();
    await page.getByRole("button", { name: "Base", exact: true }).click();
    await page.getByRole("button", { name: "Calls of one to Outside" }).press("Enter");
    await page.locator(".samples li").first().waitFor();
    await page.context().close();
  } finally {
    unload();
    await several.stop();
  }
}

try {
  await server();
  console.log("ok server");
  await customer();
  console.log("ok customer");
  const page = await open();
  const parts = {
    ...{ login, home, app, actions: (page) => actions(page, running.folder), calls: (page) => calls(page, running.gateway), topology, documents, components },
    ...{ locks: (page) => locks(page, running.folder), jobs, bases, attacks, keyboard, sweep, shell },
  };
  const wanted = process.env.PARTS?.split(",");
  const failed = [];
  for (const [name, part] of Object.entries(parts)) {
    if (name !== "login" && wanted && !wanted.includes(name)) continue;
    try {
      await part(page);
      console.log(`ok ${name}`);
    } catch (error) {
      // The others are tried, too: what fails is seen in one run.
      console.log(`FAILED ${name}: ${error.stack}`);
      failed.push(name);
      if (shots) await page.screenshot({ path: join(shots, `failed-${name}.png`) });
      await page.goto(running.link);
    }
  }
  assert.deepEqual(mishaps, [], "something failed in a page");
  assert.deepEqual(failed, [], "parts of the console do not work");
} finally {
  unload();
  await browser.close();
  await running.stop();
}
