// What is done to apps and documents, and what lists them: each list, tab and dialog that no other part opens.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { apply, check, copied, go, inTerminal, shot } from "./page.mjs";

const dialog = (page) => page.getByRole("dialog");
const row = (page, text) => page.locator("tbody tr", { hasText: text });

/** Types the word and does it. */
async function confirm(page, word, action) {
  const act = dialog(page).getByRole("button", { name: action, exact: true });
  assert.ok(await act.isDisabled(), "nothing was typed");
  await dialog(page).getByLabel(`Type ${word} to confirm`).fill(word);
  await act.click();
  await dialog(page).waitFor({ state: "detached" });
}

/** The list of apps, and from there the page of one that runs elsewhere. */
async function lists(page) {
  await page.getByRole("link", { name: "Apps", exact: true }).click();
  for (const [name, shape] of [["web", "module"], ["orders", "process"], ["recommend", "external"]]) await row(page, name).getByText(shape, { exact: true }).waitFor();
  await page.waitForFunction(() => [...document.querySelectorAll("tbody tr")].some((one) => one.textContent.startsWith("web") && Number.parseFloat(one.children[4].textContent) > 0));
  await row(page, "recommend").getByRole("link").click();
  await page.getByRole("heading", { name: "recommend" }).waitFor();
  const addresses = page.getByRole("region", { name: "Addresses" });
  await addresses.getByText(/^127\.0\.0\.1:\d+$/).waitFor();
  await addresses.getByText(/refused/i).waitFor();
  assert.equal(await page.getByRole("button", { name: "Restart" }).count(), 0, "what runs elsewhere cannot be restarted");
  await check(page, "an external app");
}

/** Instances of a process and of a module. */
async function instances(page) {
  await go(page, "/apps/default/orders");
  await page.getByRole("link", { name: "Instances" }).click();
  await page.waitForURL(/orders\/instances/);
  const first = page.getByRole("region", { name: "Instances" }).locator("tbody tr").first();
  await first.getByText("ready", { exact: true }).waitFor();
  assert.match(await first.textContent(), /pid \d+ {2}http:\d+/);
  await check(page, "instances");
  await first.getByRole("link").click();
  await page.waitForURL(/orders\/logs\?instance=/);
}

/** By which rules calls come in, and which hold for those that go out. */
async function routes(page) {
  await apply(page, {
    apiVersion: "dodai.dev/v1",
    kind: "Route",
    metadata: { name: "patient-catalog" },
    spec: { parentRefs: [{ kind: "Service", name: "catalog" }], rules: [{ timeouts: { request: "3s" }, backendRefs: [{ name: "catalog", weight: 3 }, { kind: "App", name: "catalog", weight: 1 }] }] },
  });
  await go(page, "/apps/default/web");
  await page.getByRole("link", { name: "Routes" }).click();
  const [come, leave] = [page.getByRole("region", { name: "Routes in" }).first(), page.getByRole("region", { name: "Routes out" }).first()];
  const inward = come.locator("tbody tr");
  await inward.first().waitFor();
  assert.match(await inward.first().textContent(), /^shopeverythingfront HTTP :\d+every host\/\*100\.0%web$/);
  await leave.getByRole("link", { name: "patient-catalog" }).waitFor();
  assert.match(await leave.locator("tbody tr").textContent(), /catalog In the meshevery hostevery call75.0%catalog25.0%catalog/);
  await shot(page, "routes");
  await check(page, "routes");
  await go(page, "/apps/default/catalog/routes");
  await come.getByRole("link", { name: "patient-catalog" }).waitFor();
  await page.getByText("No route holds for its calls").waitFor();
  await come.getByRole("link", { name: "patient-catalog" }).click();
  await page.waitForURL(/documents\/Route\/default\/patient-catalog/);
  await page.getByRole("button", { name: "Remove" }).click();
  await confirm(page, "patient-catalog", "Remove");
}

/** The newest revision of those on the page. */
const newest = (page) => page.locator("tbody tr", { hasText: "newest" }).locator("code").first().textContent();
/** Waits until a revision gets every call. */
const serves = (page, revision) => page.locator("tbody tr", { hasText: revision }).getByText("100.0%", { exact: true }).waitFor();

