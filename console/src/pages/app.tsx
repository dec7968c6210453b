// One app: how it is and goes, its revisions and instances, what it writes, how it is configured, and what can be done.
import { lazy, type ReactNode, Suspense, useState } from "react";
import { ask } from "../api/client";
import { refresh, useApi, useTraffic } from "../api/live";
import type { Document, Edge, Instance, RevisionSum } from "../api/schema";
import { type App, appPath, lengthOf, perSecond, sums, useApps } from "../apps";
import { age, bytes, clock, cores, duration, inNamespace, moment, percent, quoted, rate, short } from "../format";
import { Badge, Cli, Confirm, Dot, Empty, Head, Panel, PhaseBadge, RangePicker, toast, Waiting } from "../parts/basic";
import { Chart, Legend, type Line } from "../parts/chart";
import { Icon } from "../parts/icon";
import { Logs } from "../parts/logs";
import { A, useRange } from "../route";
import { t } from "../text/text";
import { NotCounted } from "./home";
import { isMoving, sharesOf } from "../shares";

const Configuration = lazy(() => import("./configuration").then((page) => ({ default: page.Configuration })));

const Routes = lazy(() => import("./routes").then((page) => ({ default: page.Routes })));

const Shares = lazy(() => import("./shares").then((page) => ({ default: page.Shares })));

const TABS = ["overview", "instances", "revisions", "routes", "logs", "configuration"] as const;

const RATE: Line[] = [
  { label: "calls/s", colour: "--series-1", value: (point, step) => perSecond(point[1], point, step), fill: true },
  { label: "errors/s", colour: "--bad", value: (point, step) => perSecond(point[2], point, step) },
];
const LATENCY: Line[] = [
  { label: "p99", colour: "--series-3", value: (point) => (point[1] ? point[4] : null) },
  { label: "p50", colour: "--series-1", value: (point) => (point[1] ? point[3] : null) },
];
const CPU: Line[] = [{ label: "CPU", colour: "--series-2", value: (point) => point[5], fill: true }];
const MEMORY: Line[] = [{ label: "memory", colour: "--series-2", value: (point) => point[6] || null, fill: true }];

/** What revisions answer is shown as of the last minute: a share that was just moved is to be seen at once. */
const LIVE_SECONDS = 60;
const LIVE_MS = 2000;

/** Bytes are counted in powers of two. */
const POWERS = Array.from({ length: 32 }, (_, at) => 2 ** (at + 8));

export function AppPage({ namespace, name, tab }: { namespace: string; name: string; tab: string }) {
  const { apps, error } = useApps();
  const id = `${namespace}/${name}`;
  if (!apps) return <Waiting error={error} />;
  const app = apps.find((one) => one.id === id);
  if (!app) {
    return (
      <Panel>
        <Empty title={t("There is no app {app}", { app: id })}>
          <A to="/apps" className="link">
            {t("Apps")}
          </A>
        </Empty>
      </Panel>
    );
  }
  return (
    <>
      <Head
        title={
          <span className="row">
            <Dot tone={app.tone} />
            {short(id)}
            <Badge>{t(`shape.${app.shape}`)}</Badge>
          </span>
        }
        sub={app.reason || (app.tone === "good" ? t("Ready") : t("Not known yet"))}
      >
        <RangePicker />
        <Actions app={app} />
      </Head>
      <nav className="tabs" aria-label={t("Parts of the app")}>
        {TABS.map((one) => (
          <A key={one} to={appPath(id, one === "overview" ? "" : one)} {...(one === tab ? { "aria-current": "page" as const } : {})}>
            {t(`tab.${one}`)}
          </A>
        ))}
      </nav>
      <Tab app={app} tab={tab} />
    </>
  );
}

function Tab({ app, tab }: { app: App; tab: string }) {
  switch (tab) {
    case "instances":
      return <Instances app={app} />;
    case "revisions":
      return <Revisions app={app} />;
    case "routes":
      return <Around app={app} />;
    case "logs":
      return <Logs namespace={app.namespace} name={app.name} instances={app.instances.map((one) => one.id)} />;
    case "configuration":
      return (
        <Suspense fallback={<div className="empty">{t("Loading…")}</div>}>
          <Configuration app={app} />
        </Suspense>
      );
    default:
      return <Overview app={app} />;
  }
}

