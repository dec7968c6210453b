// Bases: the nodes, what each serves, and what it is not able to do. Those in trouble come first, and some at a time: a
// server may have hundreds.
import { useMemo, useState } from "react";
import { useApi } from "../api/live";
import type { Base, Instance } from "../api/schema";
import { appPath } from "../apps";
import { age, bytes, duration, moment, short } from "../format";
import { Badge, Cli, Dot, Empty, Head, Pages, Panel, Waiting } from "../parts/basic";
import { A, useField } from "../route";
import { t } from "../text/text";

/** How many are shown at once, and how many there must be for a search. */
const SHOWN = 20;
const MANY = 6;

/** What is wrong with a base, the worst first: away, without the newest snapshot, with something that is not open. */
const trouble = (base: Base) => (!base.connected ? 3 : base.refused ? 2 : Object.keys(base.not_open).length > 0 || Object.values(base.components).includes(false) ? 1 : 0);

/** Bases whose name, address, app or component has a word, those in trouble first. */
export function ordered(bases: readonly Base[], word: string, instances: ReadonlyMap<string, Instance[]>): Base[] {
  const wanted = word.trim().toLowerCase();
  const words = (base: Base) => [base.name, base.mesh ?? "", ...Object.keys(base.components), ...(instances.get(base.name) ?? []).map((one) => one.id)];
  const found = bases.filter((base) => !wanted || words(base).some((one) => one.toLowerCase().includes(wanted)));
  return found.sort((a, b) => trouble(b) - trouble(a) || a.name.localeCompare(b.name, "en", { numeric: true }));
}

/** Instances by their base. */
export function byBase(instances: readonly Instance[]): Map<string, Instance[]> {
  const all = new Map<string, Instance[]>();
  for (const one of instances) {
    const own = all.get(one.base);
    if (own) own.push(one);
    else all.set(one.base, [one]);
  }
  return all;
}

export function Bases() {
  const got = useApi("bases", {}, ["node", "instances"], 5000);
  const instances = useApi("instances", {}, ["instances", "documents"], 5000);
  const [word, setWord] = useField("base");
  const [from, setFrom] = useState(0);
  const own = useMemo(() => byBase(instances.value?.items ?? []), [instances.value]);
  const all = got.value?.items;
  const found = useMemo(() => ordered(all ?? [], word, own), [all, word, own]);
  if (!got.value || !all) return <Waiting error={got.error} />;
  const start = Math.min(from, Math.max(0, found.length - 1));
  const page = found.slice(start, start + SHOWN);
  const away = all.filter((base) => !base.connected).length;
  const told = [t("Server version {version}", { version: got.value.version }), all.length > 1 ? t("{count} bases, {away} away", { count: all.length, away }) : ""];
  return (
    <div className="stack">
      <Head title={t("Bases")} sub={told.filter(Boolean).join(" · ")}>
        {all.length >= MANY && (
          <input
            className="input"
            type="search"
            placeholder={t("Base, app or component")}
            aria-label={t("Base, app or component")}
            value={word}
            onChange={(event) => {
              setFrom(0);
              setWord(event.target.value);
            }}
          />
        )}
        <Cli text="dodai get bases" />
      </Head>
      {all.length === 0 && (
        <Panel>
          <Empty title={t("No base has been seen")} command="dodai token create" />
        </Panel>
      )}
      {all.length > 0 && found.length === 0 && (
        <Panel>
          <Empty title={t("Nothing found")} />
        </Panel>
      )}
      {page.map((base) => (
        <One key={base.name} base={base} own={own.get(base.name) ?? []} />
      ))}
      {found.length > SHOWN && (
        <div className="spread">
          <span className="dim num">{t("{from} to {to} of {all}", { from: start + 1, to: start + page.length, all: found.length })}</span>
          <Pages back={start > 0 ? () => setFrom(Math.max(0, start - SHOWN)) : null} more={start + SHOWN < found.length ? () => setFrom(start + SHOWN) : null} />
        </div>
      )}
    </div>
  );
}

function One({ base, own }: { base: Base; own: readonly Instance[] }) {
  const memory = own.reduce((sum, one) => sum + (one.memory_bytes ?? 0), 0);
  const components = Object.entries(base.components);
  return (
    <Panel
      title={
        <span className="row">
          <Dot tone={base.connected ? "good" : "bad"} />
          {base.name}
        </span>
      }
      actions={<span className="dim" title={moment(base.since_ms)}>{base.connected ? t("connected for {age}", { age: age(base.since_ms) }) : t("away for {age}", { age: age(base.since_ms) })}</span>}
    >
      <div className="stack">
        {base.refused && <div className="notice bad">{t("It refused the newest snapshot: {reason}", { reason: base.refused })}</div>}
        {Object.entries(base.not_open).map(([name, reason]) => (
          <div key={name} className="notice warn">
            {t("Listener {name} is not as the documents say: {reason}", { name, reason })}
          </div>
        ))}
        <dl className="definition">
          <dt>{t("Snapshot in force")}</dt>
          <dd className="num">{base.applied}</dd>
          {base.own && (
            <>
              <dt>{t("Version")}</dt>
              <dd className="num">{base.own.version}</dd>
              <dt>{t("Memory of the base")}</dt>
              <dd className="num">
                {bytes(base.own.memory_bytes)} <span className="dim">{t("{threads} threads, {files} open files", { threads: base.own.threads, files: base.own.open_files })}</span>
              </dd>
              <dt>{t("CPU time")}</dt>
              <dd className="num">{duration(base.own.cpu_ms * 1000)}</dd>
              <dt>{t("Started")}</dt>
              <dd className="num" title={moment(base.own.started_ms)}>
                {t("{age} ago", { age: age(base.own.started_ms) })}
              </dd>
            </>
          )}
          <dt>{t("Memory of its instances")}</dt>
          <dd className="num">{bytes(memory)}</dd>
          {base.mesh && (
            <>
              <dt>{t("Other bases reach it at")}</dt>
              <dd className="mono">{base.mesh}</dd>
            </>
          )}
          <dt>{t("Listeners")}</dt>
          <dd>
            <ul>
              {Object.entries(base.listeners).map(([name, at]) => (
                <li key={name}>
                  <span className="mono">{at}</span> <span className="dim">{name}</span>
                </li>
              ))}
            </ul>
          </dd>
          <dt>{t("Components")}</dt>
          <dd className="row wrap">
            {components.map(([name, ready]) => (
              <Badge key={name} tone={ready ? "good" : "bad"}>
                {short(name)}
              </Badge>
            ))}
            {components.length === 0 && "–"}
          </dd>
          <dt>{t("Instances")}</dt>
          <dd className="row wrap">
            {own.map((one) => (
              <A key={one.id} to={appPath(one.app, "instances")} className="link mono">
                {one.id}
              </A>
            ))}
            {own.length === 0 && "–"}
          </dd>
        </dl>
      </div>
    </Panel>
  );
}
