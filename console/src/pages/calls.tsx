// Calls as they end: a live tap with filters, and one call opened as its six stations and its trace. What is shown is
// bounded, drawn a few times a second, and can be held still.
import { useEffect, useMemo, useRef, useState } from "react";
import { address, type Asked } from "../api/client";
import type { Call } from "../api/schema";
import type { Refused } from "../api/client";
import { follow } from "../api/stream";
import { callKey, readTold, SilentBases, toneOfCall } from "../calls";
import { duration, quoted, rate, short } from "../format";
import { Badge, Cli, Empty, Failure, Head, Panel } from "../parts/basic";
import { Icon } from "../parts/icon";
import { Stations, Trace } from "../parts/stations";
import { useField } from "../route";
import { t } from "../text/text";

const MOST = 500;
const DRAW_MS = 200;

interface Filters {
  app: string;
  caller: string;
  route: string;
  status: string;
  path: string;
  slower: string;
  header: string;
  errors: boolean;
}

function useFilters(): [Filters, (name: keyof Filters, value: string) => void] {
  const [app, setApp] = useField("app");
  const [caller, setCaller] = useField("caller");
  const [route, setRoute] = useField("route");
  const [status, setStatus] = useField("status");
  const [path, setPath] = useField("path");
  const [slower, setSlower] = useField("slower");
  // Its value may be a secret: addresses are kept and handed on.
  const [header, setHeader] = useState("");
  const [errors, setErrors] = useField("errors");
  const set = { app: setApp, caller: setCaller, route: setRoute, status: setStatus, path: setPath, slower: setSlower, header: setHeader, errors: setErrors };
  return [{ app, caller, route, status, path, slower, header, errors: errors === "true" }, (name, value) => set[name](value)];
}

/** A rule of the default namespace needs no word of that, as an app does not. */
const ruleOf = (route: string) => (route.split("/").length === 2 ? `default/${route}` : route);

export function asked(filters: Filters): Asked<"calls"> {
  const slower = Number.parseFloat(filters.slower);
  const app = filters.app && !filters.app.includes("/") ? `default/${filters.app}` : filters.app;
  return {
    ...(app ? { app } : {}),
    ...(filters.caller ? { caller: filters.caller } : {}),
    ...(filters.route ? { route: ruleOf(filters.route) } : {}),
    ...(filters.status ? { status: filters.status } : {}),
    ...(filters.path ? { path: filters.path } : {}),
    ...(filters.header ? { header: filters.header } : {}),
    ...(slower > 0 ? { slower_than_us: Math.round(slower * 1000) } : {}),
    ...(filters.errors ? { errors: true } : {}),
  };
}

export function command(filters: Filters): string {
  const flags = [
    filters.app && quoted(short(filters.app)),
    filters.caller && `--caller ${quoted(filters.caller)}`,
    filters.route && `--route ${quoted(ruleOf(filters.route))}`,
    filters.status && `--status ${quoted(filters.status)}`,
    filters.path && `--path ${quoted(filters.path)}`,
    Number.parseFloat(filters.slower) > 0 && `--slower-than ${Number.parseFloat(filters.slower)}ms`,
    filters.header && `--header ${quoted(filters.header)}`,
    filters.errors && "--errors",
  ];
  return ["dodai tap", ...flags.filter(Boolean)].join(" ");
}

/** Follows calls; newest first. */
function useCalls(filters: Filters, running: boolean) {
  const [calls, setCalls] = useState<Call[]>([]);
  const [missed, setMissed] = useState(0);
  const [perSecond, setPerSecond] = useState(0);
  const [silent, setSilent] = useState<[string, string][]>([]);
  const [refused, setRefused] = useState<Refused | null>(null);
  const url = address("calls", asked(filters));
  const isRunning = useRef(running);
  isRunning.current = running;
  useEffect(() => {
    setCalls([]);
    setMissed(0);
    setSilent([]);
    setRefused(null);
    const bases = new SilentBases();
    let fresh: Call[] = [];
    let lost = 0;
    let first = true;
    const recent: [number, number][] = [];
    const stop = follow({
      url,
      onState: (state) => {
        // A new connection tells again what the server still has.
        if (state === "connecting") first = true;
        if (state !== "open") return;
        bases.clear();
        setSilent([]);
      },
      onRefused: setRefused,
      onMessage: (message) => {
        readTold(message.data, {
          // Held still, the stream goes on: as long as somebody listens, the server keeps the calls of a trace.
          call: (call) => {
            if (bases.heard(call)) setSilent(bases.all());
            if (isRunning.current) fresh.push(call);
          },
          missed: (count) => {
            if (isRunning.current) lost += count;
          },
          silent: (base, why) => {
            bases.ended(base, why);
            setSilent(bases.all());
          },
        });
      },
    });
    const timer = setInterval(() => {
      const now = Date.now();
      recent.push([now, fresh.length + lost]);
      while ((recent[0]?.[0] ?? now) < now - 3000) recent.shift();
      setPerSecond(recent.reduce((sum, [, count]) => sum + count, 0) / 3);
      if (lost) setMissed((count) => count + lost);
      lost = 0;
      if (fresh.length === 0) return;
      const more = fresh.reverse();
      fresh = [];
      const anew = first;
      first = false;
      setCalls((known) => [...more, ...(anew ? [] : known)].slice(0, MOST));
    }, DRAW_MS);
    return () => {
      stop();
      clearInterval(timer);
    };
  }, [url]);
  return { calls, missed, perSecond, silent, refused };
}