function Overview({ app }: { app: App }) {
  const [seconds] = useRange();
  const traffic = useTraffic(seconds, app.id);
  const points = traffic ? (traffic.apps[app.id] ?? []) : undefined;
  const chart = { points, range: traffic?.range };
  return (
    <div className="stack">
      <Progress app={app} />
      <div className="columns">
        {traffic?.known !== false && (
          <>
            <Panel title={t("Calls and errors")} actions={<Legend lines={RATE} />}>
              <Chart {...chart} lines={RATE} format={rate} label={t("Calls and errors")} />
            </Panel>
            <Panel title={t("Latency")} actions={<Legend lines={LATENCY} />}>
              <Chart {...chart} lines={LATENCY} format={duration} label={t("Latency")} />
            </Panel>
          </>
        )}
        {app.shape !== "external" && (
          <>
            <Panel title={t("Processor")}>
              <Chart {...chart} lines={CPU} format={cores} label={t("Processor")} height={110} />
            </Panel>
            <Panel title={t("Memory")}>
              <Chart {...chart} lines={MEMORY} format={bytes} label={t("Memory")} height={110} steps={POWERS} />
            </Panel>
          </>
        )}
      </div>
      <NotCounted traffic={traffic} />
      {traffic?.known !== false && (
        <div className="columns">
          <Edges title={t("Called by")} edges={traffic?.edges.filter((edge) => edge.app === app.id)} other="caller" app={app.id} range={lengthOf(traffic?.range, seconds)} />
          <Edges title={t("Calls, as seen in traffic")} edges={traffic?.edges.filter((edge) => edge.caller === app.id)} other="app" app={app.id} range={lengthOf(traffic?.range, seconds)} />
        </div>
      )}
      <Instances app={app} />
    </div>
  );
}

/** The routes of an app, and what it was seen to call. */
function Around({ app }: { app: App }) {
  const [seconds] = useRange();
  const traffic = useTraffic(seconds, app.id);
  const edges = traffic?.edges.filter((edge) => edge.caller === app.id);
  return (
    <Suspense fallback={<div className="empty">{t("Loading…")}</div>}>
      <Routes app={app} edges={edges}>
        <NotCounted traffic={traffic} />
        {traffic?.known !== false && <Edges title={t("Calls, as seen in traffic")} edges={edges} other="app" app={app.id} range={lengthOf(traffic?.range, seconds)} />}
      </Routes>
    </Suspense>
  );
}

/** Two revisions at once: one takes over from the other. */
function Progress({ app }: { app: App }) {
  const revisions = [...new Set(app.instances.map((one) => one.revision))];
  const wanted = app.status.latestRevision;
  if (revisions.length < 2 && (!wanted || wanted === app.status.latestReadyRevision || app.shape === "external")) return null;
  const phases = app.instances.map((one) => `${one.revision} ${t(`phase.${one.phase}`)}`);
  return (
    <div className="notice warn" role="status">
      <Icon name="restart" />
      <div>
        {t("A change is under way: {phases}", { phases: phases.join(", ") || t("waiting for the first instance") })}
      </div>
    </div>
  );
}

interface EdgesProps {
  title: string;
  edges: Edge[] | undefined;
  other: "caller" | "app";
  app: string;
  range: number;
}

function Edges({ title, edges, other, app, range }: EdgesProps) {
  const rows = [...(edges ?? [])].sort((a, b) => b.calls - a.calls);
  return (
    <Panel title={title} flush>
      {rows.length === 0 ? (
        <Empty title={edges ? t("No calls in this time") : t("Loading…")} command={other === "caller" ? `dodai call ${quoted(short(app))} /` : `dodai tap ${quoted(short(app))}`} />
      ) : (
        <div className="scroll-x">
          <table>
            <thead>
              <tr>
                <th>{t("App")}</th>
                <th className="right">{t("calls/s")}</th>
                <th className="right">{t("errors")}</th>
                <th className="right">p50</th>
                <th className="right">p99</th>
              </tr>
            </thead>
            <tbody>
              {rows.map((edge) => {
                const name = edge[other];
                return (
                  <tr key={`${edge.caller} ${edge.app}`}>
                    <td>{name.includes("/") ? <A className="link" to={appPath(name)}>{short(name)}</A> : <span>{name || t("no route")}</span>}</td>
                    <td className="right num">{rate(edge.calls / range)}</td>
                    <td className="right num">{percent(edge.errors / Math.max(1, edge.calls))}</td>
                    <td className="right num">{duration(edge.p50_us)}</td>
                    <td className="right num">{duration(edge.p99_us)}</td>
                  </tr>
                );
              })}
            </tbody>
          </table>
        </div>
      )}
    </Panel>
  );
}