/** A module is deployed, gone back from by the page's button, and by that of the revision. */
async function deploys(page, project) {
  await go(page, "/apps/default/web/revisions");
  await page.getByText("newest").waitFor();
  const before = await newest(page);
  await serves(page, before);
  // The same program with a note in it, so that it is another artefact.
  const module = readFileSync(join(project, "artifacts/web.wasm"));
  const note = Buffer.from([0, 5, 4, ...Buffer.from("note")]);
  await page.getByRole("button", { name: "Deploy" }).click();
  await dialog(page).getByText("It is compiled first.").waitFor();
  await check(page, "deploy");
  await dialog(page).getByLabel("A WASM component").setInputFiles({ name: "bad.wasm", mimeType: "application/wasm", buffer: Buffer.from("no module") });
  await dialog(page).getByLabel("Type web to confirm").fill("web");
  await dialog(page).getByRole("button", { name: "Deploy", exact: true }).click();
  await dialog(page).getByRole("alert").waitFor();
  await dialog(page).getByLabel("A WASM component").setInputFiles({ name: "web.wasm", mimeType: "application/wasm", buffer: Buffer.concat([module, note]) });
  await dialog(page).getByRole("button", { name: /Copy as a command/ }).click();
  assert.equal(await copied(page), "dodai deploy web web.wasm --wait");
  await dialog(page).getByRole("button", { name: "Deploy", exact: true }).click();
  await dialog(page).waitFor({ state: "detached" });
  await page.waitForFunction((before) => [...document.querySelectorAll("tbody tr")].some((one) => one.textContent.includes("newest") && !one.textContent.includes(before)), before);
  const after = await newest(page);
  await serves(page, after);
  await page.getByRole("button", { name: "Roll back" }).click();
  await dialog(page).getByText("The revision that served before").waitFor();
  await shot(page, "rollback");
  await check(page, "roll back");
  await confirm(page, "web", "Go back");
  await serves(page, before);
  await row(page, after).getByRole("button", { name: "Go back to it" }).click();
  await dialog(page).getByRole("button", { name: /Copy as a command/ }).click();
  assert.equal(await copied(page), `dodai rollback web --to ${after}`);
  await confirm(page, "web", "Go back");
  await serves(page, after);
  await inTerminal(project, `dodai rollback web --to ${before} --wait`);
  await serves(page, before);
}

/** A document is written, applied, and removed. */
async function writes(page) {
  await go(page, "/documents");
  await page.getByRole("link", { name: "New document" }).click();
  const field = page.getByLabel("The document as YAML");
  await field.waitFor();
  await field.fill((await field.inputValue()).replace("name: patient", "name: in-no-hurry"));
  await page.getByText("The server would take it.").waitFor();
  await check(page, "a new document");
  await page.getByRole("button", { name: "See what changes…" }).click();
  await dialog(page).getByText("new", { exact: true }).waitFor();
  await dialog(page).getByRole("button", { name: "Apply", exact: true }).click();
  await page.waitForURL(/documents\/Policy\/default\/in-no-hurry/);
  await page.getByRole("link", { name: "in-no-hurry" }).waitFor();
  await page.getByRole("button", { name: "Remove" }).click();
  await confirm(page, "in-no-hurry", "Remove");
  await page.getByText("It is not there now.").waitFor();
}

/** Locks of an app of our own: one is released by the button, one from a terminal. */
export async function locks(page, project) {
  await apply(page, { apiVersion: "dapr.io/v1alpha1", kind: "Component", metadata: { name: "doors" }, spec: { type: "lock.in-memory", version: "v1" } });
  await go(page, "/components/default/doors");
  await page.getByText("No lock is held").waitFor();
  await check(page, "no locks");
  const markup = "<img src=x onerror=globalThis.hit=1>";
  const script = `
    const headers = { "dapr-api-token": process.env.DAPR_API_TOKEN, "content-type": "application/json" };
    for (const resourceId of ["front", ${JSON.stringify(markup)}]) {
      const body = JSON.stringify({ resourceId, lockOwner: "keeper", expiryInSeconds: 600 });
      fetch(process.env.DAPR_HTTP_ENDPOINT + "/v1.0-alpha1/lock/doors", { method: "POST", headers, body });
    }
    setInterval(() => undefined, 1000);`;
  await apply(page, { apiVersion: "dodai.dev/v1", kind: "App", metadata: { name: "janitor" }, spec: { process: { command: [process.execPath, "-e", script] } } });
  const held = (name) => page.locator(".list li", { hasText: name });
  await held("front").getByText("keeper").waitFor();
  await held("onerror").waitFor();
  await shot(page, "locks");
  await check(page, "locks");
  await held("front").getByRole("button", { name: /^Release/ }).click();
  await dialog(page).getByText("keeper does not know that it has lost the lock").waitFor();
  await confirm(page, "lock||janitor||front", "Release");
  await held("front").waitFor({ state: "detached" });
  await held("onerror").getByRole("button", { name: /^Release/ }).click();
  await dialog(page).getByRole("button", { name: /Copy as a command/ }).click();
  await inTerminal(project, await copied(page));
  await dialog(page).getByRole("button", { name: "Cancel" }).click();
  await held("onerror").waitFor({ state: "detached" });
  assert.equal(await page.evaluate(() => globalThis.hit), undefined, "markup of a lock ran in the page");
  await inTerminal(project, "dodai delete app janitor && dodai delete component doors");
}

export async function actions(page, project) {
  await lists(page);
  await instances(page);
  await routes(page);
  await deploys(page, project);
  await writes(page);
}
