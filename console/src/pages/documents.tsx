// Every document: the list, an editor that checks while one types, what would change before it does, and the past with
// a way back.
import { useEffect, useMemo, useRef, useState } from "react";
import { ask, type Refused } from "../api/client";
import { refresh, useApi } from "../api/live";
import type { Applied, Document, Kind, Problem, Version } from "../api/schema";
import { toldOf } from "../apps";
import { age, applied as asCommand, inNamespace, moment, quoted } from "../format";
import { Badge, Cli, Confirm, Dialog, Empty, Failure, Head, Panel, toast, Waiting } from "../parts/basic";
import { Difference } from "../parts/difference";
import { Editor, type Mark } from "../parts/editor";
import { A, go, useField } from "../route";
import { checkText, type Place, type Schema } from "../schema";
import { beside, saidOfProblem } from "../text/problems";
import { t } from "../text/text";
import { toYaml } from "../yaml";

const EXAMPLE = `apiVersion: dodai.dev/v1
kind: Policy
metadata:
  name: patient
spec:
  targetRefs:
    - kind: App
      name: web
  timeouts:
    request: 3s
`;

interface Props {
  kind: string | undefined;
  namespace: string | undefined;
  name: string | undefined;
}

export function Documents({ kind, namespace, name }: Props) {
  const kinds = useApi("kinds", {}, ["documents"]);
  if (!kinds.value) return <Waiting error={kinds.error} />;
  const chosen = kind && namespace && name ? { kind, namespace, name } : null;
  return (
    <>
      <Head title={t("Documents")}>
        <A className="button" to="/documents?new=1">
          {t("New document")}
        </A>
        <Cli text="dodai get apps,routes,policies -A" />
      </Head>
      <div className="documents">
        <Panel flush>
          <Tree kinds={kinds.value.items} open={chosen ? `${chosen.kind}/${chosen.namespace}/${chosen.name}` : ""} />
        </Panel>
        {chosen ? <One key={`${kind}/${namespace}/${name}`} {...chosen} kinds={kinds.value.items} /> : <New kinds={kinds.value.items} />}
      </div>
    </>
  );
}

const path = (key: string) => `/documents/${key.split("/").map(encodeURIComponent).join("/")}`;

function Tree({ kinds, open }: { kinds: Kind[]; open: string }) {
  const [wanted, setWanted] = useState("");
  const shown = kinds
    .map((kind) => ({ ...kind, documents: kind.documents.filter((key) => key.toLowerCase().includes(wanted.toLowerCase())) }))
    .filter((kind) => kind.documents.length > 0);
  return (
    <nav aria-label={t("Documents")}>
      <div style={{ padding: "8px 8px 0" }}>
        <input className="input" style={{ width: "100%" }} type="search" placeholder={t("Filter")} aria-label={t("Filter")} value={wanted} onChange={(event) => setWanted(event.target.value)} />
      </div>
      <div className="tree">
        {shown.map((kind) => (
          <section key={kind.kind}>
            <h3>
              {kind.kind} <span className="num">{kind.documents.length}</span>
            </h3>
            {kind.documents.map((key) => {
              const [, namespace, name] = key.split("/");
              return (
                <A key={key} to={path(key)} {...(key === open ? { "aria-current": "page" as const } : {})} title={key}>
                  {namespace === "default" || !kind.namespaced ? name : `${namespace}/${name}`}
                </A>
              );
            })}
          </section>
        ))}
        {shown.length === 0 && <Empty title={t("Nothing found")} />}
      </div>
    </nav>
  );
}

/** The schemas of the kinds that a text has, as they become known. */
function useSchemas(kinds: readonly string[], known: readonly Kind[]): ReadonlyMap<string, Schema> {
  const [schemas, setSchemas] = useState<ReadonlyMap<string, Schema>>(new Map());
  const wanted = kinds.filter((kind) => known.some((one) => one.kind === kind) && !schemas.has(kind)).join(" ");
  useEffect(() => {
    for (const kind of wanted.split(" ").filter(Boolean)) {
      ask("schema", { kind })
        .then((schema) => setSchemas((now) => new Map(now).set(kind, schema as Schema)))
        .catch(() => undefined);
    }
  }, [wanted]);
  return schemas;
}

interface Verdict {
  applied: Applied | null;
  problems: Problem[];
  error: Refused | null;
}

const SETTLE_MS = 500;

