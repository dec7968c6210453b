// What is done with any page of the console: going to it, checking it, taking its picture, changing what is behind it.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdirSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { promisify } from "node:util";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
export const shots = process.env.SHOTS;
export const binary = process.env.DODAI ?? "../target/debug/dodai";

export async function check(page, name) {
  // By evaluation and not as a script element, which the page's policy would rightly refuse.
  await page.evaluate(axe);
  const found = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
  const serious = found.violations.filter((one) => one.impact === "serious" || one.impact === "critical");
  const told = serious.map((one) => `${one.id}: ${one.help}\n${one.nodes.slice(0, 3).map((node) => `    ${node.html}\n    ${node.failureSummary}`).join("\n")}`);
  assert.equal(serious.length, 0, `${name} is not accessible:\n${told.join("\n")}`);
  console.log(`ok ${name}: axe finds nothing serious`);
}

export async function shot(page, name) {
  if (!shots) return;
  await page.locator(".toast").waitFor({ state: "detached" });
  await page.screenshot({ path: join(shots, `console-${name}.png`) });
}

export const go = async (page, path) => {
  await page.evaluate((to) => history.pushState(null, "", to), path);
  await page.evaluate(() => dispatchEvent(new PopStateEvent("popstate")));
};

/** Waits until a chart is drawn. */
export const drawn = (page) => page.locator(".chart canvas").first().waitFor();

/** What a button has copied. */
export const copied = (page) => page.evaluate(() => navigator.clipboard.readText());

/** Applies a document as the page could. */
export async function apply(page, document) {
  const [status, text] = await page.evaluate(async (body) => {
    const headers = { "dodai-session": localStorage.getItem("dodai-session"), "content-type": "application/json" };
    const answer = await fetch("/v1/documents", { method: "POST", headers, body });
    return [answer.status, await answer.text()];
  }, JSON.stringify({ files: [{ name: document.metadata.name, content: JSON.stringify(document) }] }));
  assert.equal(status, 200, text);
}

/** Runs a command that was copied where the project's folder is. */
export async function inTerminal(project, command) {
  const folder = join(project, "bin");
  mkdirSync(folder, { recursive: true });
  rmSync(join(folder, "dodai"), { force: true });
  symlinkSync(resolve(binary), join(folder, "dodai"));
  const env = { ...process.env, PATH: `${folder}:${process.env.PATH}` };
  await promisify(execFile)("/bin/sh", ["-c", command], { cwd: project, env });
}
