// Home: how apps are, what is wrong now and where to look, what changed lately.
import { useMemo } from "react";
import { useApi, useBeat, useNewEvents, useTraffic } from "../api/live";
import type { Event, Health, Point, Traffic } from "../api/schema";
import { type App, appPath, perSecond, type Sums, sums, useApps } from "../apps";
import { age, duration, moment, percent, rate, short } from "../format";
import { Badge, Cli, Dot, Empty, Head, Panel, RangePicker, type Tone, Waiting } from "../parts/basic";
import { Chart, Legend, type Line, Spark } from "../parts/chart";
import { Icon } from "../parts/icon";
import { A, useRange } from "../route";
import { beside, saidOfReason } from "../text/problems";
import { t } from "../text/text";

const EXAMPLE = "dodai new hello && cd hello && dodai up";

const RATE: Line[] = [
  { label: "calls/s", colour: "--series-1", value: (point, step) => perSecond(point[1], point, step), fill: true },
  { label: "errors/s", colour: "--bad", value: (point, step) => perSecond(point[2], point, step) },
];

/** Adds up the calls and errors of several series, step by step. Latencies cannot be added. */
export function total(series: Record<string, Point[]>): Point[] {
  const all = new Map<number, Point>();
  for (const [second, calls, errors, , , , , covered] of Object.values(series).flat()) {
    const sum = all.get(second) ?? [second, 0, 0, 0, 0, 0, 0, 0];
    all.set(second, [second, sum[1] + calls, sum[2] + errors, 0, 0, 0, 0, Math.max(sum[7], covered)]);
  }
  return [...all.values()].sort((a, b) => a[0] - b[0]);
}

export function Home() {
  const { apps, error } = useApps();
  const [seconds] = useRange();
  const traffic = useTraffic(seconds);
  const all = useMemo(() => traffic && total(traffic.apps), [traffic]);
  if (!apps) return <Waiting error={error} />;
  if (apps.length === 0) {
    return (
      <Panel>
        <Empty title={t("No apps yet")} command={EXAMPLE}>
          {t("Apply documents, or begin with a small project:")}
        </Empty>
      </Panel>
    );
  }
  const well = apps.filter((app) => app.tone === "good").length;
  return (
    <div className="stack">
      <Head title={t("Home")} sub={t("{well} of {all} apps are well", { well, all: apps.length })}>
        <RangePicker />
        <Cli text="dodai ps" />
      </Head>
      <div className="columns lean">
        <div className="stack">
          <Wrong apps={apps} />
          <NotCounted traffic={traffic} />
          {traffic?.known !== false && (
            <Panel title={t("All calls to apps")} actions={<Legend lines={RATE} />}>
              <Chart points={all} range={traffic?.range} lines={RATE} format={rate} label={t("All calls to apps")} />
            </Panel>
          )}
          <div className="cards">
            {apps.map((app) => (
              <AppCard key={app.id} app={app} traffic={traffic} />
            ))}
          </div>
        </div>
        <Lately />
      </div>
    </div>
  );
}

export function AppCard({ app, traffic }: { app: App; traffic: Traffic | undefined }) {
  const figures = sums(traffic, app.id);
  const ready = app.instances.filter((one) => one.phase === "ready").length;
  return (
    <A to={appPath(app.id)} className="app-card">
      <div className="spread">
        <div className="row">
          <Dot tone={(figures?.errors ?? 0) > 0.05 ? "bad" : app.tone} />
          <span className="name clip">{short(app.id)}</span>
        </div>
        <div className="row">
          {app.shape !== "external" && (
            <span className="dim num" title={t("Instances that are ready")}>
              {ready}/{app.instances.length}
            </span>
          )}
          <Badge>{t(`shape.${app.shape}`)}</Badge>
        </div>
      </div>
      <dl className="figures">
        <Figure name={t("calls/s")} value={shown(figures, "rate", rate)} />
        <Figure name={t("errors")} value={shown(figures, "errors", percent)} bad={(figures?.errors ?? 0) > 0} />
        <Figure name="p50" value={shown(figures, "p50", duration)} />
        <Figure name="p99" value={shown(figures, "p99", duration)} />
      </dl>
      {traffic?.known ? <Spark points={traffic.apps[app.id] ?? []} range={traffic.range} /> : <div className="spark" />}
      {app.reason && (
        <div className="clip dim" title={app.reason}>
          {app.reason}
        </div>
      )}
    </A>
  );
}

