// Components: what is configured, how each is, what each type can do; and what apps keep in them.
import { useId, useState } from "react";
import { ask, type Refused } from "../api/client";
import { useApi } from "../api/live";
import type { Component, Document } from "../api/schema";
import { appPath } from "../apps";
import { applied, bytes, configuring, posted, publishing, shelved, short, typeOf } from "../format";
import { Badge, Cli, Confirm, Dot, Empty, Failure, Head, Panel, toast, usePages, Waiting } from "../parts/basic";
import { A, useField } from "../route";
import { t } from "../text/text";
import { toYaml } from "../yaml";
import { Matrix } from "./capabilities";
import { Locks, Topics } from "./inside";

const EXAMPLE = "dodai apply -f components.yaml";

export const blockOf = (type: string) => type.split(".")[0] ?? "";

function State({ one }: { one: Component }) {
  if (!one.known) return <Badge tone="bad">{t("no driver in this build")}</Badge>;
  if (one.ready === null) return <Badge>{t("not known yet")}</Badge>;
  if (one.ready && one.reason) return <Badge tone="warn">{t("ready, as before a change that was refused")}</Badge>;
  return one.ready ? <Badge tone="good">{t("ready")}</Badge> : <Badge tone="bad">{t("not ready")}</Badge>;
}

