// How an app is configured: its document, what its last two revisions differ in, and what else is about it.
import { useState } from "react";
import { useApi } from "../api/live";
import type { Document } from "../api/schema";
import type { App } from "../apps";
import { applied, inNamespace, quoted, short } from "../format";
import { Cli, Empty, Panel, Waiting } from "../parts/basic";
import { Difference } from "../parts/difference";
import { A } from "../route";
import { t } from "../text/text";
import { toYaml } from "../yaml";
import { ownRevisions } from "./app";

const KINDS = ["Route", "Policy", "Resiliency", "Service", "Subscription"];

interface Reference {
  kind?: string;
  name?: string;
}

/** Whether a document names an app: as a target, a backend, what its calls are for, or a scope. */
export function isAbout(document: Document, app: App): boolean {
  if ((document.metadata.namespace ?? "default") !== app.namespace) return false;
  let found = document.metadata.name === app.name && document.kind === "Service";
  const walk = (value: unknown, field: string) => {
    if (Array.isArray(value)) {
      for (const one of value) walk(one, field);
    } else if (typeof value === "object" && value !== null) {
      const { kind, name } = value as Reference;
      const isApp = kind === "App" || kind === "Service" || (!kind && field !== "parentRefs");
      if ((field === "targetRefs" || field === "backendRefs" || field === "parentRefs") && name === app.name && isApp) found = true;
      for (const [inner, one] of Object.entries(value)) walk(one, inner);
    } else if (field === "scopes" && value === app.name) found = true;
  };
  walk(document.spec, "");
  walk(document.scopes, "scopes");
  return found;
}

/** A policy for an app, to begin with. */
const example = (app: App) =>
  applied(
    toYaml({
      apiVersion: "dodai.dev/v1",
      kind: "Policy",
      metadata: { name: `${app.name}-example`, namespace: app.namespace },
      spec: { targetRefs: [{ kind: "App", name: app.name }], timeouts: { request: "3s" } },
    }),
  );

function About({ app }: { app: App }) {
  const kinds = KINDS.map((kind) => useApi("documents", { kind, namespace: app.namespace }, ["documents"]));
  const found = kinds.flatMap((got) => got.value?.items ?? []).filter((document) => isAbout(document, app));
  return (
    <Panel title={t("Documents about it")} flush>
      {found.length === 0 ? (
        <Empty title={t("No route, policy or subscription names it")} command={example(app)}>
          {t("To hold calls to it to a time:")}
        </Empty>
      ) : (
        <ul className="list">
          {found.map((document) => (
            <li key={`${document.kind}/${document.metadata.name}`} className="row">
              <span className="dim">{document.kind}</span>
              <A className="link" to={`/documents/${document.kind}/${app.namespace}/${encodeURIComponent(String(document.metadata.name))}`}>
                {String(document.metadata.name)}
              </A>
            </li>
          ))}
        </ul>
      )}
    </Panel>
  );
}

function Revisions({ app }: { app: App }) {
  const documents = useApi("documents", { kind: "Revision", namespace: app.namespace }, ["documents"]);
  const revisions = documents.value ? ownRevisions(app, documents.value.items) : [];
  const [chosen, setChosen] = useState<[string, string] | null>(null);
  if (!documents.value) return <Waiting error={documents.error} />;
  if (revisions.length < 2) {
    const next = app.shape === "module" ? `dodai deploy ${quoted(short(app.id))} app.wasm --wait` : "dodai apply -f dodai.yaml";
    return (
      <Empty title={t("There is one revision; the next one is compared with it here")} command={next}>
        {t(app.shape === "module" ? "A module that is deployed is the next one:" : "A change of its document is the next one:")}
      </Empty>
    );
  }
  const ids = revisions.map((one) => (one.spec as { id: string }).id);
  const [from, to] = chosen ?? [ids[1] ?? "", ids[0] ?? ""];
  const text = (id: string) => {
    const found = revisions.find((one) => (one.spec as { id: string }).id === id);
    return found ? toYaml({ apiVersion: found.apiVersion, kind: "Revision", metadata: {}, spec: found.spec }) : "";
  };
  const pick = (label: string, value: string, set: (id: string) => void) => (
    <select className="select mono" aria-label={label} value={value} onChange={(event) => set(event.target.value)}>
      {ids.map((id) => (
        <option key={id}>{id}</option>
      ))}
    </select>
  );
  return (
    <div className="stack tight">
      <div className="row">
        {pick(t("From"), from, (id) => setChosen([id, to]))}
        <span className="dim">→</span>
        {pick(t("To"), to, (id) => setChosen([from, id]))}
      </div>
      <Difference before={text(from)} after={text(to)} label={t("What two revisions differ in")} />
    </div>
  );
}

export function Configuration({ app }: { app: App }) {
  return (
    <div className="columns">
      <Panel
        title={t("Its document")}
        actions={
          <>
            <A className="button small" to={`/documents/App/${app.namespace}/${encodeURIComponent(app.name)}`}>
              {t("Edit")}
            </A>
            <Cli text={`dodai get app/${quoted(app.name)}${inNamespace(app.namespace)} -o yaml`} />
          </>
        }
        flush
      >
        <pre className="value" tabIndex={0} aria-label={t("Its document")}>
          {toYaml(app.document)}
        </pre>
      </Panel>
      <div className="stack">
        <Panel title={t("What two revisions differ in")}>
          <Revisions app={app} />
        </Panel>
        <About app={app} />
      </div>
    </div>
  );
}
