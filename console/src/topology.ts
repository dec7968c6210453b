// What the topology draws: apps, their revisions or the bases as nodes, what was measured between them as edges.
import type { Asked } from "./api/client";
import type { BaseEdge, Call, Edge, RevisionSum, Sum } from "./api/schema";
import { type App, appPath } from "./apps";
import { isOfEdge } from "./calls";
import { quoted, rate, short } from "./format";
import type { SceneEdge, SceneNode } from "./parts/scene";
import { t } from "./text/text";

export type By = "app" | "revision" | "base";

/** Calls that were measured between two nodes, and how they are looked for among all calls. */
export interface Row extends Sum {
  from: string;
  to: string;
  asked: Asked<"calls">;
  isOf: (call: Call) => boolean;
  /** Where more of them are, and what shows them in a terminal. */
  page: string;
  command: string;
}

export interface Graph {
  nodes: SceneNode[];
  edges: SceneEdge[];
  rows: Row[];
  /** The pages of nodes that have one. */
  pages: Map<string, string>;
}

export const OUTSIDE = "outside";

/** What a node is called that is no app: who is outside, the base itself, and calls that no route took. */
export function nameOf(id: string): string {
  if (id === OUTSIDE) return t("Outside");
  if (id === "base") return t("The base");
  return id === "" ? t("No route") : short(id);
}

const isApp = (id: string) => id.includes("/");

const drawn = (row: Row, seconds: number): SceneEdge => ({ from: row.from, to: row.to, rate: row.calls / seconds, errors: row.errors / Math.max(1, row.calls) });

/** Calls a second that arrive at each node. */
function arriving(edges: readonly SceneEdge[]): (id: string) => string {
  const incoming = new Map<string, number>();
  for (const edge of edges) if (!edge.dashed) incoming.set(edge.to, (incoming.get(edge.to) ?? 0) + edge.rate);
  return (id) => {
    const calls = incoming.get(id);
    return calls === undefined ? "" : `${rate(calls)}/s`;
  };
}

/** Calls of one caller to one app. */
function rowOf({ caller, app, calls, errors, p50_us, p99_us }: Edge): Row {
  const only = isApp(app) ? { app } : {};
  return {
    ...{ from: caller, to: app, calls, errors, p50_us, p99_us },
    asked: { caller, ...only },
    isOf: (call) => isOfEdge(call, caller, app),
    page: `/calls?${isApp(app) ? `app=${encodeURIComponent(app)}&` : ""}caller=${encodeURIComponent(caller)}`,
    command: `dodai tap${isApp(app) ? ` ${quoted(short(app))}` : ""} --caller ${quoted(caller)}`,
  };
}

/** The graph of apps with the calls between them. */
export function byApp(apps: readonly App[], measured: readonly Edge[], seconds: number): Graph {
  const known = new Map(apps.map((app) => [app.id, app]));
  const rows = measured.map(rowOf);
  const edges = rows.map((row) => drawn(row, seconds));
  const note = arriving(edges);
  const ids = new Set([...known.keys(), ...edges.flatMap((edge) => [edge.from, edge.to])]);
  const nodes = [...ids].map((id): SceneNode => ({ id, label: nameOf(id), note: note(id), tone: known.get(id)?.tone ?? "plain" }));
  return { nodes, edges, rows, pages: new Map(apps.map((app) => [app.id, appPath(app.id)])) };
}

const onRevision = (app: string, revision: string) => `revision ${app} ${revision}`;

/**
 * The graph of apps, and behind each the revisions that answered. Which of them the calls of one caller reached is not
 * counted, so callers lead to the app.
 */
