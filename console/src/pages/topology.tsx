// Who calls whom, from what was measured. A canvas of our own: a thousand nodes keep moving, and nothing is loaded for
// it. The table beside it says the same to those who do not see it or use the keyboard.
import { useEffect, useMemo, useRef, useState } from "react";
import { useTraffic } from "../api/live";
import type { Edge } from "../api/schema";
import { type App, appPath, lengthOf, useApps } from "../apps";
import { duration, percent, quoted, rate, short } from "../format";
import { NotCounted } from "./home";
import { Cli, Dot, Empty, Head, Pages, Panel, RangePicker, Waiting } from "../parts/basic";
import { Icon } from "../parts/icon";
import { Samples } from "../parts/samples";
import { type Hit, Scene, type SceneEdge, type SceneNode } from "../parts/scene";
import { A, useField, useRange } from "../route";
import { useIsDark } from "../settings";
import { t } from "../text/text";

type By = "app" | "base";

interface Graph {
  nodes: SceneNode[];
  edges: SceneEdge[];
}

/** What a node is called that is no app: who is outside, the base itself, and calls that no route took. */
function nameOf(id: string): string {
  if (id === "outside") return t("Outside");
  if (id === "base") return t("The base");
  return id === "" ? t("No route") : short(id);
}

/** The graph of apps with the calls between them. */
export function graphOf(apps: readonly App[], measured: readonly Edge[], seconds: number): Graph {
  const known = new Map(apps.map((app) => [app.id, app]));
  const edges = measured.map(({ caller, app, calls, errors }): SceneEdge => ({ from: caller, to: app, rate: calls / seconds, errors: errors / Math.max(1, calls) }));
  const ids = new Set([...known.keys(), ...edges.flatMap((edge) => [edge.from, edge.to])]);
  const incoming = new Map<string, number>();
  for (const edge of edges) incoming.set(edge.to, (incoming.get(edge.to) ?? 0) + edge.rate);
  const nodes = [...ids].map((id): SceneNode => {
    const calls = incoming.get(id);
    return { id, label: nameOf(id), note: calls === undefined ? "" : `${rate(calls)}/s`, tone: known.get(id)?.tone ?? "plain" };
  });
  return { nodes, edges };
}

const onBase = (base: string) => `base ${base}`;

/** Which base has instances of which app. Calls are not counted by base, so none are drawn. */
export function placesOf(apps: readonly App[]): Graph {
  const edges = new Map<string, SceneEdge>();
  for (const app of apps) {
    for (const { base } of app.instances) edges.set(`${base} ${app.id}`, { from: onBase(base), to: app.id, rate: 0, errors: 0 });
  }
  const bases = new Set(apps.flatMap((app) => app.instances.map((one) => one.base)));
  const nodes = [
    ...[...bases].map((base): SceneNode => ({ id: onBase(base), label: base, note: t("Base"), tone: "plain" })),
    ...apps.map((app): SceneNode => ({ id: app.id, label: nameOf(app.id), note: "", tone: app.tone })),
  ];
  return { nodes, edges: [...edges.values()] };
}

/** A graph of so many nodes, to see how the page bears it: `?try=1000`. */
export function trial(count: number): Graph {
  const nodes = Array.from({ length: count }, (_, at): SceneNode => ({ id: `app-${at}`, label: `app-${at}`, note: "12/s", tone: at % 41 ? "good" : "warn" }));
  const edges: SceneEdge[] = [];
  for (let at = 1; at < count; at += 1) {
    edges.push({ from: `app-${Math.floor((at - 1) / 3)}`, to: `app-${at}`, rate: 1 + (at % 50), errors: at % 97 ? 0 : 0.1 });
    if (at % 2) edges.push({ from: `app-${Math.floor(at / 7)}`, to: `app-${at}`, rate: at % 9, errors: 0 });
  }
  return { nodes, edges };
}

