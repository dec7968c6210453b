// What consoles cost the server: its processor time with the shop running and nobody looking, then with many live streams.
import { readFileSync } from "node:fs";
import { shop } from "./shop.mjs";

const CONSOLES = Number(process.env.CONSOLES ?? 50);
const SECONDS = 20;
/** Of the kernel's clock in /proc, on every Linux that we know. */
const TICKS = 100;

const cpu = (pid) => {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1].split(" ");
  return (Number(fields[11]) + Number(fields[12])) / TICKS;
};
const wait = (ms) => new Promise((done) => setTimeout(done, ms));

async function share(pid) {
  const before = cpu(pid);
  await wait(SECONDS * 1000);
  return (cpu(pid) - before) / SECONDS;
}

const running = await shop(process.env.DODAI ?? "../target/debug/dodai");
try {
  const url = new URL(running.link);
  const token = decodeURIComponent(url.hash.replace("#token=", ""));
  await wait(5000);
  const alone = await share(running.pid);
  let messages = 0;
  for (let at = 0; at < CONSOLES; at += 1) {
    const response = await fetch(`${url.origin}/v1/live`, { headers: { authorization: `Bearer ${token}` } });
    const reader = response.body.getReader();
    void (async () => {
      for (;;) {
        const { done, value } = await reader.read().catch(() => ({ done: true }));
        if (done) return;
        messages += new TextDecoder().decode(value).split("event: beat").length - 1;
      }
    })();
  }
  await wait(2000);
  messages = 0;
  const crowded = await share(running.pid);
  const percent = (value) => `${(value * 100).toFixed(2)} %`;
  console.log(`alone ${percent(alone)} of a core, with ${CONSOLES} consoles ${percent(crowded)}: they cost ${percent(crowded - alone)}`);
  console.log(`${(messages / SECONDS / CONSOLES).toFixed(2)} messages a second to each`);
  if (crowded - alone > 0.05) process.exitCode = 1;
} finally {
  await running.stop();
}