/** What the server says of a text, without writing it, when typing pauses. */
function useVerdict(text: string, changed: boolean): Verdict | null {
  const [verdict, setVerdict] = useState<Verdict | null>(null);
  useEffect(() => {
    setVerdict(null);
    if (!changed) return;
    const stop = new AbortController();
    const timer = setTimeout(() => {
      ask("apply", { dryRun: true, owner: "console" }, { files: [{ name: "", content: text }] }, stop.signal)
        .then((applied) => setVerdict({ applied, problems: applied.warnings, error: null }))
        .catch((error: Refused) => {
          if (!stop.signal.aborted) setVerdict({ applied: null, problems: error.refusal?.problems ?? [], error });
        });
    }, SETTLE_MS);
    return () => {
      clearTimeout(timer);
      stop.abort();
    };
  }, [text, changed]);
  return verdict;
}

interface WorkProps {
  /** What is stored; empty for a new one. */
  stored: string;
  /** As of when that is. */
  revision?: number | undefined;
  kinds: Kind[];
  label: string;
  start?: string;
  onApplied: (key: string) => void;
}

/** The editor with its checks and the way to apply. */
function Work({ stored, revision, kinds, label, start, onApplied }: WorkProps) {
  const [text, setText] = useState(start ?? stored);
  const [line, setLine] = useState(1);
  const [asking, setAsking] = useState(false);
  const named = useMemo(() => checkText(text, new Map()).kinds, [text]);
  const schemas = useSchemas(named, kinds);
  const checked = useMemo(() => checkText(text, schemas), [text, schemas]);
  const changed = text !== stored;
  const last = useRef(stored);
  const isApplied = useRef(false);
  // What was typed began with this revision, and does not overwrite a later one unseen.
  const [began, setBegan] = useState(revision);
  useEffect(() => {
    // A new version that somebody else wrote does not take away what was typed.
    if (text === last.current || text === stored || isApplied.current) {
      setText(stored);
      setBegan(revision);
    }
    last.current = stored;
    isApplied.current = false;
  }, [stored, revision]);
  const isOvertaken = changed && began !== revision;
  const verdict = useVerdict(text, changed && checked.findings.length === 0);
  const told: Mark[] = (verdict?.problems ?? []).map((one) => ({ line: one.line || 1, message: beside(saidOfProblem(one.code), [one.message, one.remedy].filter(Boolean).join("; ")), severity: one.severity }));
  const marks = [...checked.findings, ...told];
  const place = checked.places.get(line);
  const isGood = changed && verdict?.applied !== undefined && verdict?.applied !== null;
  return (
    <Panel
      title={label}
      flush
      actions={
        <>
          {changed && (
            <button type="button" className="button small quiet" onClick={() => {
              setText(stored);
              setBegan(revision);
            }}>
              {t("Discard")}
            </button>
          )}
          <button type="button" className="button small primary" disabled={!isGood} onClick={() => setAsking(true)}>
            {t("See what changes…")}
          </button>
        </>
      }
    >
      {isOvertaken && (
        <div className="notice warn" role="alert">
          <div>{t("Somebody has changed it since you began. What you apply would take that back: see what changes, or discard what you typed.")}</div>
          <button type="button" className="button small" onClick={() => setBegan(revision)}>
            {t("Go on over it")}
          </button>
        </div>
      )}
      <Editor text={text} label={t("The document as YAML")} marks={marks} onChange={setText} onLine={setLine} onSave={() => isGood && setAsking(true)} />
      <About place={place} />
      <Problems marks={marks} verdict={verdict} changed={changed} />
      {asking && verdict?.applied && <Review before={stored} after={text} applied={verdict.applied} revision={began} onClose={() => setAsking(false)} onApplied={(key) => {
        isApplied.current = true;
        onApplied(key);
      }} />}
    </Panel>
  );
}

function About({ place }: { place: Place | undefined }) {
  if (!place) return null;
  return (
    <div style={{ padding: "8px 14px", borderTop: "1px solid var(--line)" }} aria-live="polite">
      <code>{place.path}</code> <span className="dim">{place.description}</span>
      {place.names.length > 0 && (
        <div className="dim clip">
          {t("Beside it:")} <span className="mono">{place.names.join(", ")}</span>
        </div>
      )}
    </div>
  );
}

function Problems({ marks, verdict, changed }: { marks: Mark[]; verdict: Verdict | null; changed: boolean }) {
  if (marks.length === 0) {
    const text = !changed ? t("As it is stored.") : verdict?.applied ? t("The server would take it.") : verdict?.error ? "" : t("Checking…");
    return (
      <div style={{ padding: "8px 14px", borderTop: "1px solid var(--line)" }} className="dim" role="status">
        {text || (verdict?.error && <Failure error={verdict.error} />)}
      </div>
    );
  }
  return (
    <div style={{ borderTop: "1px solid var(--line)" }} role="alert">
      <ul className="problems">
        {marks.map((mark) => (
          <li key={`${mark.line} ${mark.message}`}>
            <Badge tone={mark.severity === "error" ? "bad" : "warn"}>{t("line {line}", { line: mark.line })}</Badge>
            <span>{mark.message}</span>
          </li>
        ))}
      </ul>
    </div>
  );
}