function Instances({ app }: { app: App }) {
  const fresh = useApi("instances", {}, ["instances", "documents"], 3000);
  const own = (fresh.value?.items ?? app.instances).filter((one) => one.app === app.id);
  const externals = useApi("externals", app.shape === "external" ? {} : null, ["documents"], 10_000);
  const addresses = (externals.value?.items ?? []).filter((one) => one.app === app.id);
  if (app.shape === "external") {
    return (
      <Panel title={t("Addresses")} actions={<Cli text={`dodai ps ${quoted(short(app.id))}`} />} flush>
        <ul className="list">
          {addresses.map((one) => (
            <li key={one.address} className="row">
              <Dot tone={one.reachable ? "good" : "warn"} />
              <code>{one.address}</code>
              <span className="dim grow">{one.reachable ? t("accepts connections") : one.reason}</span>
            </li>
          ))}
        </ul>
      </Panel>
    );
  }
  return (
    <Panel title={t("Instances")} actions={<Cli text={`dodai ps ${quoted(short(app.id))}`} />} flush>
      {own.length === 0 ? (
        <Empty title={t("No instances")} command={`dodai describe app/${quoted(app.name)}${inNamespace(app.namespace)}`} />
      ) : (
        <div className="scroll-x">
          <table>
            <thead>
              <tr>
                <th>{t("Instance")}</th>
                <th>{t("State")}</th>
                <th>{t("Revision")}</th>
                <th>{t("Base")}</th>
                <th className="right">{t("In flight")}</th>
                <th className="right">{t("Restarts")}</th>
                <th className="right">{t("CPU time")}</th>
                <th className="right">{t("Memory")}</th>
                <th className="right">{t("Age")}</th>
              </tr>
            </thead>
            <tbody>{own.map((one) => <InstanceRow key={one.id} one={one} app={app} />)}</tbody>
          </table>
        </div>
      )}
    </Panel>
  );
}

function InstanceRow({ one, app }: { one: Instance; app: App }) {
  const ports = Object.entries(one.ports).map(([name, port]) => `${name}:${port}`);
  return (
    <tr>
      <td>
        <A className="link mono" to={`${appPath(app.id, "logs")}?instance=${encodeURIComponent(one.id)}`} title={t("Its logs")}>
          {one.id}
        </A>
        <div className="dim">{[one.pid ? `pid ${one.pid}` : "", ...ports].filter(Boolean).join("  ")}</div>
      </td>
      <td>
        <PhaseBadge phase={one.phase} />
        {one.reason && <div className="dim">{one.reason}</div>}
      </td>
      <td className="mono">{one.revision}</td>
      <td>{one.base}</td>
      <td className="right num">{one.in_flight}</td>
      <td className="right num">{one.restarts}</td>
      <td className="right num">{one.cpu_ms === null ? "–" : duration(one.cpu_ms * 1000)}</td>
      <td className="right num">{bytes(one.memory_bytes)}</td>
      <td className="right num nowrap" title={moment(one.created_ms)}>
        {age(one.created_ms)}
      </td>
    </tr>
  );
}

/** The revisions of an app, newest first. */
export function ownRevisions(app: App, documents: readonly Document[]): Document[] {
  const own = documents.filter((one) => {
    const spec = one.spec as { app?: string } | undefined;
    return spec?.app === app.name && (one.metadata.namespace ?? "default") === app.namespace;
  });
  const made = (one: Document) => String(one.metadata.creationTimestamp ?? "");
  return own.sort((a, b) => made(b).localeCompare(made(a)));
}

