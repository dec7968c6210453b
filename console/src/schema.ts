// Checks a document against its JSON schema, with places in the text, and says what a place is about. Only what the
// schemas of documents use: types, properties, required, enum, const, items, references, combinations.
import { isAlias, isMap, isScalar, isSeq, LineCounter, type Node, parseAllDocuments } from "yaml";
import { beside, saidOfProblem } from "./text/problems";
import { t } from "./text/text";

export interface Schema {
  $ref?: string;
  $defs?: Record<string, Schema>;
  type?: string | string[];
  properties?: Record<string, Schema>;
  additionalProperties?: boolean | Schema;
  required?: string[];
  enum?: unknown[];
  const?: unknown;
  items?: Schema;
  anyOf?: Schema[];
  oneOf?: Schema[];
  allOf?: Schema[];
  pattern?: string;
  minimum?: number;
  maximum?: number;
  description?: string;
}

export interface Finding {
  line: number;
  message: string;
  severity: "error" | "warning";
}

/** A place in the text: which line, the path to it, and what the schema says about it. */
export interface Place {
  path: string;
  description: string;
  /** The names that could stand here. */
  names: string[];
}

interface Context {
  root: Schema;
  lines: LineCounter;
  findings: Finding[];
  places: Map<number, Place>;
}

const DEPTH = 40;

function resolve(schema: Schema | undefined, root: Schema): Schema {
  let at = schema ?? {};
  for (let hop = 0; at.$ref && hop < DEPTH; hop += 1) {
    const { description } = at;
    at = root.$defs?.[at.$ref.replace("#/$defs/", "")] ?? {};
    if (description) at = { ...at, description };
  }
  return at;
}

/** The shapes that a schema allows, references followed. */
function branches(schema: Schema, root: Schema): Schema[] {
  const own = resolve(schema, root);
  const many = own.anyOf ?? own.oneOf;
  const { description } = own;
  if (!many) return [own];
  return many.flatMap((one) => branches(one, root)).map((one) => (description ? { ...one, description } : one));
}

const kindOf = (node: Node | null): string => {
  if (node === null) return "null";
  if (isMap(node)) return "object";
  if (isSeq(node)) return "array";
  if (!isScalar(node)) return "unknown";
  const { value } = node;
  if (value === null) return "null";
  if (typeof value === "number") return Number.isInteger(value) ? "integer" : "number";
  return typeof value;
};

function allows(schema: Schema, kind: string): boolean {
  if (!schema.type) return true;
  const types = Array.isArray(schema.type) ? schema.type : [schema.type];
  return types.includes(kind) || (kind === "integer" && types.includes("number"));
}

const line = (node: Node | null | undefined, context: Context): number => (node?.range ? context.lines.linePos(node.range[0]).line : 1);

function report(context: Context, node: Node | null | undefined, message: string) {
  context.findings.push({ line: line(node, context), message, severity: "error" });
}

/** How far two words are from each other, to name the one that was meant. */
export function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, at) => at);
  for (let i = 1; i <= a.length; i += 1) {
    const next = [i];
    for (let j = 1; j <= b.length; j += 1) {
      next.push(Math.min((row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1, (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1)));
    }
    row = next;
  }
  return row[b.length] ?? 0;
}

function nearest(word: string, names: string[]): string {
  const best = names.map((name) => ({ name, far: distance(word.toLowerCase(), name.toLowerCase()) })).sort((a, b) => a.far - b.far)[0];
  return best && best.far <= Math.max(2, word.length / 3) ? t("; did you mean `{word}`?", { word: best.name }) : "";
}

