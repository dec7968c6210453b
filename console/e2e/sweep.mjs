// Every page once, as it is first seen: in English by day, and in Chinese in the dark. What opens on them is checked where
// it is used.
import { check, drawn, go } from "./page.mjs";

const CHART = drawn;
const row = (page) => page.locator("tbody tr").first().waitFor();
const heading = (page) => page.locator("main h2").first().waitFor();
const editor = (page) => page.locator(".editor textarea").waitFor();

/** Addresses, and what is there once the page is. */
const PAGES = [
  ["/", CHART],
  ["/apps", row],
  ["/apps/default/web", CHART],
  ["/apps/default/orders/instances", row],
  ["/apps/default/web/revisions", row],
  ["/apps/default/web/routes", row],
  ["/apps/default/orders/logs", (page) => page.locator(".logs > div").first().waitFor()],
  ["/apps/default/web/configuration", (page) => page.locator("pre.value").first().waitFor()],
  ["/apps/default/recommend", heading],
  ["/apps/default/nobody", (page) => page.locator(".empty a").waitFor()],
  ["/topology", row],
  ["/topology?by=revision", row],
  ["/topology?by=base", row],
  ["/calls", row],
  ["/components", heading],
  ["/components/default/shop-state", heading],
  ["/components/default/shop-pubsub", heading],
  ["/components/default/shop-config", heading],
  ["/components/default/shop-secrets", heading],
  ["/jobs", (page) => page.locator(".empty").waitFor()],
  ["/documents", (page) => page.locator(".tree a").first().waitFor()],
  ["/documents?new=1", editor],
  ["/documents/Policy/default/recommend", editor],
  ["/documents/Policy/default/recommend?view=history", (page) => page.locator(".list li").first().waitFor()],
  ["/bases", heading],
  ["/nowhere", (page) => page.locator(".empty a").waitFor()],
];

async function pages(page, how) {
  for (const [path, isThere] of PAGES) {
    await go(page, path);
    await isThere(page).catch((error) => {
      throw new Error(`${path} ${how}: ${error.message}`);
    });
    await check(page, `${path} ${how}`);
  }
}

export async function sweep(page) {
  await pages(page, "in English by day");
  await go(page, "/");
  await page.getByRole("button", { name: "Dark" }).click();
  await page.getByRole("button", { name: "中文" }).click();
  await pages(page, "in Chinese in the dark");
  // A dialog, too.
  await go(page, "/apps/default/web");
  await page.getByRole("button", { name: "重启" }).click();
  await page.getByRole("dialog").waitFor();
  await check(page, "a dialog in Chinese in the dark");
  await page.keyboard.press("Escape");
  await page.getByRole("button", { name: "English" }).click();
  await page.getByRole("button", { name: "Light" }).click();
}