function Revisions({ app }: { app: App }) {
  const documents = useApi("documents", { kind: "Revision", namespace: app.namespace }, ["documents"]);
  const [back, setBack] = useState<string | null>(null);
  const [isSharing, setSharing] = useState(false);
  const traffic = useApi("traffic", { seconds: LIVE_SECONDS, app: app.id }, ["none"], LIVE_MS).value;
  if (!documents.value) return <Waiting error={documents.error} />;
  const revisions = ownRevisions(app, documents.value.items);
  const states = new Map((app.status.revisions ?? []).map((one) => [one.id, one]));
  const all = [...states.values()].reduce((sum, one) => sum + one.weight, 0) || 1;
  const figures = new Map((traffic?.revisions ?? []).map((one) => [one.revision, one]));
  const length = lengthOf(traffic?.range, LIVE_SECONDS);
  return (
    <Panel
      title={t("Revisions")}
      actions={
        <>
          {app.shape !== "external" && revisions.length > 0 && (
            <button type="button" className="button small" onClick={() => setSharing(true)}>
              {t("Move calls…")}
            </button>
          )}
          <Cli text={`dodai get revisions${inNamespace(app.namespace)}`} />
        </>
      }
      flush
    >
      {isMoving(app) && app.shape !== "external" && (
        <div className="notice warn" role="status">
          {t("Calls do not go as the document says yet: {shares}", {
            shares: (app.status.revisions ?? []).map((one) => `${one.id} ${percent(one.weight / all)}, ${t("{ready} of {wanted} ready", { ready: one.ready ?? 0, wanted: one.wanted ?? 0 })}`).join("; "),
          })}
        </div>
      )}
      {revisions.length === 0 ? (
        <Empty title={t("No revisions yet")} command={`dodai describe app/${quoted(app.name)}${inNamespace(app.namespace)}`}>
          {t("One is made once the app can run. To see what is missing:")}
        </Empty>
      ) : (
        <div className="scroll-x">
          <table>
            <thead>
              <tr>
                <th>{t("Revision")}</th>
                <th>{t("Artefact")}</th>
                <th>{t("Traffic")}</th>
                <th className="right" title={t("Over the last minute")}>
                  {t("calls/s")}
                </th>
                <th className="right" title={t("Over the last minute")}>
                  {t("errors")}
                </th>
                <th className="right">p50</th>
                <th className="right">p99</th>
                <th className="right">{t("Instances")}</th>
                <th className="right">{t("Made")}</th>
                <th />
              </tr>
            </thead>
            <tbody>
              {revisions.map((one) => {
                const spec = one.spec as { id: string; digest?: string };
                const state = states.get(spec.id);
                const share = (state?.weight ?? 0) / all;
                const made = Date.parse(String(one.metadata.creationTimestamp ?? ""));
                return (
                  <tr key={spec.id}>
                    <td>
                      <span className="row">
                        <code>{spec.id}</code>
                        {spec.id === app.status.latestRevision && <Badge tone="accent">{t("newest")}</Badge>}
                      </span>
                    </td>
                    <td className="mono dim">{spec.digest?.replace("sha256:", "").slice(0, 12) ?? "–"}</td>
                    <td>
                      <span className="row">
                        <span className="share" aria-hidden="true">
                          <i style={{ width: `${share * 100}%` }} />
                        </span>
                        <span className="num">{percent(share)}</span>
                      </span>
                    </td>
                    <Answered sum={figures.get(spec.id)} length={length} isKnown={traffic?.known === true} />
                    <td className="right num">{app.instances.filter((instance) => instance.revision === spec.id).length}</td>
                    <td className="right num nowrap">{Number.isNaN(made) ? "–" : `${clock(made)} (${age(made)})`}</td>
                    <td className="right">
                      {share === 0 && (
                        <button type="button" className="button small" onClick={() => setBack(spec.id)}>
                          <Icon name="undo" size={14} />
                          {t("Go back to it")}
                        </button>
                      )}
                    </td>
                  </tr>
                );
              })}
            </tbody>
          </table>
        </div>
      )}
      {back !== null && <RollBack app={app} to={back} onClose={() => setBack(null)} />}
      {isSharing && (
        <Suspense fallback={null}>
          <Shares key={JSON.stringify(sharesOf(app))} app={app} revisions={revisions} onClose={() => setSharing(false)} />
        </Suspense>
      )}
    </Panel>
  );
}

/** What a revision answered: rate, share of errors, latencies. */
function Answered({ sum, length, isKnown }: { sum: RevisionSum | undefined; length: number; isKnown: boolean }) {
  if (!sum) {
    return (
      <>
        <td className="right num dim">{isKnown ? "0" : "–"}</td>
        {["errors", "p50", "p99"].map((name) => (
          <td key={name} className="right num dim">
            –
          </td>
        ))}
      </>
    );
  }
  return (
    <>
      <td className="right num">{rate(sum.calls / length)}</td>
      <td className="right num">{sum.errors > 0 ? <Badge tone="bad">{percent(sum.errors / sum.calls)}</Badge> : "0%"}</td>
      <td className="right num nowrap">{duration(sum.p50_us)}</td>
      <td className="right num nowrap">{duration(sum.p99_us)}</td>
    </>
  );
}