/** A figure, or a dash where it is not known. */
export const shown = (figures: Sums | null, name: keyof Sums, format: (value: number) => string) => (figures ? format(figures[name]) : "–");

/** Said where figures of calls are not known, or lack those of a base. */
export function NotCounted({ traffic }: { traffic: Traffic | undefined }) {
  if (!traffic) return null;
  if (!traffic.known) return <div className="notice">{t("Bases count calls and tell their server, and none has told anything yet.")}</div>;
  if (traffic.silent.length === 0) return null;
  return <div className="notice warn">{t("What {bases} measures is missing here: it is connected and does not tell. Perhaps it is of an older version.", { bases: traffic.silent.join(", ") })}</div>;
}

export function Figure({ name, value, bad }: { name: string; value: string; bad?: boolean }) {
  const [number, unit] = value.split(" ");
  return (
    <div className="figure">
      <dt>{name}</dt>
      <dd className={bad ? "bad" : ""}>
        {number}
        {unit && <small> {unit}</small>}
      </dd>
    </div>
  );
}

interface Trouble {
  tone: Tone;
  what: string;
  why: string;
  to: string;
}

/** Components that cannot be used, or that serve as they were before a change that was not made. */
export function troublesOf(components: Record<string, Health>): Trouble[] {
  return Object.entries(components)
    .filter(([, one]) => !one.ready || one.reason)
    .map(([name, one]) => ({
      tone: one.ready ? "warn" : "bad",
      what: short(name),
      why: beside(saidOfReason(one.ready ? "ChangeRefused" : "InitFailed"), one.reason),
      // A server says the base before it.
      to: pathOf(`Component/${name.split(": ").pop()}`),
    }));
}

function Wrong({ apps }: { apps: App[] }) {
  const status = useApi("status", {}, ["node", "instances"]);
  const bases = useApi("bases", {}, ["node", "instances"]);
  const beat = useBeat();
  const troubles: Trouble[] = [];
  for (const app of apps) {
    if (app.tone === "bad" || app.tone === "warn") troubles.push({ tone: app.tone, what: short(app.id), why: app.reason, to: appPath(app.id) });
  }
  troubles.push(...troublesOf(status.value?.node.components ?? {}));
  for (const [name, reason] of Object.entries(status.value?.node.not_open ?? {})) {
    troubles.push({ tone: "bad", what: name, why: beside(saidOfReason("ListenersNotOpen"), reason), to: "/bases" });
  }
  if (status.value?.node.refused) troubles.push({ tone: "bad", what: t("The newest snapshot was refused"), why: status.value.node.refused, to: "/bases" });
  for (const base of bases.value?.items ?? []) {
    if (!base.connected) troubles.push({ tone: "bad", what: base.name, why: t("This base is away"), to: "/bases" });
  }
  for (const [app, point] of Object.entries(beat?.apps ?? {})) {
    const [, calls, errors] = point;
    if (errors > 0) troubles.push({ tone: "bad", what: short(app), why: t("{errors} of {calls} calls failed in the last second", { errors, calls }), to: `/calls?app=${encodeURIComponent(app)}&errors=true` });
  }
  if (troubles.length === 0) {
    return (
      <div className="notice good">
        <Dot tone="good" />
        {t("Nothing is wrong right now.")}
      </div>
    );
  }
  return (
    <Panel title={t("What is wrong now")} flush>
      <ul className="list">
        {troubles.map((one) => (
          <li key={`${one.what} ${one.why}`}>
            <A to={one.to} className="item">
              <Dot tone={one.tone} />
              <strong className="nowrap">{one.what}</strong>
              <span className="dim grow">{one.why}</span>
              <Icon name="chevron" size={12} />
            </A>
          </li>
        ))}
      </ul>
    </Panel>
  );
}