export function Calls() {
  const [filters, set] = useFilters();
  const [running, setRunning] = useState(true);
  const { calls, missed, perSecond, silent, refused } = useCalls(filters, running);
  const [opened, setOpened] = useState<Call | null>(null);
  return (
    <>
      <Head title={t("Calls")} sub={running ? t("{rate} a second", { rate: rate(perSecond) }) : t("Held still")}>
        <button type="button" className="button" onClick={() => setRunning(!running)}>
          <Icon name={running ? "pause" : "play"} size={14} />
          {running ? t("Hold still") : t("Go on")}
        </button>
        <Cli text={command(filters)} />
      </Head>
      <Filter filters={filters} set={set} />
      {refused && <Failure error={refused} />}
      {silent.map(([base, why]) => (
        <div key={base} className="notice warn">
          {t("Base {base} tells no more calls: {why}", { base, why })}
        </div>
      ))}
      {missed > 0 && <div className="notice warn">{t("{missed} calls were passed over because there were too many; narrow the filter.", { missed })}</div>}
      <div className={opened ? "calls open" : "calls"}>
        <Panel flush>
          {calls.length === 0 ? (
            <Empty title={running ? t("Waiting for calls") : t("No calls")} command="dodai call web /">
              {t("Every call that ends from now on is shown here. To make one:")}
            </Empty>
          ) : (
            <List calls={calls} opened={opened} open={setOpened} />
          )}
        </Panel>
        {opened && <Opened call={opened} all={calls} open={setOpened} />}
      </div>
    </>
  );
}

function Filter({ filters, set }: { filters: Filters; set: (name: keyof Filters, value: string) => void }) {
  const fields: [Exclude<keyof Filters, "errors">, string, string, number][] = [
    ["app", t("App"), "web", 130],
    ["caller", t("Caller"), "outside", 110],
    ["route", t("Route"), "shop/everything", 150],
    ["status", t("Status"), "4xx, 500-503", 110],
    ["path", t("Path begins with"), "/api", 130],
    ["slower", t("Slower than (ms)"), "50", 120],
    ["header", t("Header"), "x-lane:blue", 130],
  ];
  return (
    <search className="row wrap" style={{ marginBottom: 14, alignItems: "flex-end" }}>
      {fields.map(([name, label, placeholder, width]) => (
        <Field key={name} label={label} placeholder={placeholder} width={width} value={filters[name]} set={(value) => set(name, value)} />
      ))}
      <label className="row" style={{ height: 30 }}>
        <input type="checkbox" checked={filters.errors} onChange={(event) => set("errors", event.target.checked ? "true" : "")} />
        {t("Errors only")}
      </label>
    </search>
  );
}

const SETTLE_MS = 400;

/** A field that counts when typing pauses: each filter is a new question to the server. */
function Field({ label, placeholder, width, value, set }: { label: string; placeholder: string; width: number; value: string; set: (value: string) => void }) {
  const [typed, setTyped] = useState(value);
  useEffect(() => setTyped(value), [value]);
  useEffect(() => {
    if (typed === value) return;
    const timer = setTimeout(() => set(typed.trim()), SETTLE_MS);
    return () => clearTimeout(timer);
  }, [typed]);
  return (
    <label className="field" style={{ width }}>
      <span>{label}</span>
      <input className="input" value={typed} placeholder={placeholder} onChange={(event) => setTyped(event.target.value)} spellCheck={false} />
    </label>
  );
}

