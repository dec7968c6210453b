// Who calls whom, from what was measured. A canvas of our own: a thousand nodes keep moving, and nothing is loaded for
// it. The table beside it says the same to those who do not see it or use the keyboard.
import { useEffect, useMemo, useRef, useState } from "react";
import { useTraffic } from "../api/live";
import type { Edge } from "../api/schema";
import { type App, appPath, lengthOf, useApps } from "../apps";
import { duration, percent, quoted, rate, short } from "../format";
import { Cli, Dot, Empty, Head, Panel, RangePicker, Waiting } from "../parts/basic";
import { Icon } from "../parts/icon";
import { type Hit, Scene, type SceneEdge, type SceneNode } from "../parts/scene";
import { A, useField, useRange } from "../route";
import { useIsDark } from "../settings";
import { t } from "../text/text";

type By = "app" | "revision" | "base";

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

/** The graph of apps, and of their instances' revisions or bases where that is wanted. */
export function graphOf(apps: readonly App[], measured: readonly Edge[], seconds: number, by: By): Graph {
  const known = new Map(apps.map((app) => [app.id, app]));
  const parts = (id: string): string[] => {
    const app = known.get(id);
    if (!app || by === "app") return [id];
    const own = [...new Set(app.instances.map((one) => (by === "revision" ? one.revision : one.base)))];
    if (by === "base") return own.length ? own.map((base) => `base ${base}`) : [id];
    return own.length ? own.map((part) => `${id} ${part}`) : [id];
  };
  const sums = new Map<string, { from: string; to: string; calls: number; errors: number }>();
  for (const edge of measured) {
    const [from, to] = [parts(edge.caller), parts(edge.app)];
    // What came from which revision is not measured: it is shared out evenly.
    const share = 1 / (from.length * to.length);
    for (const one of from) {
      for (const other of to) {
        const key = `${one}>${other}`;
        const sum = sums.get(key) ?? { from: one, to: other, calls: 0, errors: 0 };
        sum.calls += edge.calls * share;
        sum.errors += edge.errors * share;
        sums.set(key, sum);
      }
    }
  }
  const edges = [...sums.values()].map((sum): SceneEdge => ({ from: sum.from, to: sum.to, rate: sum.calls / seconds, errors: sum.errors / Math.max(1, sum.calls) }));
  const ids = new Set([...apps.flatMap((app) => parts(app.id)), ...edges.flatMap((edge) => [edge.from, edge.to])]);
  const incoming = new Map<string, number>();
  for (const edge of edges) incoming.set(edge.to, (incoming.get(edge.to) ?? 0) + edge.rate);
  const nodes = [...ids].map((id): SceneNode => {
    const [own = "", part] = id.split(" ");
    const app = known.get(own);
    const calls = incoming.get(id);
    const label = own === "base" && part ? part : nameOf(own);
    const note = [part && own !== "base" ? part : "", calls === undefined ? "" : `${rate(calls)}/s`].filter(Boolean).join("  ");
    return { id, label, note, tone: app?.tone ?? "plain" };
  });
  return { nodes, edges };
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
    return graphOf(apps ?? [], traffic?.edges ?? [], lasted, by as By);
  }, [apps, traffic, lasted, by, tried]);
  if (!apps) return <Waiting error={error} />;
  const names: [By, string][] = [
    ["app", t("App")],
    ["revision", t("Revision")],
    ["base", t("Base")],
  ];
  return (
    <>
      <Head title={t("Topology")} sub={t("{nodes} nodes, {edges} edges with calls", { nodes: graph.nodes.length, edges: graph.edges.length })}>
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
      <Panel flush>
        {graph.nodes.length === 0 ? (
          <Empty title={t("No apps yet")} command="dodai up" />
        ) : (
          <div className="topology">
            <Drawing graph={graph} chosen={chosen} choose={setChosen} />
            {chosen && <Card hit={chosen} graph={graph} apps={apps} edges={traffic?.edges ?? []} choose={setChosen} />}
            <div className="hint">{t("Drag to move, wheel to zoom, click for figures")}</div>
          </div>
        )}
      </Panel>
      {graph.edges.length <= 200 && <Table graph={graph} edges={traffic?.edges ?? []} seconds={lasted} />}
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
  choose: (hit: Hit) => void;
}

function Card({ hit, graph, apps, edges, choose }: CardProps) {
  const close = (
    <button type="button" className="button quiet icon" onClick={() => choose(null)} aria-label={t("Close")}>
      <Icon name="close" />
    </button>
  );
  if ("edge" in hit) {
    const now = graph.edges.find((edge) => edge.from === hit.edge.from && edge.to === hit.edge.to) ?? hit.edge;
    const [caller = "", app = ""] = [now.from.split(" ")[0], now.to.split(" ")[0]];
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
            <div className="row wrap">
              <A className="button small" to={`/calls?app=${encodeURIComponent(app)}&caller=${encodeURIComponent(caller)}`}>
                {t("Sample calls")}
              </A>
              <Cli text={`dodai tap ${quoted(short(app))} --caller ${quoted(caller)}`} />
            </div>
          </div>
        </Panel>
      </div>
    );
  }
  const id = hit.node.split(" ")[0] ?? "";
  const app = apps.find((one) => one.id === id);
  return (
    <div className="card fade">
      <Panel
        title={
          <span className="row">
            <Dot tone={app?.tone ?? "plain"} />
            {nameOf(id)}
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
                  <button type="button" className="button quiet small" onClick={() => choose({ edge })}>
                    {nameOf(edge.from.split(" ")[0] ?? "")} → {nameOf(edge.to.split(" ")[0] ?? "")}
                    <span className="num">{rate(edge.rate)}/s</span>
                  </button>
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

function Table({ graph, edges, seconds }: { graph: Graph; edges: Edge[]; seconds: number }) {
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
              .map((edge) => (
                <tr key={`${edge.caller} ${edge.app}`}>
                  <td>{nameOf(edge.caller)}</td>
                  <td>{nameOf(edge.app)}</td>
                  <td className="right num">{rate(edge.calls / seconds)}</td>
                  <td className="right num">{percent(edge.errors / Math.max(1, edge.calls))}</td>
                  <td className="right num">{duration(edge.p50_us)}</td>
                  <td className="right num">{duration(edge.p99_us)}</td>
                </tr>
              ))}
          </tbody>
        </table>
      </Panel>
    </div>
  );
}
