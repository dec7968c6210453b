// Shares of an app's calls by revision, as its document says them and as they are.
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

/** The same app with other shares: those of nothing are left out, and all to the latest needs no word. */
export function withShares(app: App, shares: readonly Share[]): App["document"] {
  const given = shares.filter((one) => one.weight > 0);
  const { traffic: _before, ...spec } = (app.document.spec ?? {}) as Record<string, unknown>;
  const isPlain = given.every((one) => one.revision === "latest");
  return { ...app.document, spec: isPlain ? spec : { ...spec, traffic: given } };
}

/** Whether what runs is not yet as the document says: a revision with a share lacks instances. */
export function isMoving(app: App): boolean {
  const states = new Map((app.status.revisions ?? []).map((one) => [one.id, one]));
  const named = sharesOf(app).filter((one) => one.weight > 0);
  return named.some((one) => {
    const id = one.revision === "latest" ? app.status.latestRevision : one.revision;
    const state = id ? states.get(id) : undefined;
    return !state || state.weight === 0 || (state.ready ?? 0) < (state.wanted ?? 1);
  });
}