/** Where an event or a changed document is shown. */
export function pathOf(object: string): string {
  const [kind = "", namespace = "", name = ""] = object.split("/");
  const part = encodeURIComponent;
  if (kind === "Component" && name) return `/components/${part(namespace)}/${part(name)}`;
  if (kind.toLowerCase() === "app" && name) return `/apps/${part(namespace)}/${part(name)}`;
  if (name) return `/documents/${part(kind)}/${part(namespace)}/${part(name)}`;
  return namespace ? `/apps/${part(kind)}/${part(namespace)}` : "/bases";
}

function Lately() {
  const past = useApi("events", {}, ["documents", "instances"]);
  const fresh = useNewEvents();
  const known = new Map<number, Event>();
  for (const event of [...(past.value?.items ?? []), ...fresh]) known.set(event.sequence, event);
  const events = [...known.values()].sort((a, b) => b.sequence - a.sequence).slice(0, 40);
  return (
    <Panel title={t("What changed lately")} actions={<Cli text="dodai events -f" />} flush>
      {events.length === 0 ? (
        <Empty title={t("Nothing yet")} command="dodai events -f">
          {t("What happens from now on is told here, and in a terminal:")}
        </Empty>
      ) : (
        <ul className="list">
          {events.map((event) => (
            <li key={event.sequence}>
              <div className="spread">
                <A to={pathOf(event.object)} className="clip">
                  <strong>{short(event.object.replace(/^App\//, ""))}</strong>
                </A>
                <time className="dim nowrap num" title={moment(event.at)}>
                  {age(event.at)}
                </time>
              </div>
              <div className="dim">{event.message}</div>
            </li>
          ))}
        </ul>
      )}
    </Panel>
  );
}

/** All apps as a table. */
export function Apps() {
  const { apps, error } = useApps();
  const [seconds] = useRange();
  const traffic = useTraffic(seconds);
  if (!apps) return <Waiting error={error} />;
  return (
    <div className="stack">
      <Head title={t("Apps")}>
        <RangePicker />
        <Cli text="dodai get apps -A" />
      </Head>
      <Panel flush>
        {apps.length === 0 ? (
          <Empty title={t("No apps yet")} command={EXAMPLE} />
        ) : (
          <div className="scroll-x">
            <table>
              <thead>
                <tr>
                  <th>{t("App")}</th>
                  <th>{t("Shape")}</th>
                  <th>{t("Revision")}</th>
                  <th className="right">{t("Ready")}</th>
                  <th className="right">{t("calls/s")}</th>
                  <th className="right">{t("errors")}</th>
                  <th className="right">p50</th>
                  <th className="right">p99</th>
                </tr>
              </thead>
              <tbody>
                {apps.map((app) => {
                  const figures = sums(traffic, app.id);
                  return (
                    <tr key={app.id}>
                      <td>
                        <A to={appPath(app.id)} className="row">
                          <Dot tone={app.tone} />
                          <strong>{short(app.id)}</strong>
                          <span className="dim clip">{app.reason}</span>
                        </A>
                      </td>
                      <td>{t(`shape.${app.shape}`)}</td>
                      <td className="mono">{app.status.latestReadyRevision ?? app.status.latestRevision ?? "–"}</td>
                      <td className="right num">{app.shape === "external" ? "–" : `${app.instances.filter((one) => one.phase === "ready").length}/${app.instances.length}`}</td>
                      <td className="right num">{shown(figures, "rate", rate)}</td>
                      <td className="right num">{shown(figures, "errors", percent)}</td>
                      <td className="right num">{shown(figures, "p50", duration)}</td>
                      <td className="right num">{shown(figures, "p99", duration)}</td>
                    </tr>
                  );
                })}
              </tbody>
            </table>
          </div>
        )}
      </Panel>
    </div>
  );
}