function List({ calls, opened, open }: { calls: Call[]; opened: Call | null; open: (call: Call) => void }) {
  return (
    <div className="scroll" tabIndex={0} role="region" aria-label={t("Calls")}>
      <table>
        <thead>
          <tr>
            <th>{t("Time")}</th>
            <th>{t("Status")}</th>
            <th>{t("Request")}</th>
            <th>{t("From")}</th>
            <th>{t("To")}</th>
            <th className="right">{t("Took")}</th>
          </tr>
        </thead>
        <tbody>
          {calls.map((call) => (
            <tr key={callKey(call)} className={opened && callKey(call) === callKey(opened) ? "pick picked" : "pick"} onClick={() => open(call)}>
              <td className="num dim nowrap">{call.time.slice(11, 23)}</td>
              <td>
                <Badge tone={toneOfCall(call)}>{call.failure ? `${call.status} ${call.failure}` : call.status || t("left")}</Badge>
              </td>
              <td className="mono request">
                <button type="button" className="button quiet small mono clip" onClick={() => open(call)} title={call.target}>
                  {call.method} {call.target}
                </button>
              </td>
              <td>{short(call.caller)}</td>
              <td className="nowrap">{short(call.service.replace(/\/[^/]*$/, "")) || <span className="dim">{call.direction === "api" ? t("runtime API") : t("no route")}</span>}</td>
              <td className="right num nowrap">{duration(call.took_us)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

const LOOK_MS = 1500;

/** Calls of a trace that the filter left out, as far as the server still has them. */
function useTrace(trace: string): Call[] {
  const [found, setFound] = useState<Call[]>([]);
  useEffect(() => {
    setFound([]);
    const stop = follow({
      url: address("calls"),
      again: false,
      onMessage: (message) => {
        if (!message.data.includes(trace)) return;
        readTold(message.data, { call: (call) => setFound((known) => [...known, call]) });
      },
    });
    const timer = setTimeout(stop, LOOK_MS);
    return () => {
      clearTimeout(timer);
      stop();
    };
  }, [trace]);
  return found;
}

function Opened({ call, all, open }: { call: Call; all: Call[]; open: (call: Call | null) => void }) {
  const others = useTrace(call.trace_id);
  const trace = useMemo(() => {
    const own = [...all, ...others].filter((one) => one.trace_id === call.trace_id);
    return [...new Map([...own, call].map((one) => [callKey(one), one])).values()];
  }, [all, others, call]);
  const facts: [string, string | number | undefined][] = [
    [t("Route"), call.route],
    [t("Service"), call.service],
    [t("Endpoint"), call.endpoint],
    [t("Base"), call.base],
    [t("Revision"), call.revision],
    [t("Listener"), call.listener],
    [t("Client"), call.client],
    [t("Identity"), call.identity],
    [t("Protocol"), [call.protocol, call.tls && `TLS ${call.tls}`].filter(Boolean).join(", ")],
    [t("Retries"), call.retries || undefined],
    [t("Bytes in, out"), `${call.received_bytes}, ${call.sent_bytes}`],
    [t("Trace"), call.trace_id],
  ];
  return (
    <Panel
      title={
        <span className="row">
          <Badge tone={toneOfCall(call)}>{call.status || t("left")}</Badge>
          <span className="mono clip">
            {call.method} {call.target}
          </span>
        </span>
      }
      actions={
        <button type="button" className="button quiet icon" onClick={() => open(null)} aria-label={t("Close")}>
          <Icon name="close" />
        </button>
      }
    >
      <div className="stack">
        {call.failure && (
          <div className="notice bad">
            <Icon name="warning" />
            <div>
              <strong>{call.failure}</strong>
              {call.detail && <div>{call.detail}</div>}
            </div>
          </div>
        )}
        <Stations call={call} />
        <Trace calls={trace} opened={call} open={open} />
        <dl className="definition">
          {facts
            .filter(([, value]) => value !== undefined && value !== "")
            .map(([name, value]) => [
              <dt key={name}>{name}</dt>,
              <dd key={`${name} value`} className="mono">
                {value}
              </dd>,
            ])}
          {Object.entries(call.request_headers ?? {}).map(([name, value]) => [
            <dt key={name}>{name}</dt>,
            <dd key={`${name} value`} className="mono">
              {value}
            </dd>,
          ])}
        </dl>
      </div>
    </Panel>
  );
}