interface ReviewProps {
  before: string;
  after: string;
  applied: Applied;
  /** It is written only if it is still at this revision. */
  revision?: number | undefined;
  onClose: () => void;
  onApplied: (key: string) => void;
}

/** What would change, before it does. */
function Review({ before, after, applied, revision, onClose, onApplied }: ReviewProps) {
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<Refused | null>(null);
  const apply = async () => {
    setBusy(true);
    try {
      // A text may have been made into another document, or several.
      const isSame = revision !== undefined && applied.documents.length === 1 && applied.documents[0]?.verdict === "configured";
      const done = await ask("apply", { owner: "console", ...(isSame ? { ifRevision: revision } : {}) }, { files: [{ name: "", content: after }] });
      toast(t("Applied"));
      refresh(["documents", "instances"]);
      onApplied(done.documents[0]?.key ?? "");
      onClose();
    } catch (failure) {
      setError(failure as Refused);
      setBusy(false);
    }
  };
  return (
    <Dialog title={t("What will change")} wide onClose={onClose}>
      <ul className="row wrap">
        {applied.documents.map((one) => (
          <li key={one.key} className="row">
            <Badge tone={one.verdict === "unchanged" ? "plain" : "accent"}>{t(`verdict.${one.verdict as "created" | "configured" | "unchanged" | "pruned"}`)}</Badge>
            <code>{one.key}</code>
          </li>
        ))}
      </ul>
      <Difference before={before} after={after} label={t("What will change")} />
      {error && <Failure error={error} />}
      <div className="spread">
        <Cli text={asCommand(after)} />
        <div className="actions">
          <button type="button" className="button" onClick={onClose} autoFocus>
            {t("Cancel")}
          </button>
          <button type="button" className="button primary" disabled={busy} onClick={() => void apply()}>
            {busy ? t("Working…") : t("Apply")}
          </button>
        </div>
      </div>
    </Dialog>
  );
}

function New({ kinds }: { kinds: Kind[] }) {
  const [isNew] = useField("new");
  if (!isNew) {
    return (
      <Panel>
        <Empty title={t("Choose a document")} command="dodai apply -f dodai.yaml">
          {t("or write a new one here, or apply a file:")}
        </Empty>
      </Panel>
    );
  }
  return <Work stored="" start={EXAMPLE} kinds={kinds} label={t("New document")} onApplied={(key) => go(path(key))} />;
}

function One({ kind, namespace, name, kinds }: { kind: string; namespace: string; name: string; kinds: Kind[] }) {
  const got = useApi("document", { kind, namespace, name }, ["documents"]);
  const [tab, setTab] = useField("view", "edit");
  const [removing, setRemoving] = useState(false);
  const key = `${kind}/${namespace}/${name}`;
  const stored = useMemo(() => (got.value ? toYaml(got.value) : ""), [got.value]);
  if (!got.value) {
    if (got.error?.status !== 404) return <Waiting error={got.error} />;
    return (
      <div className="stack">
        <strong className="mono clip">{key}</strong>
        <div className="notice warn">{t("It is not there now. If it was, its versions are below and can be brought back.")}</div>
        <History kind={kind} namespace={namespace} name={name} stored="" />
      </div>
    );
  }
  const revision = revisionOf(got.value);
  const isWritten = kind !== "Revision";
  const remove = async () => {
    await ask("deleteDocument", { kind, namespace, name });
    refresh(["documents", "instances"]);
    // Its past stays here, with the way back.
    setRemoving(false);
  };
  return (
    <div className="stack">
      <div className="spread">
        <div className="row">
          <strong className="mono clip">{key}</strong>
          {kind === "App" && (
            <A className="link" to={`/apps/${encodeURIComponent(namespace)}/${encodeURIComponent(name)}`}>
              {t("its page")}
            </A>
          )}
        </div>
        <div className="row">
          <div className="segments" role="group" aria-label={t("View")}>
            <button type="button" aria-pressed={tab === "edit"} onClick={() => setTab("edit")}>
              {t("Document")}
            </button>
            <button type="button" aria-pressed={tab === "history"} onClick={() => setTab("history")}>
              {t("History")}
            </button>
          </div>
          {isWritten && (
            <button type="button" className="button danger" onClick={() => setRemoving(true)}>
              {t("Remove")}
            </button>
          )}
          <Cli text={`dodai get ${quoted(`${kind.toLowerCase()}/${name}`)}${inNamespace(namespace)} -o yaml`} />
        </div>
      </div>
      <Conditions document={got.value} />
      {tab === "history" ? (
        <History kind={kind} namespace={namespace} name={name} stored={stored} revision={revision} />
      ) : (
        <Work stored={stored} revision={revision} kinds={kinds} label={t("Document")} onApplied={() => got.again()} />
      )}
      {removing && (
        <Confirm title={t("Remove {key}", { key })} word={name} action={t("Remove")} command={`dodai delete ${quoted(`${kind.toLowerCase()}/${name}`)}${inNamespace(namespace)}`} run={remove} onClose={() => setRemoving(false)} danger>
          <p>{kind === "App" ? t("Its instances are drained and end; calls to it fail from then on.") : t("What it says no longer holds from then on. Its history stays and can be brought back.")}</p>
        </Confirm>
      )}
    </div>
  );
}