export function Topology() {
  const { apps, error } = useApps();
  const [seconds] = useRange();
  const traffic = useTraffic(seconds);
  const lasted = lengthOf(traffic?.range, seconds);
  const [by, setBy] = useField("by", "app");
  const [tried] = useField("try");
  const [chosen, setChosen] = useState<Hit>(null);
  const graph = useMemo(() => {
    const count = Math.min(5000, Number.parseInt(tried, 10));
    if (count > 0) return trial(count);
    return by === "base" ? placesOf(apps ?? []) : graphOf(apps ?? [], traffic?.edges ?? [], lasted);
  }, [apps, traffic, lasted, by, tried]);
  if (!apps) return <Waiting error={error} />;
  const names: [By, string][] = [
    ["app", t("App")],
    ["base", t("Where apps run")],
  ];
  return (
    <>
      <Head title={t("Topology")} sub={by === "base" ? t("Which base has instances of which app") : t("{nodes} nodes, {edges} edges with calls", { nodes: graph.nodes.length, edges: graph.edges.length })}>
        <div className="segments" role="group" aria-label={t("Nodes are")}>
          {names.map(([name, label]) => (
            <button key={name} type="button" aria-pressed={by === name} onClick={() => setBy(name)}>
              {label}
            </button>
          ))}
        </div>
        <RangePicker />
        <Cli text="dodai tap --tree" />
      </Head>
      {by !== "base" && <NotCounted traffic={traffic} />}
      <Panel flush>
        {graph.nodes.length === 0 ? (
          <Empty title={t("No apps yet")} command="dodai up" />
        ) : (
          <div className="topology">
            <Drawing graph={graph} chosen={chosen} choose={setChosen} />
            {chosen && <Card hit={chosen} graph={graph} apps={apps} edges={traffic?.edges ?? []} counted={by !== "base"} choose={setChosen} />}
            <div className="hint">{t("Drag to move, wheel to zoom, click for figures")}</div>
          </div>
        )}
      </Panel>
      {by !== "base" && !tried && <Table graph={graph} edges={traffic?.edges ?? []} seconds={lasted} choose={setChosen} />}
    </>
  );
}

function Drawing({ graph, chosen, choose }: { graph: Graph; chosen: Hit; choose: (hit: Hit) => void }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const scene = useRef<Scene | null>(null);
  const dark = useIsDark();
  useEffect(() => {
    const place = canvas.current;
    if (!place) return;
    const made = new Scene(place);
    scene.current = made;
    // For those who measure how fast it draws.
    Object.assign(place, { scene: made });
    const resized = new ResizeObserver(() => made.wake());
    resized.observe(place);
    const onWheel = (event: WheelEvent) => {
      event.preventDefault();
      made.zoom(Math.exp(-event.deltaY / 500), event.offsetX, event.offsetY);
    };
    place.addEventListener("wheel", onWheel, { passive: false });
    return () => {
      place.removeEventListener("wheel", onWheel);
      resized.disconnect();
      made.end();
    };
  }, []);
  useEffect(() => scene.current?.show(graph.nodes, graph.edges), [graph]);
  useEffect(() => scene.current?.choose(chosen), [chosen]);
  useEffect(() => scene.current?.recolour(), [dark]);
  const drag = useRef<{ moved: boolean } | null>(null);
  return (
    <>
      <canvas
        ref={canvas}
        aria-label={t("Graph of calls; the table below says the same")}
        role="img"
        onPointerDown={(event) => {
          drag.current = { moved: false };
          event.currentTarget.setPointerCapture(event.pointerId);
        }}
        onPointerMove={(event) => {
          if (!drag.current) return;
          if (Math.abs(event.movementX) + Math.abs(event.movementY) > 1) drag.current.moved = true;
          if (drag.current.moved) scene.current?.move(event.movementX, event.movementY);
        }}
        onPointerUp={(event) => {
          const wasMoved = drag.current?.moved;
          drag.current = null;
          if (!wasMoved) choose(scene.current?.hit(event.nativeEvent.offsetX, event.nativeEvent.offsetY) ?? null);
        }}
      />
      <button type="button" className="button small" style={{ position: "absolute", left: 12, top: 12 }} onClick={() => scene.current?.fit()}>
        {t("Show all")}
      </button>
    </>
  );
}

interface CardProps {
  hit: NonNullable<Hit>;
  graph: Graph;
  apps: App[];
  edges: Edge[];
  /** Whether edges are calls. */
  counted: boolean;
  choose: (hit: Hit) => void;
}

