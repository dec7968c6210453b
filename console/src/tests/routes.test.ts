import { describe, expect, it } from "vitest";
import type { Document } from "../api/schema";
import type { App } from "../apps";
import { type Documents, routesIn, routesOut, told } from "../routes";

const app = (name: string, labels: Record<string, string> = {}, namespace = "default") => ({ id: `${namespace}/${name}`, name, namespace, document: { metadata: { name, labels } } }) as unknown as App;
const document = (kind: string, name: string, spec: object, namespace = "default") => ({ kind, metadata: { name, namespace }, spec }) as unknown as Document;
const route = (name: string, spec: object, namespace?: string) => document("Route", name, spec, namespace);
const set = (routes: Document[], services: Document[] = [], gateways: Document[] = []): Documents => ({ routes, services, gateways });
const names = (all: { route: { name: string; note: string } }[]) => all.map((one) => `${one.route.name} ${one.route.note}`.trim());

describe("the routes to an app", () => {
  const front = document("Gateway", "front", { listeners: [{ name: "web", port: 80, protocol: "HTTP", hostname: "shop.example" }, { name: "tls", port: 443, protocol: "HTTPS" }] });
  it("say where calls enter, for which hosts, and how many go there", () => {
    const shop = route("shop", {
      parentRefs: [{ name: "front", sectionName: "web" }],
      rules: [{ name: "split", matches: [{ path: { value: "/api" } }], filters: [{ type: "URLRewrite" }], backendRefs: [{ name: "web", weight: 3 }, { name: "next", revision: "latest" }] }, { backendRefs: [{ name: "next" }] }],
    });
    const [one, ...more] = routesIn(set([shop], [], [front]), app("web"));
    expect(more).toEqual([]);
    expect(one).toEqual({
      route: { kind: "Route", namespace: "default", name: "shop", note: "split" },
      parents: [{ kind: "Gateway", namespace: "default", name: "front", note: "HTTP :80" }],
      hosts: ["shop.example"],
      matches: ["/api, /api/*"],
      filters: ["URLRewrite"],
      ways: [
        { kind: "Service", namespace: "default", name: "web", note: "", share: 0.75, isApp: true },
        { kind: "Service", namespace: "default", name: "next", note: "latest", share: 0.25, isApp: false },
      ],
    });
    expect(routesIn(set([shop], [], [front]), app("next")).length).toBe(2);
  });
  it("know services that select it, and other namespaces", () => {
    const to = (name: string, backend: object, namespace?: string) => route(name, { parentRefs: [{ name: "front" }], rules: [{ backendRefs: [backend] }] }, namespace);
    const services = [document("Service", "site", { selector: { labels: { tier: "front" } } }), document("Service", "web", { selector: { app: "other" } })];
    const routes = [to("selected", { name: "site" }), to("taken", { name: "web" }), to("itself", { kind: "App", name: "web" }), to("far", { kind: "App", name: "web", namespace: "default" }, "edge"), to("else", { kind: "App", name: "web" }, "edge")];
    expect(names(routesIn(set(routes, services), app("web", { tier: "front" })))).toEqual(["selected", "itself", "far"]);
    expect(names(routesIn(set(routes, services), app("web")))).toEqual(["itself", "far"]);
  });
  it("have those that send the calls of its service elsewhere", () => {
    const away = route("away", { parentRefs: [{ kind: "Service", name: "web" }], rules: [{ backendRefs: [{ name: "next" }] }] });
    expect(names(routesIn(set([away]), app("web")))).toEqual(["away"]);
  });
});

describe("the routes that hold for the calls of an app", () => {
  const mesh = (name: string, matches?: object[]) => route(name, { parentRefs: [{ kind: "Service", name: "catalog" }], rules: [{ ...(matches ? { matches } : {}), backendRefs: [{ name: "catalog" }] }] });
  const all = set([
    mesh("every"),
    mesh("own", [{ source: { app: "web" } }]),
    mesh("others", [{ source: { app: "orders" } }]),
    mesh("labelled", [{ source: { labels: { tier: "front" } } }]),
    route("gateway", { parentRefs: [{ name: "front" }], rules: [{ backendRefs: [{ name: "catalog" }] }] }),
  ]);
  it("are those of what it calls, but for other callers", () => {
    expect(names(routesOut(all, app("web"), [app("catalog")]))).toEqual(["every", "own"]);
    expect(names(routesOut(all, app("web", { tier: "front" }), [app("catalog")]))).toEqual(["every", "own", "labelled"]);
  });
  it("are those that name it, whether it was seen to call or not", () => {
    expect(names(routesOut(all, app("web"), []))).toEqual(["own"]);
    expect(names(routesOut(all, app("web", {}, "edge"), []))).toEqual([]);
  });
});

describe("a match", () => {
  it("is told in few words", () => {
    const check = (match: Parameters<typeof told>[0], words: string) => expect(told(match)).toBe(words);
    check({}, "/*");
    check({ path: { type: "Exact", value: "/a" }, method: "GET" }, "GET /a");
    check({ method: "POST" }, "POST");
    check({ path: { type: "RegularExpression", value: "^/a" } }, "~ ^/a");
    check({ grpc: { service: "shop.Catalog" } }, "gRPC shop.Catalog/*");
    check({ path: { value: "/" }, headers: [{ name: "x-lane", value: "blue" }, { type: "Present", name: "x-debug" }], queryParams: [{ type: "RegularExpression", name: "q", value: "a+" }] }, "/* x-lane: blue x-debug ?q ~ a+");
    check({ source: { app: "web", namespace: "edge", labels: { tier: "front" } }, cel: "true" }, "/* from web from edge/* from tier=front true");
  });
});
