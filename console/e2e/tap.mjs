// The live tap: each of its filters typed, and one call opened.
import assert from "node:assert/strict";
import { check, copied, go, shot } from "./page.mjs";

const field = (page, name) => page.getByLabel(name, { exact: true });

/** The text of one column of every call that is shown. */
const column = (page, at) => page.evaluate((at) => [...document.querySelectorAll("tbody tr")].map((row) => row.children[at].textContent), at);

/** Waits until there are calls, and all of them are as wanted. */
async function all(page, at, what, isRight) {
  const end = Date.now() + 15_000;
  let told = [];
  do {
    await page.locator("tbody tr").nth(2).waitFor();
    told = await column(page, at);
  } while (Date.now() < end && !(told.length > 2 && told.every(isRight)));
  assert.ok(told.length > 2 && told.every(isRight), `${what}: ${told.filter((one) => !isRight(one))}`);
}

/** In milliseconds. */
const millis = (text) => Number.parseFloat(text) * (text.endsWith("µs") ? 0.001 : text.endsWith("ms") ? 1 : 1000);

/** By app, route, status, latency and header, each alone, and then all of them as a command. */
async function filters(page) {
  await go(page, "/calls");
  await field(page, "App").fill("catalog");
  await page.waitForURL(/app=catalog/);
  await all(page, 4, "calls of another app", (to) => to === "catalog");
  await field(page, "App").fill("");
  await field(page, "Caller").fill("default/web");
  await page.waitForURL(/caller=default%2Fweb/);
  await all(page, 3, "calls of another caller", (from) => from === "web");
  await field(page, "Caller").fill("");
  await field(page, "Route").fill("shop/everything");
  await page.waitForURL(/route=shop%2Feverything/);
  await all(page, 3, "calls by another rule", (from) => from === "outside");
  await page.locator("tbody tr button").first().click();
  await page.locator("dd", { hasText: /^default\/shop\/everything$/ }).waitFor();
  await page.getByRole("button", { name: "Close" }).click();
  await field(page, "Route").fill("");
  await field(page, "Status").fill("500-599");
  await page.waitForURL(/status=500-599/);
  // Recommendations run nowhere.
  await all(page, 1, "calls with another status", (status) => /^5\d\d/.test(status));
  await check(page, "calls by status");
  await field(page, "Status").fill("two hundred");
  await page.getByRole("alert").waitFor();
  await field(page, "Status").fill("");
  await field(page, "Slower than (ms)").fill("1.5");
  await page.waitForURL(/slower=1.5/);
  await all(page, 5, "calls that were quicker", (took) => millis(took) >= 1.5);
  await field(page, "Slower than (ms)").fill("");
  await field(page, "Header").fill("x-lane:green");
  await page.locator("tbody tr").nth(5).waitFor();
  await all(page, 3, "calls without the header", (from) => from === "outside");
  await page.locator("tbody tr button").first().click();
  await page.locator("dd", { hasText: /^green$/ }).waitFor();
  await page.getByRole("button", { name: "Close" }).click();
  await field(page, "App").fill("web");
  await field(page, "Route").fill("shop/everything");
  await field(page, "Status").fill("2xx");
  await field(page, "Slower than (ms)").fill("0.1");
  await page.waitForURL(/slower=0.1/);
  await page.getByLabel("Errors only").check();
  await page.getByRole("button", { name: /Copy as a command/ }).first().click();
  assert.equal(await copied(page), "dodai tap web --route default/shop/everything --status 2xx --slower-than 0.1ms --header x-lane:green --errors");
}

/** A path and a header that would be markup stay text. */
async function markup(page, gateway) {
  await go(page, "/calls");
  await page.locator("tbody tr").nth(10).waitFor();
  const markup = "<img/src=x/onerror=globalThis.hit=1>";
  await field(page, "Path begins with").fill("/api/none");
  await field(page, "Header").fill("x-note");
  await page.waitForURL(/path=%2Fapi%2Fnone/);
  assert.ok(!page.url().includes("x-note"), "what headers are looked for stays out of the address");
  // Which headers are kept is known to the threads a moment later, so one asks until it is seen.
  let isDrawn = false;
  const shout = (async () => {
    while (!isDrawn) await fetch(`${gateway}/api/none?q=${markup}`, { headers: { "x-note": markup } }).then((answer) => answer.text());
  })();
  await page.locator("tbody tr", { hasText: "/api/none" }).first().locator("button").click();
  await page.locator("dd", { hasText: "onerror" }).first().waitFor();
  isDrawn = true;
  await shout;
  await page.getByRole("button", { name: "Close" }).click();
  await field(page, "Header").fill("");
}

export async function calls(page, gateway) {
  await markup(page, gateway);
  await field(page, "Path begins with").fill("/api/products");
  await page.waitForURL(/path=/);
  await page.waitForFunction(() => {
    const rows = [...document.querySelectorAll("tbody tr")];
    return rows.length > 5 && rows.every((row) => row.textContent.includes("/api/products"));
  });
  await page.getByRole("button", { name: "Hold still" }).click();
  await page.locator("tbody tr", { hasText: "outside" }).first().locator("button").click();
  await page.getByRole("region", { name: "Stations" }).waitFor();
  await page.getByText("endpoint", { exact: true }).waitFor();
  // The filter leaves out the call that the call made; its trace does not.
  await page.getByRole("region", { name: "Trace" }).getByText("web → catalog").waitFor();
  await shot(page, "calls");
  await check(page, "calls");
  await page.getByRole("button", { name: /Copy as a command/ }).first().click();
  assert.equal(await copied(page), "dodai tap --path /api/products");
  await go(page, "/");
  await filters(page);
  assert.equal(await page.evaluate(() => globalThis.hit), undefined);
}