function check(node: Node | null, schema: Schema, path: string, context: Context, depth: number) {
  if (depth > DEPTH || (node && isAlias(node))) return;
  const kind = kindOf(node);
  const all = branches(schema, context.root);
  const fitting = all.filter((one) => allows(one, kind));
  const [first] = fitting;
  if (!first) {
    const wanted = [...new Set(all.flatMap((one) => one.type ?? []))].filter((one) => one !== "null").join(t(" or "));
    report(context, node, t("`{path}` is {kind}, and {wanted} is wanted", { path, kind, wanted }));
    return;
  }
  if (isMap(node)) return checkMap(node, fitting, path, context, depth);
  if (isSeq(node)) {
    const { items } = first;
    if (items) node.items.forEach((item, at) => check(item as Node, items, `${path}[${at}]`, context, depth + 1));
    return;
  }
  if (!isScalar(node)) return;
  const { value } = node;
  const takes = (one: Schema) => (!one.enum || one.enum.includes(value)) && (one.const === undefined || one.const === value) && (!one.pattern || typeof value !== "string" || new RegExp(one.pattern, "u").test(value));
  if (fitting.some(takes)) {
    if (typeof value === "number" && ((first.minimum ?? value) > value || (first.maximum ?? value) < value)) {
      report(context, node, t("`{path}` is {value}, and must be from {least} to {most}", { path, value, least: first.minimum ?? "…", most: first.maximum ?? "…" }));
    }
    return;
  }
  const words = fitting.flatMap((one) => one.enum ?? (one.const === undefined ? [] : [one.const])).map(String);
  if (words.length) report(context, node, t("`{path}` is `{value}`; it can be {words}", { path, value: String(value), words: words.join(", ") }) + nearest(String(value), words));
  else report(context, node, t("`{path}`: `{value}` does not have the form that is wanted ({pattern})", { path, value: String(value), pattern: first.pattern ?? "" }));
}

interface Pairs {
  items: { key: Node | null; value: Node | null }[];
}

function checkMap(node: Node, fitting: Schema[], path: string, context: Context, depth: number) {
  const pairs = (node as unknown as Pairs).items;
  const keys = pairs.map((pair) => (isScalar(pair.key) ? String(pair.key.value) : ""));
  // The branch that knows most of the names is the one that was meant.
  const known = (one: Schema) => keys.filter((key) => one.properties?.[key]).length;
  const schema = [...fitting].sort((a, b) => known(b) - known(a))[0] ?? {};
  const parts = (schema.allOf ?? []).flatMap((one) => branches(one, context.root));
  const properties = Object.assign({}, schema.properties, ...parts.map((one) => one.properties ?? {})) as Record<string, Schema>;
  const names = Object.keys(properties);
  const rest = schema.additionalProperties;
  pairs.forEach((pair, at) => {
    const key = keys[at] ?? "";
    const place = path ? `${path}.${key}` : key;
    const own = properties[key];
    const keyNode = pair.key;
    if (!own && rest === false) {
      report(context, keyNode, (path ? t("`{key}` is not known in `{path}`", { key, path }) : t("`{key}` is not known here", { key })) + nearest(key, names));
      return;
    }
    const inner = own ?? (typeof rest === "object" ? rest : undefined);
    const described = inner ? branches(inner, context.root)[0] : undefined;
    context.places.set(line(keyNode, context), {
      path: place,
      description: inner?.description ?? described?.description ?? "",
      names: names.filter((name) => !keys.includes(name)),
    });
    if (inner) check(pair.value, inner, place, context, depth + 1);
  });
  for (const name of [...(schema.required ?? []), ...parts.flatMap((one) => one.required ?? [])]) {
    if (!keys.includes(name)) report(context, node, t("`{path}` is missing", { path: path ? `${path}.${name}` : name }));
  }
}

export interface Checked {
  findings: Finding[];
  places: Map<number, Place>;
  /** The kinds of the documents in the text. */
  kinds: string[];
}

/** Checks every document of a text; `schemas` are by kind. */
export function checkText(text: string, schemas: ReadonlyMap<string, Schema>): Checked {
  const lines = new LineCounter();
  const findings: Finding[] = [];
  const places = new Map<number, Place>();
  const kinds: string[] = [];
  for (const document of parseAllDocuments(text, { lineCounter: lines })) {
    for (const error of document.errors) {
      const message = error.message.split("\n")[0]?.replace(/ at line \d+, column \d+:?/, "") ?? "";
      findings.push({ line: error.linePos?.[0].line ?? 1, message: beside(saidOfProblem("syntax"), message), severity: "error" });
    }
    const { contents } = document;
    if (!isMap(contents)) continue;
    const kind = String(contents.get("kind") ?? "");
    kinds.push(kind);
    const schema = schemas.get(kind);
    if (schema && document.errors.length === 0) check(contents as Node, schema, "", { root: schema, lines, findings, places }, 0);
  }
  return { findings, places, kinds };
}
