// Shares of an app's calls by revision, as its document says them and as they are.
import type { Document } from "./api/schema";
import type { App } from "./apps";

/** What a document says of one revision. */
export interface Share {
  revision: string;
  weight: number;
}

/** What the document of an app says; without a word of it all goes to the latest. */
export function sharesOf(app: App): Share[] {
  const said = (app.document.spec as { traffic?: Partial<Share>[] } | undefined)?.traffic ?? [];
  if (said.length === 0) return [{ revision: "latest", weight: 1 }];
  return said.map((one) => ({ revision: one.revision ?? "latest", weight: one.weight ?? 1 }));
}

/** Shares that give something, by revision. */
const given = (shares: readonly Share[]) => new Map(shares.filter((one) => one.weight > 0).map((one) => [one.revision, one.weight]));

/** Whether shares are those that the document says already, in whatever order. */
export function saysSame(app: App, shares: readonly Share[]): boolean {
  const [said, wanted] = [given(sharesOf(app)), given(shares)];
  return said.size === wanted.size && [...wanted].every(([revision, weight]) => said.get(revision) === weight);
}

/**
 * The same app with other shares: those of nothing are left out, and all to the latest needs no word. What the document
 * names stays in its order.
 */
export function withShares(app: App, shares: readonly Share[]): App["document"] {
  const said = sharesOf(app).map((one) => one.revision);
  const place = ({ revision }: Share) => (said.includes(revision) ? said.indexOf(revision) : said.length);
  const traffic = shares.filter((one) => one.weight > 0).sort((a, b) => place(a) - place(b));
  const { traffic: _before, ...spec } = (app.document.spec ?? {}) as Record<string, unknown>;
  const isPlain = traffic.every((one) => one.revision === "latest");
  return { ...app.document, spec: isPlain ? spec : { ...spec, traffic } };
}

/** Why a revision cannot be given calls that it does not have. */
export type Hindrance = "once" | "ports" | "gone";

/** A revision that can be chosen, or that the document names. */
export interface Choice extends Share {
  hindrance?: Hindrance;
}

interface RevisionSpec {
  id: string;
  template?: { run?: string; process?: unknown; services?: { port?: number }[] };
}

/** As control plans: what ran once is not run again, and what has fixed ports cannot run beside its successor. */
function hindranceOf({ template }: RevisionSpec): Hindrance | undefined {
  if (template?.run === "once") return "once";
  return template?.process && template.services?.some((service) => service.port !== undefined) ? "ports" : undefined;
}

/** What calls can be given to, with what the document says of it: the latest, the revisions that are kept, and those that are named and gone. */
export function choicesOf(app: App, kept: readonly Document[]): Choice[] {
  const said = sharesOf(app);
  const weight = (revision: string) => said.find((one) => one.revision === revision)?.weight ?? 0;
  const specs = kept.map((one) => one.spec as RevisionSpec);
  const choices: Choice[] = [{ revision: "latest", weight: weight("latest") }];
  for (const spec of specs) {
    const hindrance = spec.id === app.status.latestRevision ? undefined : hindranceOf(spec);
    choices.push({ revision: spec.id, weight: weight(spec.id), ...(hindrance ? { hindrance } : {}) });
  }
  const gone = said.filter((one) => choices.every((choice) => choice.revision !== one.revision));
  return [...choices, ...gone.map((one) => ({ ...one, hindrance: "gone" as const }))];
}

/** Whether the app came from a file of a project: applied again, that says the shares anew. */
export function isFromFile(app: App): boolean {
  const { fieldOwners, annotations } = app.document.metadata as { fieldOwners?: Record<string, string>; annotations?: Record<string, string> };
  return fieldOwners?.[""] === "file" || annotations?.["dodai.dev/file-revision"] !== undefined;
}

/** Whether the document names revisions and calls do not go as it says: one that has a share cannot take it. */
export function isMoving(app: App): boolean {
  const said = sharesOf(app);
  if (said.every((one) => one.revision === "latest")) return false;
  const wanted = new Map<string, number>();
  for (const { revision, weight } of said) {
    const id = revision === "latest" ? (app.status.latestReadyRevision ?? app.status.latestRevision ?? "") : revision;
    wanted.set(id, (wanted.get(id) ?? 0) + weight);
  }
  const actual = new Map((app.status.revisions ?? []).map((one) => [one.id, one.weight]));
  const sum = (weights: Map<string, number>) => [...weights.values()].reduce((all, one) => all + one, 0);
  const [all, told] = [sum(wanted), sum(actual)];
  return told === 0 || [...new Set([...wanted.keys(), ...actual.keys()])].some((id) => (wanted.get(id) ?? 0) * told !== (actual.get(id) ?? 0) * all);
}
