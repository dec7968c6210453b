// Who calls whom, from what was measured. A canvas of our own: a thousand nodes keep moving, and nothing is loaded for
// it. The table beside it says the same to those who do not see it or use the keyboard.
import { useEffect, useMemo, useRef, useState } from "react";
import { useTraffic } from "../api/live";
import { type App, lengthOf, useApps } from "../apps";
import { duration, percent, rate } from "../format";
import { NotCounted } from "./home";
import { Cli, Dot, Empty, Head, Pages, Panel, RangePicker, Waiting } from "../parts/basic";
import { Icon } from "../parts/icon";
import { Samples } from "../parts/samples";
import { type Hit, Scene } from "../parts/scene";
import { A, useField, useRange } from "../route";
import { useIsDark } from "../settings";
import { type Key, t } from "../text/text";
import { type By, byApp, byBase, byRevision, type Graph, nameOf, type Row, trial } from "../topology";

/** What can be chosen, and what is then drawn. */
const VIEWS: Record<By, { name: Key; drawn: Key }> = {
  app: { name: "App", drawn: "Lines are calls of one app to another." },
  revision: { name: "Revision", drawn: "Lines lead from callers to apps, and from apps to the revisions that answered. Which revision a caller's calls reached is not counted." },
  base: { name: "Base", drawn: "Lines are calls that began at one base and were answered on another or the same; dashed ones lead to the apps that run there." },
};

