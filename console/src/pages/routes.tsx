// How calls come to an app and where it calls: rules of routes on both sides, and what it was seen to call.
import type { ReactNode } from "react";
import { useApi } from "../api/live";
import type { Edge } from "../api/schema";
import { type App, useApps } from "../apps";
import { applied, inNamespace, percent, quoted, short } from "../format";
import { Badge, Cli, Empty, Panel, Waiting } from "../parts/basic";
import { A } from "../route";
import { type Documents, type Leading, type Named, routesIn, routesOut } from "../routes";
import { type Key, t } from "../text/text";
import { toYaml } from "../yaml";

/** The page of a document; a service may be there without one. */
function Link({ of, app, children }: { of: Named; app: App; children?: ReactNode }) {
  const name = of.namespace === app.namespace ? of.name : `${of.namespace}/${of.name}`;
  return (
    <A className="link" to={`/documents/${of.kind}/${of.namespace}/${encodeURIComponent(of.name)}`}>
      {children ?? name}
    </A>
  );
}

/** A service without a document is its app. */
const documented = (of: Named, documents: Documents): Named =>
  of.kind === "Service" && !documents.services.some((one) => one.metadata.name === of.name && (one.metadata.namespace ?? "default") === of.namespace) ? { ...of, kind: "App" } : of;

function Rules({ all, documents, app, label }: { all: Leading[]; documents: Documents; app: App; label: Key }) {
  return (
    <div className="scroll-x" tabIndex={0} role="region" aria-label={t(label)}>
      <table>
        <thead>
          <tr>
            <th>{t("Route")}</th>
            <th>{t("Enters at")}</th>
            <th>{t("Hosts")}</th>
            <th>{t("Calls")}</th>
            <th>{t("Goes to")}</th>
          </tr>
        </thead>
        <tbody>
          {all.map((one, at) => (
            <tr key={`${one.route.namespace}/${one.route.name} ${at}`}>
              <td>
                <Link of={one.route} app={app} />
                {one.route.note && <div className="dim">{one.route.note}</div>}
              </td>
              <td>
                {one.parents.map((parent) => (
                  <div key={`${parent.kind} ${parent.name} ${parent.note}`} className="row nowrap">
                    <Link of={documented(parent, documents)} app={app} /> <span className="dim">{parent.note || t(parent.kind === "Gateway" ? "Gateway" : "In the mesh")}</span>
                  </div>
                ))}
              </td>
              <td>{one.hosts.length ? one.hosts.map((host) => <div key={host}>{host}</div>) : <span className="dim">{t("every host")}</span>}</td>
              <td className="mono">{one.matches.length ? one.matches.map((match) => <div key={match}>{match}</div>) : <span className="dim">{t("every call")}</span>}</td>
              <td>
                {one.ways.map((way) => (
                  <div key={`${way.kind} ${way.namespace}/${way.name} ${way.note}`} className="row nowrap">
                    <span className="num">{percent(way.share)}</span>
                    {way.isApp ? <strong>{way.name}</strong> : <Link of={documented(way, documents)} app={app} />}
                    {way.note && <code>{way.note}</code>}
                  </div>
                ))}
                {one.filters.length > 0 && (
                  <div className="row wrap">
                    {one.filters.map((filter) => (
                      <Badge key={filter}>{filter}</Badge>
                    ))}
                  </div>
                )}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

/** A route that gives calls to a service a time of its own, to begin with. */
const example = (service: string, namespace: string) =>
  applied(
    toYaml({
      apiVersion: "dodai.dev/v1",
      kind: "Route",
      metadata: { name: `to-${service}`, namespace },
      spec: { parentRefs: [{ kind: "Service", name: service }], rules: [{ backendRefs: [{ name: service }], timeouts: { request: "2s" } }] },
    }),
  );

export function Routes({ app, edges, children }: { app: App; edges: Edge[] | undefined; children: ReactNode }) {
  const routes = useApi("documents", { kind: "Route" }, ["documents"]);
  const services = useApi("documents", { kind: "Service" }, ["documents"]);
  const gateways = useApi("documents", { kind: "Gateway" }, ["documents"]);
  const { apps } = useApps();
  const error = routes.error ?? services.error ?? gateways.error;
  if (!routes.value || !services.value || !gateways.value || !apps) return <Waiting error={error} />;
  const documents = { routes: routes.value.items, services: services.value.items, gateways: gateways.value.items };
  const called = apps.filter((other) => edges?.some((edge) => edge.caller === app.id && edge.app === other.id));
  const [come, go] = [routesIn(documents, app), routesOut(documents, app, called)];
  const near = called.find((other) => other.namespace === app.namespace);
  const cli = <Cli text={`dodai get routes${inNamespace(app.namespace)}`} />;
  return (
    <div className="stack">
      <Panel title={t("Routes in")} actions={cli} flush>
        {come.length === 0 ? (
          <Empty title={t("No route leads here")} command={`dodai call ${quoted(short(app.id))} /`}>
            {t("Apps of the mesh call it by its name. So do you:")}
          </Empty>
        ) : (
          <Rules all={come} documents={documents} app={app} label="Routes in" />
        )}
      </Panel>
      <Panel title={t("Routes out")} actions={cli} flush>
        {go.length === 0 ? (
          <Empty title={t("No route holds for its calls")} command={near ? example(near.name, near.namespace) : `dodai tap ${quoted(short(app.id))}`}>
            {near ? t("They go straight to the apps that they name. To hold them to a time:") : t("It was not seen to call an app. To see what it calls:")}
          </Empty>
        ) : (
          <Rules all={go} documents={documents} app={app} label="Routes out" />
        )}
      </Panel>
      {children}
    </div>
  );
}
