// Which rules of routes lead calls to an app, and which hold for the calls that it makes.
import type { Document } from "./api/schema";
import type { App } from "./apps";

interface Reference {
  kind?: string;
  name: string;
  namespace?: string;
  sectionName?: string;
  port?: number;
}

interface Backend extends Reference {
  weight?: number;
  revision?: string;
}

interface ValueMatch {
  type?: string;
  name: string;
  value?: string;
}

interface Match {
  path?: { type?: string; value?: string };
  method?: string;
  headers?: ValueMatch[];
  queryParams?: ValueMatch[];
  cookies?: ValueMatch[];
  grpc?: { service?: string; method?: string };
  source?: { app?: string; namespace?: string; labels?: Record<string, string> };
  cel?: string;
}

interface Rule {
  name?: string;
  matches?: Match[];
  filters?: { type: string }[];
  backendRefs?: Backend[];
}

interface RouteSpec {
  parentRefs?: Reference[];
  hostnames?: string[];
  rules?: Rule[];
}

interface Listener {
  name: string;
  port: number;
  protocol: string;
  hostname?: string;
}

/** A document that is named, with the words for it. */
export interface Named {
  kind: string;
  namespace: string;
  name: string;
  note: string;
}

/** Where calls go by a rule: how much of them, and whether that is the app in question. */
export interface Way extends Named {
  /** Of one. */
  share: number;
  isApp: boolean;
}

/** One rule of a route. */
export interface Leading {
  route: Named;
  /** Where its calls come from: gateways with their listeners, or services that are called in the mesh. */
  parents: Named[];
  hosts: string[];
  /** One of these must hold; none: every call. */
  matches: string[];
  ways: Way[];
  /** What it does beside, or instead: types of filters. */
  filters: string[];
}

const namespaceOf = (document: Document) => String(document.metadata.namespace ?? "default");
const nameOf = (document: Document) => String(document.metadata.name);
const labelsOf = (document: Document) => (document.metadata.labels ?? {}) as Record<string, string>;
const holds = (wanted: Record<string, string>, labels: Record<string, string>) => Object.entries(wanted).every(([key, value]) => labels[key] === value);

/** Whether a service has instances of an app: by its document, or by its name where there is none. */
function serves(reference: Reference, home: string, app: App, services: readonly Document[]): boolean {
  const namespace = reference.namespace ?? home;
  if (namespace !== app.namespace) return false;
  const document = reference.kind === "App" ? undefined : services.find((one) => namespaceOf(one) === namespace && nameOf(one) === reference.name);
  const { selector } = (document?.spec ?? {}) as { selector?: { app?: string; labels?: Record<string, string> } };
  if (!selector) return reference.name === app.name;
  return (selector.app === undefined || selector.app === app.name) && holds(selector.labels ?? {}, labelsOf(app.document));
}

/** A match in few words: `GET /api/*`, `x-lane: blue`, `from web`. */
export function told(match: Match): string {
  const { path, grpc, source } = match;
  const value = path?.value ?? "/";
  const paths: Record<string, string> = { Exact: value, RegularExpression: `~ ${value}`, Template: value };
  const named = (sign: string, all: ValueMatch[] = []) => all.map((one) => `${sign}${one.name}${one.type === "Present" ? "" : one.type === "RegularExpression" ? ` ~ ${one.value}` : `: ${one.value}`}`);
  const whole = value.endsWith("/") ? `${value}*` : `${value}, ${value}/*`;
  const parts = [
    match.method,
    grpc ? `gRPC ${grpc.service ?? "*"}/${grpc.method ?? "*"}` : path || !match.method ? (paths[path?.type ?? ""] ?? whole) : "",
    ...named("", match.headers),
    ...named("?", match.queryParams),
    ...named("cookie ", match.cookies),
    source?.app && `from ${source.app}`,
    source?.namespace && `from ${source.namespace}/*`,
    ...Object.entries(source?.labels ?? {}).map(([key, label]) => `from ${key}=${label}`),
    match.cel,
  ];
  return parts.filter(Boolean).join(" ");
}

