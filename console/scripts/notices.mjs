// Writes public/notices.txt: the licences of what the built files contain, which their terms ask for. Which packages those
// are the lock file says; a licence that is not among the allowed ends it. With --check it compares instead.
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";

const ALLOWED = ["MIT", "ISC", "BSD-2-Clause", "BSD-3-Clause", "Apache-2.0"];
const root = new URL("../", import.meta.url);
const target = new URL("public/notices.txt", root);
const lock = JSON.parse(readFileSync(new URL("package-lock.json", root), "utf8"));

const bundled = Object.entries(lock.packages).filter(([place, one]) => place && !one.dev && !one.peer && !one.optional);
const parts = bundled.map(([place, one]) => {
  const name = place.replace(/^.*node_modules\//, "");
  if (!ALLOWED.includes(one.license)) {
    console.error(`${name} ${one.version} is under ${one.license}, which is not among ${ALLOWED.join(", ")}; use another package`);
    process.exit(1);
  }
  const folder = new URL(`${place}/`, root);
  const file = readdirSync(folder).find((entry) => /^licen[cs]e/i.test(entry));
  if (!file) {
    console.error(`${name} ${one.version} has no file with its licence`);
    process.exit(1);
  }
  return `${name} ${one.version} (${one.license})\n\n${readFileSync(new URL(file, folder), "utf8").trim()}\n`;
});
const text = `The console contains these packages.\n\n${parts.join(`\n${"-".repeat(72)}\n\n`)}`;

if (!process.argv.includes("--check")) writeFileSync(target, text);
else if (!existsSync(target) || readFileSync(target, "utf8") !== text) {
  console.error("public/notices.txt is not as the lock file says; run `cargo xtask console`");
  process.exit(1);
}
