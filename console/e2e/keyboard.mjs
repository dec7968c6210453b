// The console without a pointer: the Tab key reaches what there is to do, it is seen where one is, and dialogs open and
// close and give back the place where one was.
import assert from "node:assert/strict";
import { go } from "./page.mjs";

/** Where the keyboard is: what it is called, and whether that is to be seen. */
const where = (page) =>
  page.evaluate(() => {
    const at = document.activeElement;
    if (!at || at === document.body) return null;
    const box = at.getBoundingClientRect();
    const style = getComputedStyle(at);
    const isMarked = style.outlineStyle !== "none" && Number.parseFloat(style.outlineWidth) > 0;
    const isInView = box.width > 0 && box.height > 0 && box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth;
    const name = at.getAttribute("aria-label") ?? (at.labels?.[0]?.textContent || at.textContent || at.getAttribute("placeholder") || at.tagName);
    return { name: name.trim(), tag: at.tagName, inDialog: at.closest("dialog") !== null, isSeen: isMarked && isInView };
  });

/** Begins where the page does. */
const begin = (page) => page.evaluate(() => document.activeElement?.blur?.());

/** Presses Tab until one is at what has this name; all that was passed has to be seen. */
async function reach(page, name, most = 120) {
  const passed = [];
  for (let count = 0; count < most; count += 1) {
    await page.keyboard.press("Tab");
    const at = await where(page);
    if (!at) continue;
    assert.ok(at.isSeen, `the keyboard is at ${at.tag} "${at.name}" of ${page.url()}, which nobody can see`);
    passed.push(at.name);
    if (typeof name === "string" ? at.name === name : name.test(at.name)) return passed;
  }
  throw new Error(`the Tab key does not reach ${name} of ${page.url()}; it passed ${passed.join(", ")}`);
}

/** Every page's navigation, and a way past it. */
async function navigation(page) {
  await page.goto(new URL("/", page.url()).href);
  await page.locator(".app-card").first().waitFor();
  assert.deepEqual(await reach(page, "Skip to the content"), ["Skip to the content"], "the way past the navigation is not the first");
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement?.id), "content");
  await begin(page);
  await page.goto(new URL("/", page.url()).href);
  await page.locator(".app-card").first().waitFor();
  const passed = await reach(page, "Log out");
  for (const name of ["Home", "Apps", "Topology", "Calls", "Components", "Jobs", "Documents", "Bases", "中文", "Dark"]) assert.ok(passed.includes(name), `${name} is not reached, but ${passed.join(", ")}`);
  await reach(page, "15m");
  await page.keyboard.press("Enter");
  await page.waitForURL(/range=15m/);
  await reach(page, "5m", 400).catch(() => undefined);
  await page.getByRole("button", { name: "5m", exact: true }).press("Enter");
}

/** What is done to an app, without and with its word. */
async function actions(page) {
  await go(page, "/apps/default/catalog");
  await page.getByRole("heading", { name: "Latency" }).waitFor();
  await begin(page);
  const dialog = page.getByRole("dialog");
  for (const name of ["Deploy", "Roll back", "Restart"]) {
    await reach(page, name);
    await page.keyboard.press("Enter");
    await dialog.waitFor();
    assert.equal((await where(page)).tag, "INPUT", `${name} does not begin where one types`);
    await page.keyboard.press("Escape");
    await dialog.waitFor({ state: "detached" });
    assert.equal((await where(page))?.name, name, "Escape loses the place where one was");
  }
  await page.keyboard.press("Enter");
  await dialog.waitFor();
  await page.keyboard.type("catalog");
  const inside = [];
  for (let count = 0; count < 8; count += 1) {
    await page.keyboard.press("Tab");
    const at = await where(page);
    // Between its end and its beginning is the browser's own.
    if (!at) continue;
    assert.ok(at.inDialog, `the keyboard leaves the dialog for ${at.name}`);
    inside.push(at.name);
  }
  for (const name of ["Cancel", "Restart"]) assert.ok(inside.includes(name), `${name} is not reached in the dialog, but ${inside.join(", ")}`);
  await reach(page, "Cancel");
  await page.keyboard.press("Enter");
  await dialog.waitFor({ state: "detached" });
  assert.equal((await where(page))?.name, "Restart", "Cancel loses the place where one was");
  await reach(page, "Revisions");
  await page.keyboard.press("Enter");
  await page.getByText("newest").waitFor();
  await reach(page, "Move calls…");
  await page.keyboard.press("Enter");
  await dialog.waitFor();
  await page.keyboard.press("Escape");
  await dialog.waitFor({ state: "detached" });
  assert.equal((await where(page))?.name, "Move calls…");
}

/** Lists, drawings and the editor. */
async function contents(page) {
  await go(page, "/topology");
  await page.getByRole("heading", { name: "Edges" }).waitFor();
  await begin(page);
  await reach(page, "Revision");
  await reach(page, "Calls of web to catalog");
  await page.keyboard.press("Enter");
  await page.locator(".card .samples li").first().waitFor();
  await go(page, "/calls");
  await page.locator("tbody tr").nth(3).waitFor();
  await begin(page);
  await reach(page, "Hold still");
  await page.keyboard.press("Enter");
  await reach(page, "App");
  await reach(page, /^GET \//);
  await page.keyboard.press("Enter");
  await page.getByRole("region", { name: "Stations" }).waitFor();
  await go(page, "/documents/Policy/default/recommend");
  const field = page.getByLabel("The document as YAML");
  await field.waitFor();
  await field.focus();
  // The editor is no trap.
  await page.keyboard.press("Tab");
  assert.notEqual((await where(page))?.tag, "TEXTAREA", "the Tab key does not leave the editor");
  await page.keyboard.press("Control+k");
  await page.getByRole("combobox", { name: "Search" }).waitFor();
  await page.keyboard.type("jobs");
  await page.keyboard.press("Enter");
  await page.waitForURL(/\/jobs/);
  await page.keyboard.press("Control+k");
  await page.getByRole("combobox", { name: "Search" }).waitFor();
  await page.keyboard.press("Escape");
  await page.getByRole("combobox", { name: "Search" }).waitFor({ state: "detached" });
}

export async function keyboard(page) {
  await navigation(page);
  await actions(page);
  await contents(page);
}