/** Whether calls of an app can match, as far as that depends on who calls. */
function canCome({ source }: Match, home: string, app: App): boolean {
  if (!source) return true;
  const caller = source.app === undefined || source.app.includes("/") ? source.app : `${home}/${source.app}`;
  return (caller === undefined || caller === app.id) && (source.namespace === undefined || source.namespace === app.namespace) && holds(source.labels ?? {}, labelsOf(app.document));
}

const namesApp = ({ source }: Match, home: string, app: App) => source?.app !== undefined && canCome({ source }, home, app);

export interface Documents {
  routes: readonly Document[];
  services: readonly Document[];
  gateways: readonly Document[];
}

function* rules({ routes, services, gateways }: Documents, app: App): Generator<[Leading, Rule, RouteSpec, string]> {
  for (const route of routes) {
    const home = namespaceOf(route);
    const spec = (route.spec ?? {}) as RouteSpec;
    const hosts = new Set(spec.hostnames ?? []);
    const parents = (spec.parentRefs ?? []).map((parent): Named => {
      const [kind, namespace] = [parent.kind ?? "Gateway", parent.namespace ?? home];
      const gateway = kind === "Gateway" ? gateways.find((one) => namespaceOf(one) === namespace && nameOf(one) === parent.name) : undefined;
      const all = ((gateway?.spec as { listeners?: Listener[] } | undefined)?.listeners ?? []).filter(
        (one) => (parent.sectionName === undefined || one.name === parent.sectionName) && (parent.port === undefined || one.port === parent.port),
      );
      if (!spec.hostnames?.length) for (const one of all) if (one.hostname) hosts.add(one.hostname);
      const note = gateway ? all.map((one) => `${one.protocol} :${one.port}`).join(", ") : (parent.sectionName ?? (parent.port ? `:${parent.port}` : ""));
      return { kind, namespace, name: parent.name, note };
    });
    for (const rule of spec.rules ?? []) {
      const sum = (rule.backendRefs ?? []).reduce((all, one) => all + (one.weight ?? 1), 0);
      const ways = (rule.backendRefs ?? []).map(
        (one): Way => ({
          kind: one.kind ?? "Service",
          namespace: one.namespace ?? home,
          name: one.name,
          note: one.revision ?? "",
          share: sum ? (one.weight ?? 1) / sum : 0,
          isApp: serves(one, home, app, services),
        }),
      );
      const filters = (rule.filters ?? []).map((one) => one.type);
      const leading = { route: { kind: "Route", namespace: home, name: nameOf(route), note: rule.name ?? "" }, parents, hosts: [...hosts], matches: (rule.matches ?? []).map(told), ways, filters };
      yield [leading, rule, spec, home];
    }
  }
}

/** Rules by which calls come to an app, and those of its own service that send them elsewhere. */
export function routesIn(documents: Documents, app: App): Leading[] {
  const all: Leading[] = [];
  for (const [leading, , spec, home] of rules(documents, app)) {
    const isParent = (spec.parentRefs ?? []).some((one) => one.kind === "Service" && serves(one, home, app, documents.services));
    if (isParent || leading.ways.some((way) => way.isApp)) all.push(leading);
  }
  return all;
}

/** Rules of services that hold for the calls that an app makes: to what it was seen to call, or because they name it. */
export function routesOut(documents: Documents, app: App, called: readonly App[]): Leading[] {
  const all: Leading[] = [];
  for (const [leading, rule, spec, home] of rules(documents, app)) {
    const services = (spec.parentRefs ?? []).filter((one) => one.kind === "Service");
    if (services.length === 0) continue;
    const matches = rule.matches ?? [];
    const isNamed = matches.some((one) => namesApp(one, home, app));
    const isCalled = services.some((one) => called.some((other) => serves(one, home, other, documents.services)));
    const mayHold = matches.length === 0 || matches.some((one) => canCome(one, home, app));
    if (isNamed || (isCalled && mayHold)) all.push(leading);
  }
  return all;
}