function Card({ hit, graph, apps, edges, counted, choose }: CardProps) {
  const close = (
    <button type="button" className="button quiet icon" onClick={() => choose(null)} aria-label={t("Close")}>
      <Icon name="close" />
    </button>
  );
  if ("edge" in hit && !counted) return null;
  if ("edge" in hit) {
    const now = graph.edges.find((edge) => edge.from === hit.edge.from && edge.to === hit.edge.to) ?? hit.edge;
    const [caller, app] = [now.from, now.to];
    const measured = edges.find((edge) => edge.caller === caller && edge.app === app);
    return (
      <div className="card fade">
        <Panel title={`${nameOf(caller)} → ${nameOf(app)}`} actions={close}>
          <div className="stack">
            <dl className="definition">
              <dt>{t("calls/s")}</dt>
              <dd className="num">{rate(now.rate)}</dd>
              <dt>{t("errors")}</dt>
              <dd className="num">{percent(now.errors)}</dd>
              {measured && (
                <>
                  <dt>p50</dt>
                  <dd className="num">{duration(measured.p50_us)}</dd>
                  <dt>p99</dt>
                  <dd className="num">{duration(measured.p99_us)}</dd>
                </>
              )}
            </dl>
            <Samples key={`${caller} ${app}`} caller={caller} app={app} />
            <div className="row wrap">
              <A className="button small" to={`/calls?${app.includes("/") ? `app=${encodeURIComponent(app)}&` : ""}caller=${encodeURIComponent(caller)}`}>
                {t("All of them")}
              </A>
              <Cli text={`dodai tap${app.includes("/") ? ` ${quoted(short(app))}` : ""} --caller ${quoted(caller)}`} />
            </div>
          </div>
        </Panel>
      </div>
    );
  }
  const id = hit.node;
  const name = (node: string) => graph.nodes.find((one) => one.id === node)?.label ?? nameOf(node);
  const app = apps.find((one) => one.id === id);
  return (
    <div className="card fade">
      <Panel
        title={
          <span className="row">
            <Dot tone={app?.tone ?? "plain"} />
            {name(id)}
          </span>
        }
        actions={close}
      >
        <div className="stack tight">
          {app?.reason && <div className="dim">{app.reason}</div>}
          <ul>
            {graph.edges
              .filter((edge) => edge.from === hit.node || edge.to === hit.node)
              .map((edge) => (
                <li key={`${edge.from} ${edge.to}`}>
                  {counted ? (
                    <button type="button" className="button quiet small" onClick={() => choose({ edge })}>
                      {name(edge.from)} → {name(edge.to)}
                      <span className="num">{rate(edge.rate)}/s</span>
                    </button>
                  ) : (
                    <button type="button" className="button quiet small" onClick={() => choose({ node: edge.from === id ? edge.to : edge.from })}>
                      {name(edge.from === id ? edge.to : edge.from)}
                    </button>
                  )}
                </li>
              ))}
          </ul>
          {app && (
            <A className="button small" to={appPath(app.id)}>
              {t("Its page")}
            </A>
          )}
        </div>
      </Panel>
    </div>
  );
}

/** Edges in one table. */
const PAGE = 200;

function Table({ graph, edges, seconds, choose }: { graph: Graph; edges: Edge[]; seconds: number; choose: (hit: Hit) => void }) {
  const [asked, setPage] = useState(0);
  const last = Math.max(0, Math.ceil(edges.length / PAGE) - 1);
  const page = Math.min(asked, last);
  const chosen = (edge: Edge) => {
    const found = graph.edges.find((one) => one.from === edge.caller && one.to === edge.app);
    if (!found) return;
    choose({ edge: found });
    // The figures are beside the drawing, which may be out of sight.
    requestAnimationFrame(() => document.querySelector(".topology .card")?.scrollIntoView({ block: "center" }));
  };
  if (graph.edges.length === 0) return null;
  return (
    <div style={{ marginTop: 16 }}>
      <Panel title={t("Edges")} flush>
        <table>
          <thead>
            <tr>
              <th>{t("From")}</th>
              <th>{t("To")}</th>
              <th className="right">{t("calls/s")}</th>
              <th className="right">{t("errors")}</th>
              <th className="right">p50</th>
              <th className="right">p99</th>
            </tr>
          </thead>
          <tbody>
            {[...edges]
              .sort((a, b) => b.calls - a.calls)
              .slice(page * PAGE, (page + 1) * PAGE)
              .map((edge) => (
                <tr key={`${edge.caller} ${edge.app}`}>
                  <td>{nameOf(edge.caller)}</td>
                  <td>
                    <button type="button" className="button quiet small" onClick={() => chosen(edge)} aria-label={t("Calls of {caller} to {app}", { caller: nameOf(edge.caller), app: nameOf(edge.app) })}>
                      {nameOf(edge.app)}
                    </button>
                  </td>
                  <td className="right num">{rate(edge.calls / seconds)}</td>
                  <td className="right num">{percent(edge.errors / Math.max(1, edge.calls))}</td>
                  <td className="right num">{duration(edge.p50_us)}</td>
                  <td className="right num">{duration(edge.p99_us)}</td>
                </tr>
              ))}
          </tbody>
        </table>
        <Pages back={page > 0 ? () => setPage(page - 1) : null} more={page < last ? () => setPage(page + 1) : null} />
      </Panel>
    </div>
  );
}
