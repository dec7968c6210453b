// Says what the first load weighs, and refuses more than it may.
import { readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

const LIMIT = 400 * 1024;
const dist = new URL("../dist/", import.meta.url);
const index = readFileSync(new URL("index.html", dist), "utf8");
const files = ["index.html", ...[...index.matchAll(/(?:src|href)="\/([^"]+)"/g)].map((match) => match[1])];
const weights = files.map((file) => [file, gzipSync(readFileSync(new URL(file, dist)), { level: 9 }).length]);
const all = weights.reduce((sum, [, weight]) => sum + weight, 0);
for (const [file, weight] of weights) console.log(`${String(weight).padStart(8)}  ${file}`);
console.log(`${String(all).padStart(8)}  first load, gzip (limit ${LIMIT})`);
if (all > LIMIT) process.exit(1);