export function Components({ namespace, name }: { namespace: string | undefined; name: string | undefined }) {
  const got = useApi("components", {}, ["documents", "node"]);
  if (!got.value) return <Waiting error={got.error} />;
  const { items, types, subscriptions } = got.value;
  const opened = items.find((one) => one.namespace === namespace && one.name === name);
  return (
    <div className="stack">
      <Head title={t("Components")}>
        <A className="button" to="/documents?new=1">
          {t("New document")}
        </A>
        <Cli text="dodai get components -A" />
      </Head>
      <Panel flush>
        {items.length === 0 ? (
          <Empty title={t("No components yet")} command={EXAMPLE}>
            {t("A component is where state, messages, secrets or configuration are kept.")}
          </Empty>
        ) : (
          <div className="scroll-x">
            <table>
              <thead>
                <tr>
                  <th>{t("Name")}</th>
                  <th>{t("Type")}</th>
                  <th>{t("State")}</th>
                  <th>{t("Apps that may use it")}</th>
                  <th />
                </tr>
              </thead>
              <tbody>
                {items.map((one) => (
                  <tr key={`${one.namespace}/${one.name}`} className={one === opened ? "picked" : ""}>
                    <td>
                      <A className="link" to={`/components/${one.namespace}/${encodeURIComponent(one.name)}`}>
                        {short(`${one.namespace}/${one.name}`)}
                      </A>
                    </td>
                    <td className="mono">
                      {one.type} <span className="dim">{one.version}</span>
                    </td>
                    <td>
                      <State one={one} />
                      {one.reason && <div className="dim">{one.reason}</div>}
                    </td>
                    <td>{one.scopes.join(", ") || t("all of its namespace")}</td>
                    <td className="right">
                      <A className="button small" to={`/documents/Component/${one.namespace}/${encodeURIComponent(one.name)}`}>
                        {t("Edit")}
                      </A>
                    </td>
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
        )}
      </Panel>
      {opened && blockOf(opened.type) === "state" && <Shelf one={opened} />}
      {opened && blockOf(opened.type) === "pubsub" && <Publish one={opened} listeners={listenersOf(opened, subscriptions)} />}
      {opened && blockOf(opened.type) === "pubsub" && <Topics key={`${opened.namespace}/${opened.name}`} one={opened} />}
      {opened && blockOf(opened.type) === "lock" && <Locks key={`${opened.namespace}/${opened.name}`} one={opened} />}
      {opened && blockOf(opened.type) === "configuration" && <Values one={opened} />}
      <Matrix types={types} items={items} />
    </div>
  );
}

/** Keys that an app keeps in a store, and the value of one. */
function Shelf({ one }: { one: Component }) {
  const apps = useApi("documents", { kind: "App", namespace: one.namespace }, ["documents"]);
  const all = one.scopes.length ? one.scopes : (apps.value?.items ?? []).map((app) => String(app.metadata.name));
  const [asked, setAsked] = useField("of");
  const [prefix, setPrefix] = useState("");
  const [key, setKey] = useField("key");
  const app = asked || all[0];
  const pages = usePages();
  const id = (name: string) => short(`${one.namespace}/${name}`);
  const place = app ? { namespace: one.namespace, name: app, store: one.name } : null;
  const keys = useApi("keys", place && { ...place, prefix, ...pages.from }, ["none"]);
  const value = useApi("kept", place && key ? { ...place, key } : null, ["none"]);
  return (
    <div className="columns">
      <Panel
        title={t("Keys in {store}", { store: one.name })}
        flush
        actions={
          <>
            <select
              className="select"
              aria-label={t("App")}
              value={app}
              onChange={(event) => {
                pages.begin();
                setKey("");
                setAsked(event.target.value);
              }}
            >
              {all.map((name) => (
                <option key={name}>{name}</option>
              ))}
            </select>
            <input
              className="input"
              type="search"
              style={{ width: 150 }}
              placeholder={t("Begins with")}
              aria-label={t("Begins with")}
              value={prefix}
              onChange={(event) => {
                pages.begin();
                setPrefix(event.target.value);
              }}
            />
            {app && <Cli text={shelved(one.name, id(app), prefix, "")} />}
          </>
        }
      >
        {keys.error && <Failure error={keys.error} />}
        {keys.value && keys.value.keys.length === 0 && (
          <Empty title={t("No keys")} command={posted(`v1.0/state/${encodeURIComponent(one.name)}`, [{ key: prefix || "greeting", value: "hello" }])}>
            {t("{app} keeps nothing there that begins so. In a shell that it starts:", { app: app ?? "" })}
          </Empty>
        )}
        <ul className="list">
          {keys.value?.keys.map((name) => (
            <li key={name}>
              <button type="button" className="button quiet small mono clip" aria-pressed={name === key} onClick={() => setKey(name)}>
                {name}
              </button>
            </li>
          ))}
        </ul>
        {pages.ways(keys.value?.next)}
      </Panel>
      <Panel title={key ? <span className="mono">{key}</span> : t("Value")} actions={app && key && <Cli text={shelved(one.name, id(app), "", key)} />} flush>
        {!key && <Empty title={t("Choose a key")} />}
        {key && value.error && <Failure error={value.error} />}
        {key && value.value && (
          <>
            <div className="row wrap dim" style={{ padding: "8px 14px" }}>
              <span>{bytes(value.value.bytes)}</span>
              {value.value.etag && <span className="mono">etag {value.value.etag}</span>}
              {value.value.content_type && <span>{value.value.content_type}</span>}
            </div>
            <pre className="value" tabIndex={0} aria-label={t("Value")}>
              {value.value.text === null ? t("These bytes are no text.") : pretty(value.value.text)}
            </pre>
          </>
        )}
      </Panel>
    </div>
  );
}

/** JSON with lines, everything else as it is. */
export function pretty(text: string): string {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

interface Listener {
  app: string;
  topic: string;
  /** Why it does not listen; empty if it does. */
  reason: string;
}

/** Who listens to which topic of a component. */
export function listenersOf(one: Component, subscriptions: Record<string, string | null>): Listener[] {
  return Object.entries(subscriptions).flatMap(([name, reason]) => {
    const [app = "", place = ""] = name.split(" ");
    const at = place.indexOf("/");
    if (place.slice(0, at) !== one.name || !app.startsWith(`${one.namespace}/`)) return [];
    return [{ app, topic: place.slice(at + 1), reason: reason ?? "" }];
  });
}

/** A subscription of an app, to begin with. */
const listening = (one: Component, topic: string, app: Document | undefined) =>
  applied(
    toYaml({
      apiVersion: "dapr.io/v2alpha1",
      kind: "Subscription",
      metadata: { name: `${one.name}-example`, namespace: one.namespace },
      spec: { pubsubname: one.name, topic, routes: { default: "/events" } },
      ...(app ? { scopes: [String(app.metadata.name)] } : {}),
    }),
  );

function Publish({ one, listeners }: { one: Component; listeners: Listener[] }) {
  const [topic, setTopic] = useState("");
  const [data, setData] = useState('{"hello": "world"}');
  const [isAsking, setAsking] = useState(false);
  const [sent, setSent] = useState(0);
  const command = publishing(one.name, one.namespace, topic || "TOPIC", data);
  const publish = async () => {
    await ask("publish", { pubsub: one.name, topic, namespace: one.namespace }, new Blob([data], { type: typeOf(data) }));
    setSent((count) => count + 1);
    toast(t("Published"));
  };
  const goes = (apps: string[]) => (apps.length ? t("{topic} of {name} goes to {apps}.", { topic, name: one.name, apps: apps.map(short).join(", ") }) : t("Nobody listens to this topic now."));
  const topics = useId();
  const apps = useApi("documents", listeners.length === 0 ? { kind: "App" } : null, ["documents"]);
  const hit = [...new Set(listeners.filter((listener) => listener.topic === topic).map((listener) => listener.app))];
  return (
    <div className="columns">
    <Panel title={t("Publish to {name}", { name: one.name })} actions={<Cli text={command} />}>
      <form
        className="stack tight"
        onSubmit={(event) => {
          event.preventDefault();
          setAsking(true);
        }}
      >
        <label className="field">
          <span>{t("Topic")}</span>
          <input className="input" value={topic} onChange={(event) => setTopic(event.target.value)} placeholder="order.placed" list={topics} />
          <datalist id={topics}>
            {[...new Set(listeners.map((listener) => listener.topic))].map((name) => (
              <option key={name} value={name} />
            ))}
          </datalist>
        </label>
        <label className="field">
          <span>{t("Data")}</span>
          <textarea className="input mono" style={{ height: 110, padding: 9 }} value={data} onChange={(event) => setData(event.target.value)} spellCheck={false} />
        </label>
        <p className="dim">{goes(hit)}</p>
        <div className="spread">
          <span className="dim" role="status">
            {sent > 0 && t("{count} published from here", { count: sent })}
          </span>
          <button type="submit" className="button primary" disabled={!topic}>
            {t("Publish…")}
          </button>
        </div>
      </form>
      {isAsking && (
        <Confirm title={t("Publish to {topic}", { topic })} word={topic} action={t("Publish")} command={command} run={publish} onClose={() => setAsking(false)}>
          <p>{goes(hit)}</p>
          <pre className="value">{data}</pre>
        </Confirm>
      )}
    </Panel>
    <Panel title={t("Who listens")} flush>
      {listeners.length === 0 ? (
        <Empty title={t("Nobody listens")} command={listening(one, topic || "orders", apps.value?.items.find((app) => (app.metadata.namespace ?? "default") === one.namespace))}>
          {t("What is published waits, as far as the component keeps it. To bring a topic to an app:")}
        </Empty>
      ) : (
        <ul className="list">
          {listeners.map((listener) => (
            <li key={`${listener.app} ${listener.topic}`} className="row">
              <Dot tone={listener.reason ? "warn" : "good"} />
              <A className="link" to={appPath(listener.app)}>
                {short(listener.app)}
              </A>
              <code>{listener.topic}</code>
              <span className="dim grow">{listener.reason}</span>
            </li>
          ))}
        </ul>
      )}
    </Panel>
    </div>
  );
}

function Values({ one }: { one: Component }) {
  const [key, setKey] = useState("");
  const [value, setValue] = useState<string | null>(null);
  const [error, setError] = useState<Refused | null>(null);
  const place = { store: one.name, key, namespace: one.namespace };
  const run = (work: Promise<unknown>) => {
    setError(null);
    work.catch((failure: Refused) => setError(failure));
  };
  const read = () => run(ask("configGet", place).then((got) => setValue(got.value)));
  const [isAsking, setAsking] = useState(false);
  const write = async () => {
    await ask("configSet", place, value ?? "");
    toast(t("Written"));
  };
  const who = t("Writing changes {key} of {name} for every app that may use it: {apps}.", { key: key || "–", name: one.name, apps: one.scopes.length ? one.scopes.join(", ") : t("all apps of {namespace}", { namespace: one.namespace }) });
  const command = configuring(one.name, one.namespace, key || "KEY", value);
  return (
    <Panel title={t("Values of {name}", { name: one.name })} actions={<Cli text={command} />}>
      <form
        className="stack tight"
        onSubmit={(event) => {
          event.preventDefault();
          read();
        }}
      >
        <div className="row">
          <label className="field grow">
            <span>{t("Key")}</span>
            <input className="input" value={key} onChange={(event) => setKey(event.target.value)} placeholder="banner" />
          </label>
          <button type="submit" className="button" style={{ alignSelf: "flex-end" }} disabled={!key}>
            {t("Read")}
          </button>
        </div>
        <label className="field">
          <span>{t("Value")}</span>
          <input className="input mono" value={value ?? ""} onChange={(event) => setValue(event.target.value)} />
        </label>
        {error && <Failure error={error} />}
        <p className="dim">{who}</p>
        <div className="actions">
          <button type="button" className="button primary" disabled={!key || value === null} onClick={() => setAsking(true)}>
            {t("Write…")}
          </button>
        </div>
      </form>
      {isAsking && (
        <Confirm title={t("Write {key}", { key })} word={key} action={t("Write")} command={command} run={write} onClose={() => setAsking(false)}>
          <p>{who}</p>
          <p>{t("It becomes: {value}", { value: value ?? "" })}</p>
        </Confirm>
      )}
    </Panel>
  );
}
