// Bases: the nodes, what each serves, and what it is not able to do.
import { useApi } from "../api/live";
import { appPath } from "../apps";
import { age, bytes, duration, moment, short } from "../format";
import { Badge, Cli, Dot, Empty, Head, Panel, Waiting } from "../parts/basic";
import { A } from "../route";
import { t } from "../text/text";

export function Bases() {
  const got = useApi("bases", {}, ["node", "instances"], 5000);
  const instances = useApi("instances", {}, ["instances", "documents"], 5000);
  if (!got.value) return <Waiting error={got.error} />;
  return (
    <div className="stack">
      <Head title={t("Bases")} sub={t("Server version {version}", { version: got.value.version })}>
        <Cli text="dodai get bases" />
      </Head>
      {got.value.items.length === 0 && (
        <Panel>
          <Empty title={t("No base has been seen")} command="dodai token create" />
        </Panel>
      )}
      {got.value.items.map((base) => {
        const own = (instances.value?.items ?? []).filter((one) => one.base === base.name);
        const memory = own.reduce((sum, one) => sum + (one.memory_bytes ?? 0), 0);
        const components = Object.entries(base.components);
        return (
          <Panel
            key={base.name}
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
      })}
    </div>
  );
}
