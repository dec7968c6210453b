// Numbers, times and names as people read them.
import { currentLanguage } from "./settings";

/** Calls per second. */
export function rate(value: number): string {
  if (value === 0) return "0";
  if (value < 10) return value.toFixed(value < 1 ? 2 : 1);
  return value < 10_000 ? Math.round(value).toString() : `${(value / 1000).toFixed(1)}k`;
}

/** A share, from 0 to 1. */
export function percent(value: number): string {
  if (value === 0) return "0%";
  if (value < 0.0001) return "<0.01%";
  return `${(value * 100).toFixed(value < 0.1 ? 2 : 1)}%`;
}

/** Microseconds. */
export function duration(us: number): string {
  if (us <= 0) return "0";
  if (us < 1000) return `${Math.round(us)} µs`;
  if (us < 1_000_000) return `${(us / 1000).toFixed(us < 10_000 ? 2 : us < 100_000 ? 1 : 0)} ms`;
  return `${(us / 1_000_000).toFixed(us < 10_000_000 ? 2 : 1)} s`;
}

export function bytes(value: number | null | undefined): string {
  if (value === null || value === undefined) return "–";
  if (value < 1024) return `${value} B`;
  const units = ["KiB", "MiB", "GiB", "TiB"];
  let rest = value / 1024;
  let unit = 0;
  while (rest >= 1024 && unit < units.length - 1) {
    rest /= 1024;
    unit += 1;
  }
  return `${rest < 10 ? rest.toFixed(1) : Math.round(rest)} ${units[unit]}`;
}

/** Thousandths of a core, as a share of one. */
export function cores(milli: number): string {
  if (milli === 0) return "0%";
  return `${(milli / 10).toFixed(milli < 100 ? 1 : 0)}%`;
}

export function clock(ms: number, withMillis = false): string {
  const text = new Date(ms).toLocaleTimeString("en-GB");
  return withMillis ? `${text}.${String(ms % 1000).padStart(3, "0")}` : text;
}

export const moment = (ms: number) => new Date(ms).toLocaleString(currentLanguage() === "zh" ? "zh-CN" : "en-GB");

/** How long ago, in few letters. */
export function age(ms: number, now = Date.now()): string {
  const seconds = Math.max(0, Math.round((now - ms) / 1000));
  const zh = currentLanguage() === "zh";
  if (seconds < 60) return zh ? `${seconds} 秒` : `${seconds}s`;
  if (seconds < 3600) return zh ? `${Math.floor(seconds / 60)} 分钟` : `${Math.floor(seconds / 60)}m`;
  if (seconds < 86_400) return zh ? `${Math.floor(seconds / 3600)} 小时` : `${Math.floor(seconds / 3600)}h`;
  return zh ? `${Math.floor(seconds / 86_400)} 天` : `${Math.floor(seconds / 86_400)}d`;
}

/** `default/web` is `web` where nothing else is meant. */
export const short = (app: string) => (app.startsWith("default/") ? app.slice("default/".length) : app);

/** A part of an address in plain text; one that is not well written stays as it is. */
export function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** A word as one argument of a shell. */
export const quoted = (word: string) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`);

/** The namespace flag of a command, where it is needed. */
export const inNamespace = (namespace: string) => (namespace === "default" ? "" : ` -n ${quoted(namespace)}`);

/** The type that data is published with. */
export function typeOf(data: string): string {
  try {
    JSON.parse(data);
    return "application/json";
  } catch {
    return "text/plain";
  }
}

/** Data as the command line takes it: after an `@` it would look for a file. */
const given = (data: string) => (data.startsWith("@") ? `@${data}` : data);

/** A command with its flags, and words that may begin like one. */
function worded(start: string, ...words: string[]): string {
  const flagged = words.some((word) => word.startsWith("-")) ? [start, "--"] : [start];
  return [...flagged, ...words.map(quoted)].join(" ");
}

/** The command that publishes this. */
export const publishing = (component: string, namespace: string, topic: string, data: string) =>
  worded(`dodai publish --content-type ${typeOf(data)}${inNamespace(namespace)}`, component, topic, given(data));

const onBase = (base: string | undefined) => (base ? ` --base=${quoted(base)}` : "");
const ofGroup = (group: string) => (group ? ` --group=${quoted(group)}` : "");

interface Place {
  name: string;
  namespace: string;
}

interface OfTopic {
  topic: string;
  group: string;
  base?: string;
}

/** The command that lists what is in a component. */
export const listing = (what: "topic" | "lock", { name, namespace }: Place) => worded(`dodai ${what} list${inNamespace(namespace)}`, name);

/** The command that lists keys of an app, or prints the value of one. */
export const shelved = (store: string, app: string, prefix: string, key: string) =>
  key ? worded(`dodai state get --app=${quoted(app)}`, store, key) : worded(`dodai state list --app=${quoted(app)}${prefix ? ` --prefix=${quoted(prefix)}` : ""}`, store);

/** Calls the runtime API, in a shell that an app starts: there the environment says where it is, and has the token. */
export const posted = (path: string, body: unknown) =>
  `curl -H "dapr-api-token: $DAPR_API_TOKEN" -H "content-type: application/json" -d ${quoted(JSON.stringify(body))} "$DAPR_HTTP_ENDPOINT/${path}"`;

/** The command that shows messages that wait. */
export const peeking = ({ name, namespace }: Place, { topic, group, base }: OfTopic) => worded(`dodai topic peek${inNamespace(namespace)}${ofGroup(group)}${onBase(base)}`, name, topic);

/** The command that moves a message to another topic. */
export const replaying = ({ name, namespace }: Place, { topic, group, base }: OfTopic, id: string, to: string) =>
  worded(`dodai topic replay${inNamespace(namespace)}${ofGroup(group)}${onBase(base)} --to=${quoted(to)}`, name, topic, id);

/** The command that takes a lock away. */
export const releasing = ({ name, namespace }: Place, { resource, owner, base }: { resource: string; owner: string; base?: string }) =>
  worded(`dodai lock release${inNamespace(namespace)}${onBase(base)} --owner=${quoted(owner)}`, name, resource);

/** The command that deletes a job. */
export const forgetting = (app: string, name: string, base: string | undefined) => worded(`dodai job delete${onBase(base)}`, short(app), name);

/** The command that reads a configuration value, or writes one. */
export const configuring = (store: string, namespace: string, key: string, value: string | null) =>
  value === null ? worded(`dodai config get${inNamespace(namespace)}`, store, key) : worded(`dodai config set${inNamespace(namespace)}`, store, key, given(value));

/** The command that applies this document as a change by hand: its text goes along, up to a word that is no line of it. */
export function applied(text: string): string {
  let end = "EOF";
  while (text.split("\n").includes(end)) end += "_";
  return `dodai apply --owner cli -f - <<'${end}'\n${text.endsWith("\n") ? text : `${text}\n`}${end}`;
}
