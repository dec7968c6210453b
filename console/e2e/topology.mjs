// The graph of calls: what is drawn is clicked, and how quick a large one is drawn.
import assert from "node:assert/strict";
import { check, go, shot } from "./page.mjs";

const canvas = (page) => page.locator(".topology canvas");

/** Waits until the graph has been drawn. */
const moved = (page) => page.waitForFunction(() => document.querySelector(".topology canvas")?.scene.frames > 0);

/** Clicks on the line of an edge, where nothing else is; ends are texts of which ids have to begin and end. */
async function click(page, from, to) {
  const line = ([from, to]) => {
    const place = document.querySelector(".topology canvas");
    const scene = place?.scene;
    const edge = scene?.edges.find((one) => !one.dashed && one.rate > 0 && one.from.startsWith(from) && one.to.startsWith(to));
    const curve = edge && scene.curve(edge);
    if (!curve) return null;
    const { left, top, width, height } = place.getBoundingClientRect();
    const on = (at, u) => [(1 - u) ** 3, 3 * (1 - u) ** 2 * u, 3 * (1 - u) * u * u, u ** 3].reduce((sum, share, n) => sum + share * curve[at + 2 * n], 0);
    for (let u = 0.5; u < 0.95; u += 0.05) {
      for (const v of [u, 1 - u]) {
        const [x, y] = [(on(0, v) - scene.view.x) * scene.view.zoom + width / 2, (on(1, v) - scene.view.y) * scene.view.zoom + height / 2];
        if (scene.hit(x, y)?.edge === edge && document.elementFromPoint(left + x, top + y) === place) return [left + x, top + y];
      }
    }
    return null;
  };
  await canvas(page).scrollIntoViewIfNeeded();
  const [x, y] = await (await page.waitForFunction(line, [from, to])).jsonValue();
  await page.mouse.click(x, y);
}

/** The figures and sample calls that are shown of an edge. */
async function figures(page, title) {
  const card = page.locator(".topology .card");
  await card.getByRole("heading", { name: title }).waitFor();
  for (const name of ["calls/s", "errors", "p50", "p99"]) await card.locator("dt", { hasText: name }).waitFor();
  assert.ok(Number.parseFloat(await card.locator("dd").first().textContent()) > 0, "no rate");
  assert.match(await card.locator("dd").last().textContent(), /^[\d.]+ ?[µm]?s$/);
  await card.locator(".samples li").first().waitFor();
}

export async function topology(page) {
  await go(page, "/topology");
  await page.getByText(/nodes, \d+ edges/).waitFor();
  await page.getByRole("heading", { name: "Edges" }).waitFor();
  await moved(page);
  await shot(page, "topology");
  await check(page, "topology");
  // As with the keyboard, and as with the pointer.
  await page.getByRole("button", { name: "Calls of web to catalog" }).press("Enter");
  await figures(page, "web → catalog");
  await shot(page, "edge");
  await check(page, "edge");
  await page.locator(".card").getByRole("button", { name: "Close" }).click();
  await click(page, "default/web", "default/catalog");
  await figures(page, "web → catalog");
  await page.getByRole("button", { name: "Revision", exact: true }).click();
  await page.getByText("Which revision a caller's calls reached is not counted.").waitFor();
  await page.locator(".card").waitFor({ state: "detached" });
  await click(page, "default/web", "revision default/web");
  await figures(page, /^web → \w+$/);
  await shot(page, "topology-revisions");
  await check(page, "topology by revision");
  await page.getByRole("button", { name: "Base", exact: true }).click();
  await page.getByText("dashed ones lead to the apps that run there").waitFor();
  await click(page, "base ", "base ");
  await figures(page, / → /);
  await shot(page, "topology-bases");
  await check(page, "topology by base");
  await thousand(page);
}

/** Frames a second while the graph is dragged about by so many points a frame, and what the last one had. */
const frames = (page, points) =>
  canvas(page).evaluate(async (place, points) => {
    const before = place.scene.frames;
    const began = performance.now();
    while (performance.now() - began < 3000) {
      place.scene.move(Math.sin(performance.now() / 300) * points, 0);
      await new Promise((done) => requestAnimationFrame(done));
    }
    const { labels, dots } = place.scene.drawn;
    return { perSecond: (place.scene.frames - before) / ((performance.now() - began) / 1000), labels, dots };
  }, points);

/** All of it in view has the most lines; a little nearer, labels and moving dots come to them. */
async function thousand(page) {
  await go(page, "/topology?try=1000");
  await page.getByText("1000 nodes").waitFor();
  await moved(page);
  await page.getByRole("button", { name: "Show all" }).click();
  const all = await frames(page, 2);
  console.log(`topology of 1000 nodes, all in view: ${all.perSecond.toFixed(0)} frames a second`);
  await shot(page, "topology-1000");
  await canvas(page).evaluate((place) => {
    // The farthest at which labels are drawn.
    place.scene.zoom(0.36 / place.scene.view.zoom, place.clientWidth / 2, place.clientHeight / 2);
  });
  const near = await frames(page, 20);
  console.log(`the same nearer, with ${near.labels} labels and ${near.dots} dots: ${near.perSecond.toFixed(0)} frames a second`);
  assert.ok(near.labels > 100 && near.dots > 100, "neither labels nor dots are drawn");
  if (process.env.BARS) {
    assert.ok(all.perSecond >= 30, `all in view: ${all.perSecond} frames a second`);
    assert.ok(near.perSecond >= 30, `with labels and dots: ${near.perSecond} frames a second`);
  }
}