export function byRevision(apps: readonly App[], measured: readonly Edge[], answered: readonly RevisionSum[], seconds: number): Graph {
  const graph = byApp(apps, measured, seconds);
  const { rows, edges, nodes, pages } = graph;
  for (const app of apps) {
    const kept = (app.status.revisions ?? []).map((one) => one.id);
    const sums = answered.filter((one) => one.app === app.id);
    for (const revision of new Set([...kept, ...app.instances.map((one) => one.revision), ...sums.map((one) => one.revision)])) {
      const id = onRevision(app.id, revision);
      const { calls = 0, errors = 0, p50_us = 0, p99_us = 0 } = sums.find((one) => one.revision === revision) ?? {};
      const row: Row = {
        ...{ from: app.id, to: id, calls, errors, p50_us, p99_us },
        asked: { app: app.id },
        isOf: (call) => call.direction !== "inbound" && call.service.startsWith(`${app.id}/`) && call.revision === revision,
        page: `/calls?app=${encodeURIComponent(app.id)}`,
        command: `dodai tap ${quoted(short(app.id))}`,
      };
      const phases = app.instances.filter((one) => one.revision === revision).map((one) => one.phase);
      const tone = phases.some((phase) => phase === "failed" || phase === "backing_off") ? "bad" : phases.includes("ready") ? "good" : "plain";
      if (calls > 0) rows.push(row);
      edges.push(drawn(row, seconds));
      nodes.push({ id, label: revision, note: `${rate(calls / seconds)}/s`, tone });
      pages.set(id, appPath(app.id, "revisions"));
    }
  }
  return graph;
}

const onBase = (base: string) => `base ${base}`;

/** The graph of bases with the calls between them and within each, and which apps run where. */
export function byBase(apps: readonly App[], crossed: readonly BaseEdge[], seconds: number): Graph {
  const places = new Map(apps.flatMap((app) => app.instances).map((one) => [one.id, one.base]));
  const bases = new Set([...places.values(), ...crossed.flatMap((one) => [one.from, one.to])]);
  bases.delete("");
  const only = bases.size === 1 ? [...bases][0] : undefined;
  const rows = crossed.map(({ from, to, calls, errors, p50_us, p99_us }): Row => ({
    ...{ from: onBase(from), to: to ? onBase(to) : OUTSIDE, calls, errors, p50_us, p99_us },
    asked: {},
    // Where there is one base, calls do not say which.
    isOf: (call) => call.direction !== "inbound" && call.direction !== "api" && (call.base ?? only) === from && call.endpoint !== "" && (places.get(call.endpoint) ?? "") === to,
    page: "/calls",
    command: "dodai tap",
  }));
  const calls = rows.map((row) => drawn(row, seconds));
  const dashed = new Map<string, SceneEdge>();
  for (const app of apps) {
    const on = app.shape === "external" ? [OUTSIDE] : app.instances.map((one) => onBase(one.base));
    for (const from of on) dashed.set(`${from} ${app.id}`, { from, to: app.id, rate: 0, errors: 0, dashed: true });
  }
  const edges = [...calls, ...dashed.values()];
  const note = arriving(edges);
  const isSeen = edges.some((edge) => edge.from === OUTSIDE || edge.to === OUTSIDE);
  const nodes = [
    ...[...bases].map((base): SceneNode => ({ id: onBase(base), label: base, note: note(onBase(base)) || t("Base"), tone: "accent" })),
    ...(isSeen ? [{ id: OUTSIDE, label: nameOf(OUTSIDE), note: note(OUTSIDE), tone: "plain" } as const] : []),
    ...apps.map((app): SceneNode => ({ id: app.id, label: nameOf(app.id), note: "", tone: app.tone })),
  ];
  const pages = new Map([...apps.map((app) => [app.id, appPath(app.id)] as const), ...[...bases].map((base) => [onBase(base), "/bases"] as const)]);
  return { nodes, edges, rows, pages };
}

/** A graph of so many nodes, to see how the page bears it: `?try=1000`. */
export function trial(count: number): Graph {
  const nodes = Array.from({ length: count }, (_, at): SceneNode => ({ id: `app-${at}`, label: `app-${at}`, note: "12/s", tone: at % 41 ? "good" : "warn" }));
  const edges: SceneEdge[] = [];
  for (let at = 1; at < count; at += 1) {
    edges.push({ from: `app-${Math.floor((at - 1) / 3)}`, to: `app-${at}`, rate: 1 + (at % 50), errors: at % 97 ? 0 : 0.1 });
    if (at % 2) edges.push({ from: `app-${Math.floor(at / 7)}`, to: `app-${at}`, rate: at % 9, errors: 0 });
  }
  return { nodes, edges, rows: [], pages: new Map() };
}