export function Topology() {
  const { apps, error } = useApps();
  const [seconds] = useRange();
  const traffic = useTraffic(seconds);
  const lasted = lengthOf(traffic?.range, seconds);
  const [asked, setBy] = useField("by", "app");
  const by: By = asked === "revision" || asked === "base" ? asked : "app";
  const [tried] = useField("try");
  const [chosen, setChosen] = useState<Hit>(null);
  const graph = useMemo(() => {
    const count = Math.min(5000, Number.parseInt(tried, 10));
    if (count > 0) return trial(count);
    if (by === "base") return byBase(apps ?? [], traffic?.bases ?? [], lasted);
    if (by === "revision") return byRevision(apps ?? [], traffic?.edges ?? [], traffic?.revisions ?? [], lasted);
    return byApp(apps ?? [], traffic?.edges ?? [], lasted);
  }, [apps, traffic, lasted, by, tried]);
  if (!apps) return <Waiting error={error} />;
  const calls = graph.edges.filter((edge) => edge.rate > 0).length;
  return (
    <>
      <Head
        title={t("Topology")}
        sub={
          <>
            <div>{t("{nodes} nodes, {edges} edges with calls", { nodes: graph.nodes.length, edges: calls })}</div>
            <div>{t(VIEWS[by].drawn)}</div>
          </>
        }
      >
        <div className="segments" role="group" aria-label={t("Nodes are")}>
          {(Object.keys(VIEWS) as By[]).map((name) => (
            <button
              key={name}
              type="button"
              aria-pressed={by === name}
              onClick={() => {
                setBy(name);
                setChosen(null);
              }}
            >
              {t(VIEWS[name].name)}
            </button>
          ))}
        </div>
        <RangePicker />
        <Cli text="dodai tap --tree" />
      </Head>
      <NotCounted traffic={traffic} />
      <Panel flush>
        {graph.nodes.length === 0 ? (
          <Empty title={t("No apps yet")} command="dodai up" />
        ) : (
          <div className="topology">
            <Drawing graph={graph} chosen={chosen} choose={setChosen} />
            {chosen && <Card hit={chosen} graph={graph} apps={apps} choose={setChosen} />}
            <div className="hint">{t("Drag to move, wheel to zoom, click for figures")}</div>
          </div>
        )}
      </Panel>
      <Table graph={graph} seconds={lasted} choose={setChosen} />
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
  choose: (hit: Hit) => void;
}

const labelOf = (graph: Graph, id: string) => graph.nodes.find((one) => one.id === id)?.label ?? nameOf(id);

function Card({ hit, graph, apps, choose }: CardProps) {
  const close = (
    <button type="button" className="button quiet icon" onClick={() => choose(null)} aria-label={t("Close")}>
      <Icon name="close" />
    </button>
  );
  if ("edge" in hit) {
    const { from, to } = hit.edge;
    const now = graph.edges.find((edge) => edge.from === from && edge.to === to) ?? hit.edge;
    const row = graph.rows.find((one) => one.from === from && one.to === to);
    return (
      <div className="card fade">
        <Panel title={`${labelOf(graph, from)} → ${labelOf(graph, to)}`} actions={close}>
          <div className="stack">
            <dl className="definition">
              <dt>{t("calls/s")}</dt>
              <dd className="num">{rate(now.rate)}</dd>
              <dt>{t("errors")}</dt>
              <dd className="num">{percent(now.errors)}</dd>
              {row && (
                <>
                  <dt>p50</dt>
                  <dd className="num">{duration(row.p50_us)}</dd>
                  <dt>p99</dt>
                  <dd className="num">{duration(row.p99_us)}</dd>
                </>
              )}
            </dl>
            {row ? (
              <>
                <Samples key={`${from} ${to}`} asked={row.asked} isOf={row.isOf} />
                <div className="row wrap">
                  <A className="button small" to={row.page}>
                    {t("All of them")}
                  </A>
                  <Cli text={row.command} />
                </div>
              </>
            ) : (
              <div className="dim">{t("No calls in this time")}</div>
            )}
          </div>
        </Panel>
      </div>
    );
  }
  const id = hit.node;
  const app = apps.find((one) => one.id === id);
  const page = graph.pages.get(id);
  return (
    <div className="card fade">
      <Panel
        title={
          <span className="row">
            <Dot tone={graph.nodes.find((one) => one.id === id)?.tone ?? "plain"} />
            {labelOf(graph, id)}
          </span>
        }
        actions={close}
      >
        <div className="stack tight">
          {app?.reason && <div className="dim">{app.reason}</div>}
          <ul>
            {graph.edges
              .filter((edge) => edge.from === id || edge.to === id)
              .map((edge) => {
                const other = edge.from === id ? edge.to : edge.from;
                return (
                  <li key={`${edge.from} ${edge.to}`}>
                    <button type="button" className="button quiet small" onClick={() => choose(edge.dashed ? { node: other } : { edge })}>
                      {edge.dashed ? labelOf(graph, other) : `${labelOf(graph, edge.from)} → ${labelOf(graph, edge.to)}`}
                      {!edge.dashed && <span className="num">{rate(edge.rate)}/s</span>}
                    </button>
                  </li>
                );
              })}
          </ul>
          {page && (
            <A className="button small" to={page}>
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

function Table({ graph, seconds, choose }: { graph: Graph; seconds: number; choose: (hit: Hit) => void }) {
  const [asked, setPage] = useState(0);
  const last = Math.max(0, Math.ceil(graph.rows.length / PAGE) - 1);
  const page = Math.min(asked, last);
  const chosen = ({ from, to }: Row) => {
    const found = graph.edges.find((one) => one.from === from && one.to === to);
    if (!found) return;
    choose({ edge: found });
    // The figures are beside the drawing, which may be out of sight.
    requestAnimationFrame(() => document.querySelector(".topology .card")?.scrollIntoView({ block: "center" }));
  };
  if (graph.rows.length === 0) return null;
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
            {[...graph.rows]
              .sort((a, b) => b.calls - a.calls)
              .slice(page * PAGE, (page + 1) * PAGE)
              .map((row) => {
                const [caller, app] = [labelOf(graph, row.from), labelOf(graph, row.to)];
                return (
                  <tr key={`${row.from} ${row.to}`}>
                    <td>{caller}</td>
                    <td>
                      <button type="button" className="button quiet small" onClick={() => chosen(row)} aria-label={t("Calls of {caller} to {app}", { caller, app })}>
                        {app}
                      </button>
                    </td>
                    <td className="right num">{rate(row.calls / seconds)}</td>
                    <td className="right num">{percent(row.errors / Math.max(1, row.calls))}</td>
                    <td className="right num">{duration(row.p50_us)}</td>
                    <td className="right num">{duration(row.p99_us)}</td>
                  </tr>
                );
              })}
          </tbody>
        </table>
        <Pages back={page > 0 ? () => setPage(page - 1) : null} more={page < last ? () => setPage(page + 1) : null} />
      </Panel>
    </div>
  );
}