/** At which revision of the store a document was written last. */
export function revisionOf(document: Document): number | undefined {
  const found = (document.metadata as { revision?: unknown } | undefined)?.revision;
  const revision = typeof found === "string" ? Number.parseInt(found, 10) : found;
  return typeof revision === "number" && Number.isSafeInteger(revision) ? revision : undefined;
}

interface Condition {
  type: string;
  status: string;
  reason?: string;
  message?: string;
}

function Conditions({ document }: { document: { status?: unknown } }) {
  const conditions = (document.status as { conditions?: Condition[] } | undefined)?.conditions ?? [];
  const bad = conditions.filter((one) => one.status === "False");
  if (bad.length === 0) return null;
  return (
    <div className="notice warn">
      <ul>
        {bad.map((one) => (
          <li key={one.type}>
            <strong>{one.type}</strong> {toldOf(one)}
          </li>
        ))}
      </ul>
    </div>
  );
}

interface HistoryProps {
  kind: string;
  namespace: string;
  name: string;
  /** What is there now; empty if nothing. */
  stored: string;
  revision?: number | undefined;
}

function History({ kind, namespace, name, stored, revision }: HistoryProps) {
  const got = useApi("history", { kind, namespace, name }, ["documents"]);
  const [opened, setOpened] = useState<Version | null>(null);
  const [undo, setUndo] = useState<{ text: string; applied: Applied } | null>(null);
  const [error, setError] = useState<Refused | null>(null);
  if (!got.value) return <Waiting error={got.error} />;
  const versions = got.value.items;
  const text = (version: Version | undefined) => (version?.document ? toYaml(version.document) : "");
  const begin = async (version: Version) => {
    setError(null);
    const content = text(version);
    try {
      setUndo({ text: content, applied: await ask("apply", { dryRun: true, owner: "console" }, { files: [{ name: "", content }] }) });
    } catch (failure) {
      setError(failure as Refused);
    }
  };
  return (
    <Panel title={t("History")} actions={<Cli text="dodai events --changes" />} flush>
      {error && <Failure error={error} />}
      <ul className="list">
        {versions.map((version, at) => {
          const isOpen = opened?.revision === version.revision;
          return (
            <li key={version.revision}>
              <div className="spread">
                <div className="row">
                  <Badge tone={version.action === "delete" ? "bad" : version.action === "create" ? "good" : "plain"}>{t(`action.${version.action}`)}</Badge>
                  <strong>{version.actor || "–"}</strong>
                  <span className="dim">{version.reason}</span>
                </div>
                <div className="row">
                  <time className="dim num nowrap" title={moment(version.time_ms)}>
                    {age(version.time_ms)}
                  </time>
                  <button type="button" className="button small" aria-expanded={isOpen} onClick={() => setOpened(isOpen ? null : version)}>
                    {t("What changed")}
                  </button>
                  {(at > 0 || !stored) && version.document && (
                    <button type="button" className="button small" onClick={() => void begin(version)}>
                      {t("Bring back…")}
                    </button>
                  )}
                </div>
              </div>
              {isOpen && (
                <div style={{ marginTop: 10 }}>
                  {version.document || version.action === "delete" ? <Difference before={text(versions[at + 1])} after={text(version)} label={t("What changed")} /> : <span className="dim">{t("This version is no longer kept.")}</span>}
                </div>
              )}
            </li>
          );
        })}
      </ul>
      {undo && <Review before={stored} after={undo.text} applied={undo.applied} revision={revision} onClose={() => setUndo(null)} onApplied={() => got.again()} />}
    </Panel>
  );
}
