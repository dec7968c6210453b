// Documents as YAML text, without what the server keeps in them.
import { parse, stringify } from "yaml";
import type { Document } from "./api/schema";

const KEPT = ["uid", "generation", "revision", "creationTimestamp", "ownerApp", "fieldOwners"];

/** The part of a document that its writer wrote. */
export function written(document: Document): Document {
  const copy = structuredClone(document) as Document & { metadata: Record<string, unknown> };
  delete copy.status;
  for (const field of KEPT) delete copy.metadata[field];
  const notes = copy.metadata.annotations as Record<string, string> | undefined;
  if (notes) {
    for (const name of Object.keys(notes)) if (name.startsWith("dodai.dev/")) delete notes[name];
    if (Object.keys(notes).length === 0) delete copy.metadata.annotations;
  }
  if (copy.metadata.namespace === "default") delete copy.metadata.namespace;
  return copy;
}

const FIRST = ["apiVersion", "kind", "metadata", "spec"];

/** As a person would write it: what it is first. */
export function toYaml(document: Document): string {
  const plain = written(document) as Record<string, unknown>;
  const names = [...FIRST.filter((name) => name in plain), ...Object.keys(plain).filter((name) => !FIRST.includes(name))];
  return stringify(Object.fromEntries(names.map((name) => [name, plain[name]])), { lineWidth: 0 });
}

export { parse };
