// Apps as pages show them: documents, instances and traffic put together.
import { useApi } from "./api/live";
import type { Document, External, Instance, Point, Range, Traffic } from "./api/schema";
import type { Tone } from "./parts/basic";
import { beside, saidOfReason } from "./text/problems";
import { t } from "./text/text";

export type Shape = "module" | "process" | "external" | "unknown";

interface Condition {
  type: string;
  status: "True" | "False" | "Unknown";
  reason?: string;
  message?: string;
}

interface RevisionState {
  id: string;
  weight: number;
  ready?: number;
  wanted?: number;
}

export interface AppStatus {
  conditions?: Condition[];
  latestRevision?: string;
  latestReadyRevision?: string;
  revisions?: RevisionState[];
}

/** An app with all that is known of it. */
export interface App {
  id: string;
  namespace: string;
  name: string;
  shape: Shape;
  document: Document;
  status: AppStatus;
  instances: Instance[];
  tone: Tone;
  /** Why it is not well; empty if it is. */
  reason: string;
}

const shapes = ["module", "process", "external"] as const;

export function shapeOf(document: Document): Shape {
  const spec = (document.spec ?? {}) as Record<string, unknown>;
  return shapes.find((shape) => shape in spec) ?? "unknown";
}

/** A condition in words. */
export const toldOf = ({ reason, message }: Pick<Condition, "reason" | "message">) => beside(saidOfReason(reason), message || reason || "");

/** The state of an app in one tone, and why. */
export function judge(status: AppStatus, instances: readonly Instance[]): { tone: Tone; reason: string } {
  const ready = status.conditions?.find((one) => one.type === "Ready");
  const failed = instances.find((one) => one.phase === "failed" || one.phase === "backing_off" || one.phase === "unready");
  const refused = status.conditions?.find((one) => one.status === "False" && one.type !== "Ready");
  if (ready?.status === "False") return { tone: "bad", reason: toldOf(ready) };
  if (failed) return { tone: "warn", reason: failed.reason || t(`phase.${failed.phase}`) };
  if (refused) return { tone: "warn", reason: toldOf(refused) || refused.type };
  if (ready?.status === "True") return { tone: "good", reason: "" };
  return { tone: "plain", reason: ready ? toldOf(ready) : "" };
}

export function join(documents: readonly Document[], instances: readonly Instance[], externals: readonly External[] = []): App[] {
  const apps = documents.map((document): App => {
    const metadata = document.metadata as { namespace?: string; name?: string };
    const namespace = metadata.namespace ?? "default";
    const name = metadata.name ?? "";
    const id = `${namespace}/${name}`;
    const own = instances.filter((one) => one.app === id);
    const status = (document.status ?? {}) as AppStatus;
    const judged = judge(status, own);
    const away = externals.filter((one) => one.app === id && !one.reachable);
    if (judged.tone === "good" && away[0]) Object.assign(judged, { tone: "warn", reason: `${away[0].address}: ${away[0].reason}` });
    return { id, namespace, name, shape: shapeOf(document), document, status, instances: own, ...judged };
  });
  return apps.sort((a, b) => a.id.localeCompare(b.id));
}

/** All apps, kept up to date. */
export function useApps() {
  const documents = useApi("documents", { kind: "App" }, ["documents", "instances"]);
  const instances = useApi("instances", {}, ["instances", "documents"]);
  const externals = useApi("externals", {}, ["documents"], 10_000);
  const error = documents.error ?? instances.error;
  const apps = documents.value && instances.value ? join(documents.value.items, instances.value.items, externals.value?.items) : undefined;
  return { apps, error };
}

export interface Sums {
  /** Calls per second. */
  rate: number;
  /** The share of errors. */
  errors: number;
  p50: number;
  p99: number;
}

/** For how many seconds of a range anything is known. */
export function lengthOf(range: Range | undefined, otherwise: number): number {
  return range ? Math.max(1, range.to - Math.max(range.from, range.since)) : otherwise;
}

/** What came to an app over the whole range; `null` where that is not known. */
export function sums(traffic: Traffic | undefined, app: string): Sums | null {
  if (!traffic?.known) return null;
  const { calls = 0, errors = 0, p50_us = 0, p99_us = 0 } = traffic.sums[app] ?? {};
  return { rate: calls / lengthOf(traffic.range, 1), errors: calls ? errors / calls : 0, p50: p50_us, p99: p99_us };
}

/** How many a second: a step that was read late is longer than its name. */
export const perSecond = (count: number, point: Point, step: number) => count / (point[7] > 0 ? point[7] / 1000 : step);

/** The page of an app. */
export function appPath(id: string, tab = ""): string {
  const path = `/apps/${id.split("/").map(encodeURIComponent).join("/")}`;
  return tab ? `${path}/${tab}` : path;
}