/** What an action on the app will hit. */
export function Hit({ app, children }: { app: App; children: ReactNode }) {
  const [seconds] = useRange();
  const traffic = useTraffic(seconds, app.id);
  const figures = sums(traffic, app.id);
  const callers = [...new Set(traffic?.edges.filter((edge) => edge.app === app.id).map((edge) => short(edge.caller)))];
  return (
    <>
      <p>{children}</p>
      <dl className="definition">
        <dt>{t("Instances")}</dt>
        <dd>{app.instances.map((one) => one.id).join(", ") || "–"}</dd>
        <dt>{t("Now")}</dt>
        <dd>{figures ? t("{rate} calls a second, {errors} errors", { rate: rate(figures.rate), errors: percent(figures.errors) }) : "–"}</dd>
        <dt>{t("Called by")}</dt>
        <dd>{callers.join(", ") || "–"}</dd>
      </dl>
    </>
  );
}

const after = () => refresh(["documents", "instances"]);

function RollBack({ app, to, onClose }: { app: App; to: string; onClose: () => void }) {
  const run = async () => {
    await ask("rollback", { namespace: app.namespace, name: app.name }, to ? { to } : {});
    toast(t("Going back"));
    after();
  };
  return (
    <Confirm title={t("Go back to an earlier revision")} word={app.name} action={t("Go back")} command={`dodai rollback ${quoted(short(app.id))}${to ? ` --to ${to}` : ""}`} run={run} onClose={onClose} danger>
      <Hit app={app}>{to ? t("Revision {to} starts beside the present one and takes over when it is ready.", { to }) : t("The revision that served before starts beside the present one and takes over when it is ready.")}</Hit>
    </Confirm>
  );
}

function Restart({ app, onClose }: { app: App; onClose: () => void }) {
  const run = async () => {
    await ask("restart", { namespace: app.namespace, name: app.name });
    toast(t("Restarting"));
    after();
  };
  return (
    <Confirm title={t("Restart {app}", { app: short(app.id) })} word={app.name} action={t("Restart")} command={`dodai restart ${quoted(short(app.id))}`} run={run} onClose={onClose}>
      <Hit app={app}>{t("New instances come up beside the old, get the calls, and the old ones drain. No call fails.")}</Hit>
    </Confirm>
  );
}

function Deploy({ app, onClose }: { app: App; onClose: () => void }) {
  const [file, setFile] = useState<File | null>(null);
  const run = async () => {
    if (!file) return;
    await ask("deploy", { namespace: app.namespace, name: app.name }, file.slice(0, file.size, "application/wasm"));
    toast(t("Deploying"));
    after();
  };
  return (
    <Confirm title={t("Deploy to {app}", { app: short(app.id) })} word={file ? app.name : "\u0000"} action={t("Deploy")} command={`dodai deploy ${quoted(short(app.id))} ${quoted(file?.name ?? "app.wasm")} --wait`} run={run} onClose={onClose}>
      <label className="field">
        <span>{t("A WASM component")}</span>
        <input type="file" accept=".wasm" onChange={(event) => setFile(event.target.files?.[0] ?? null)} />
      </label>
      <Hit app={app}>{t("It is compiled first. What does not compile changes nothing; otherwise it starts beside the present revision and takes over when it is ready.")}</Hit>
    </Confirm>
  );
}

function Actions({ app }: { app: App }) {
  const [open, setOpen] = useState<"restart" | "rollback" | "deploy" | null>(null);
  const close = () => setOpen(null);
  if (app.shape === "external") return <Cli text={`dodai describe app/${quoted(app.name)}${inNamespace(app.namespace)}`} />;
  return (
    <>
      {app.shape === "module" && (
        <button type="button" className="button" onClick={() => setOpen("deploy")}>
          {t("Deploy")}
        </button>
      )}
      <button type="button" className="button" onClick={() => setOpen("rollback")}>
        {t("Roll back")}
      </button>
      <button type="button" className="button" onClick={() => setOpen("restart")}>
        {t("Restart")}
      </button>
      <Cli text={`dodai describe app/${quoted(app.name)}${inNamespace(app.namespace)}`} />
      {open === "restart" && <Restart app={app} onClose={close} />}
      {open === "rollback" && <RollBack app={app} to="" onClose={close} />}
      {open === "deploy" && <Deploy app={app} onClose={close} />}
    </>
  );
}
