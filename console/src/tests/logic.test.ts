/// <reference types="vite/client" />
import { describe, expect, it, vi } from "vitest";
import type { App } from "../apps";
import type { Base, Beat, Call, Component, Document, Instance, Point, Traffic } from "../api/schema";

/** Where the server refuses. */
const sources = import.meta.glob<string>(["../../../crates/dodai-admin/src/**/*.rs", "../../../crates/dodai/src/**/*.rs"], { query: "?raw", import: "default", eager: true });

/** Where problems of documents have their codes, and conditions their reasons. */
const documents = import.meta.glob<string>("../../../crates/dodai-api/src/read/problem.rs", { query: "?raw", import: "default", eager: true });
const statuses = import.meta.glob<string>("../../../crates/dodai-control/src/{status.rs,status/*.rs}", { query: "?raw", import: "default", eager: true });
/** Types of conditions that are not reasons too. */
const CONDITIONS = ["Serving"];

// What the browser gives to modules as they are loaded.
vi.stubGlobal("localStorage", { getItem: () => null, setItem: () => undefined, removeItem: () => undefined });
vi.stubGlobal("matchMedia", () => ({ matches: false, addEventListener: () => undefined }));
vi.stubGlobal("navigator", { language: "en", platform: "" });
vi.stubGlobal("addEventListener", () => undefined);
vi.stubGlobal("location", { pathname: "/", search: "", hash: "" });

vi.stubGlobal("document", { hidden: false, addEventListener: () => undefined, removeEventListener: () => undefined });

const { follow, parse } = await import("../api/stream");
const { address } = await import("../api/client");
const { append, regularly } = await import("../api/live");
const { columns } = await import("../parts/chart");
const { steps, ordered } = await import("../parts/stations");
const { fit } = await import("../parts/palette");
const { judge, perSecond, sums } = await import("../apps");
const { diffLines, folded } = await import("../diff");
const { layOut, ranks } = await import("../graph");
const { checkText } = await import("../schema");
const { tokens } = await import("../parts/editor");
const format = await import("../format");
const { toYaml } = await import("../yaml");
const { callKey, isOfEdge, readTold, SilentBases } = await import("../calls");
const { asked, command } = await import("../pages/calls");
const { choicesOf, isFromFile, isMoving, saysSame, sharesOf, withShares } = await import("../shares");
const { saidProblems, saidReasons } = await import("../text/problems");
const { saidCodes } = await import("../text/refusals");
const { byBase, ordered: orderedBases } = await import("../pages/bases");
const { byApp, byBase: topologyByBase, byRevision } = await import("../topology");
const { pathOf, troublesOf } = await import("../pages/home");
const { deadLetters } = await import("../pages/inside");
const { rowsOf } = await import("../pages/capabilities");

describe("home", () => {
  it("leads to where an event happened", () => {
    for (const [object, path] of [
      ["default/shop", "/apps/default/shop"],
      ["App/default/shop", "/apps/default/shop"],
      ["Component/default/db", "/components/default/db"],
      ["Revision/default/shop-1", "/documents/Revision/default/shop-1"],
      ["base-1", "/bases"],
    ] as const) {
      expect(pathOf(object)).toBe(path);
    }
  });
  it("tells of components that do not serve, and of changes that were not made", () => {
    const troubles = troublesOf({
      "default/well": { ready: true, reason: "" },
      "default/kept": { ready: true, reason: "a change was refused" },
      "one: default/down": { ready: false, reason: "no such folder" },
    });
    expect(troubles.map((one) => [one.tone, one.what, one.to])).toEqual([
      ["warn", "kept", "/components/default/kept"],
      ["bad", "one: default/down", "/components/default/down"],
    ]);
  });
});

describe("capabilities", () => {
  it("are told by type, with the components of it, and once for versions that do the same", () => {
    const state = { etag: true, first_write: true, transaction: true, ttl: true, list: true, content_type: false, durable: true };
    const types = [
      { type: "lock.redis", version: "v1", blocks: { lock: { list: false } } },
      { type: "state.pg", version: "v1", blocks: { state } },
      { type: "state.pg", version: "v2", blocks: { state: { ...state } } },
      { type: "state.pg", version: "v3", blocks: { state: { ...state, ttl: false } } },
    ];
    const one = (name: string, version: string) => ({ name, type: "state.pg", version }) as Component;
    const rows = rowsOf("state", types, [one("old", ""), one("new", "v2"), one("third", "v3"), { ...one("not", "v1"), type: "state.odd" }]);
    expect(rows.map((row) => [row.type, row.versions, row.components.map((component) => component.name)])).toEqual([
      ["state.pg", ["v1", "v2"], ["old", "new"]],
      ["state.pg", ["v3"], ["third"]],
    ]);
  });
});

describe("topics", () => {
  it("that take dead letters say whose, whichever base knows it", () => {
    const told = deadLetters([
      { topic: "orders", dead_letters_of: [] },
      { topic: "dead", dead_letters_of: ["orders"] },
      { topic: "dead", dead_letters_of: ["bills", "orders"] },
    ]);
    expect([...told]).toEqual([["dead", ["bills", "orders"]]]);
  });
});

describe("commands for state", () => {
  it("list keys, print one, and write one as an app does", () => {
    expect(format.shelved("db", "shop", "", "")).toBe("dodai state list --app=shop db");
    expect(format.shelved("db", "other/shop", "a b", "")).toBe("dodai state list --app=other/shop --prefix='a b' db");
    expect(format.shelved("db", "shop", "", "-k")).toBe("dodai state get --app=shop -- db -k");
    expect(format.posted("v1.0/state/db", [{ key: "it's" }])).toBe(
      `curl -H "dapr-api-token: $DAPR_API_TOKEN" -H "content-type: application/json" -d '[{"key":"it'\\''s"}]' "$DAPR_HTTP_ENDPOINT/v1.0/state/db"`,
    );
  });
});

describe("server-sent events", () => {
  it("are read whole, and what is not whole waits", () => {
    const { messages, rest } = parse(': hello\n\nid: 7\nevent: beat\ndata: {"a":1}\n\ndata: x');
    expect(messages).toEqual([{ id: "7", event: "beat", data: '{"a":1}' }]);
    expect(rest).toBe("data: x");
  });
});

describe("a stream", () => {
  it("that is refused is not asked for again", async () => {
    const fetch = vi.fn(async () => new Response(JSON.stringify({ code: "not_found", message: "it is gone" }), { status: 404 }));
    vi.stubGlobal("fetch", fetch);
    const error = await new Promise<Error>((done) => follow({ url: "/v1/calls", onMessage: () => undefined, onRefused: done }));
    expect([error.message, fetch.mock.calls.length]).toEqual(["it is gone", 1]);
  });
  it("that falls silent is opened anew, and is away until then", async () => {
    vi.useFakeTimers();
    const open = (signal: AbortSignal) => new ReadableStream({ start: (stream) => signal.addEventListener("abort", () => stream.error(new Error("aborted"))) });
    vi.stubGlobal("fetch", async (_: string, init: RequestInit) => new Response(open(init.signal as AbortSignal)));
    const states: string[] = [];
    const stop = follow({ url: "/v1/live", silentMs: 5000, onMessage: () => undefined, onState: (state) => states.push(state) });
    await vi.advanceTimersByTimeAsync(4900);
    expect(states).toEqual(["connecting", "open"]);
    await vi.advanceTimersByTimeAsync(200);
    expect(states).toEqual(["connecting", "open", "away"]);
    await vi.advanceTimersByTimeAsync(1000);
    expect(states.slice(3)).toEqual(["connecting", "open"]);
    stop();
    vi.useRealTimers();
  });
});

describe("addresses", () => {
  it("have parts and query escaped", () => {
    expect(address("kept", { namespace: "default", name: "a b", store: "s", key: "cart/1?" })).toBe("/v1/apps/default/a%20b/state/s/cart%2F1%3F");
    expect(address("calls", { app: "default/web", errors: false })).toBe("/v1/calls?app=default%2Fweb");
  });
});

describe("what is asked for regularly", () => {
  it("waits for its answer, and for somebody to see the page", () => {
    vi.useFakeTimers();
    const page = { hidden: false, seen: () => undefined as void, addEventListener: (_: string, seen: () => void) => (page.seen = seen), removeEventListener: () => (page.seen = () => undefined) };
    const before = globalThis.document;
    vi.stubGlobal("document", page);
    let [asked, busy] = [0, false];
    const stop = regularly(3000, () => (asked += 1), () => busy);
    const after = (ms: number) => (vi.advanceTimersByTime(ms), asked);
    expect(after(6000)).toBe(2);
    busy = true;
    expect(after(6000)).toBe(2);
    [busy, page.hidden] = [false, true];
    expect(after(60_000)).toBe(2);
    page.hidden = false;
    page.seen();
    expect(asked).toBe(3);
    stop();
    page.seen();
    expect(after(60_000)).toBe(3);
    vi.stubGlobal("document", before);
    vi.useRealTimers();
  });
});

const point = (second: number, calls: number, errors = 0, p50 = 0, p99 = 0): Point => [second, calls, errors, p50, p99, 0, 0, 1000];

describe("traffic", () => {
  const traffic: Traffic = { known: true, silent: [], sums: {}, range: { step: 1, from: 100, to: 110, since: 0 }, apps: { "default/web": [point(100, 1), point(105, 2)] }, edges: [], revisions: [], bases: [] };
  it("moves on with each beat, once", () => {
    const beat = { second: 111, apps: { "default/web": point(111, 3), "default/new": point(111, 1) } } as unknown as Beat;
    const next = append(traffic, beat, 10);
    expect(next.apps).toEqual({ "default/web": [point(105, 2), point(111, 3)], "default/new": [point(111, 1)] });
    expect(append(next, beat, 10)).toBe(next);
  });
  it("has a column for every step, silent ones too", () => {
    const [times, values] = columns([point(101, 4)], { step: 1, from: 100, to: 103, since: 0 }, [{ label: "", colour: "--dim", value: (one) => one[1] }]);
    expect(times).toEqual([100, 101, 102, 103]);
    expect(values).toEqual([0, 4, 0, 0]);
  });
  it("comes to sums", () => {
    const told: Traffic = { ...traffic, range: { step: 1, from: 0, to: 30, since: 10 }, sums: { "default/web": { calls: 40, errors: 1, p50_us: 175, p99_us: 350 } } };
    expect(sums(told, "default/web")).toEqual({ rate: 2, errors: 1 / 40, p50: 175, p99: 350 });
    expect(sums(told, "default/none")?.rate).toBe(0);
    expect(sums({ ...told, known: false }, "default/web")).toBeNull();
    expect(sums(undefined, "default/web")).toBeNull();
  });
  it("that was read late is spread over the time it covers", () => {
    const late: Point = [103, 30, 0, 0, 0, 0, 0, 3000];
    const [, values] = columns([late], { step: 1, from: 100, to: 104, since: 0 }, [{ label: "", colour: "--dim", value: (one, step) => perSecond(one[1], one, step) }]);
    expect(values).toEqual([0, 10, 10, 10, 0]);
  });
});

describe("apps", () => {
  const instance = (phase: Instance["phase"], reason = "") => ({ phase, reason }) as Instance;
  it("are judged by their conditions and instances", () => {
    expect(judge({ conditions: [{ type: "Ready", status: "True" }] }, [instance("ready")])).toEqual({ tone: "good", reason: "" });
    expect(judge({ conditions: [{ type: "Ready", status: "False", message: "no" }] }, [])).toEqual({ tone: "bad", reason: "no" });
    expect(judge({ conditions: [{ type: "Ready", status: "True" }] }, [instance("backing_off", "it exits")])).toEqual({ tone: "warn", reason: "it exits" });
    expect(judge({}, []).tone).toBe("plain");
  });
});

describe("differences", () => {
  it("are the fewest lines", () => {
    const lines = diffLines("a\nb\nc\nd", "a\nx\nc\nd\ne");
    expect(lines.map((line) => line.kind[0] + line.text)).toEqual(["sa", "db", "ax", "sc", "sd", "ae"]);
  });
  it("leave out what is equal for long", () => {
    const long = Array.from({ length: 30 }, (_, at) => `${at}`).join("\n");
    const shown = folded(diffLines(long, long.replace("15", "x")));
    expect(shown[0]).toEqual({ kind: "gap", text: "⋯ 12" });
    expect(shown.filter((line) => line.kind === "same")).toHaveLength(6);
    expect(folded(diffLines(long, long))).toEqual([]);
  });
});

describe("the graph", () => {
  it("has callers to the left, and bears circles", () => {
    const found = ranks(["a", "b", "c"], [
      { from: "a", to: "b" },
      { from: "b", to: "c" },
      { from: "c", to: "b" },
    ]);
    expect([found.get("a"), found.get("b")]).toEqual([0, 1]);
  });
  it("is laid out alike each time, and no two nodes lie on each other", () => {
    const ids = Array.from({ length: 300 }, (_, at) => `n${at}`);
    const links = ids.slice(1).map((to, at) => ({ from: ids[Math.floor(at / 3)] ?? "", to }));
    const [one, two] = [layOut(ids, links), layOut([...ids].reverse(), links)];
    expect([...one.entries()].sort()).toEqual([...two.entries()].sort());
    expect(new Set([...one.values()].map((node) => `${node.x} ${node.y}`)).size).toBe(ids.length);
  });
  it("is made from what was measured", () => {
    const edge = { caller: "outside", app: "default/web", calls: 600, errors: 6, p50_us: 1, p99_us: 2 };
    const { nodes, edges } = byApp([], [edge], 300);
    expect(nodes.map((node) => node.id).sort()).toEqual(["default/web", "outside"]);
    expect(edges).toEqual([{ from: "outside", to: "default/web", rate: 2, errors: 0.01 }]);
  });
});

describe("the graph by revision", () => {
  it("leads from callers to apps, and from apps to revisions with what each answered", () => {
    const web = { id: "default/web", tone: "good", shape: "module", status: { revisions: [{ id: "new", weight: 1 }] }, instances: [{ revision: "old", phase: "ready" }] } as unknown as App;
    const edge = { caller: "outside", app: "default/web", calls: 600, errors: 0, p50_us: 1, p99_us: 2 };
    const old = { app: "default/web", revision: "old", calls: 60, errors: 6, p50_us: 3, p99_us: 4 };
    const { nodes, edges, rows } = byRevision([web], [edge], [old, { ...old, app: "default/other" }], 60);
    expect(edges.map((one) => `${one.from}>${one.to} ${one.rate} ${one.errors}`)).toEqual([
      "outside>default/web 10 0",
      "default/web>revision default/web new 0 0",
      "default/web>revision default/web old 1 0.1",
    ]);
    expect(nodes.map((node) => node.label)).toEqual(["web", "outside", "new", "old"].map((name) => (name === "outside" ? "Outside" : name)));
    expect(rows.map((row) => `${row.to} ${row.p50_us}`)).toEqual(["default/web 1", "revision default/web old 3"]);
    const of = (call: Partial<Call>) => rows[1]?.isOf({ direction: "outbound", service: "default/web/http", revision: "old", ...call } as Call);
    expect([of({}), of({ revision: "new" }), of({ direction: "inbound" }), of({ service: "default/webs/http" })]).toEqual([true, false, false, false]);
  });
});

describe("the graph by base", () => {
  const app = (id: string, bases: string[], shape = "module") => ({ id, shape, tone: "good", instances: bases.map((base, at) => ({ id: `${id}-${at}`, base })) }) as unknown as App;
  it("has the calls between bases, and which apps run where", () => {
    const apps = [app("default/web", ["one two", "three", "three"]), app("default/db", []), app("default/far", [], "external")];
    const sum = { calls: 60, errors: 0, p50_us: 1, p99_us: 2 };
    const { nodes, edges, rows } = topologyByBase(apps, [{ from: "three", to: "one two", ...sum }, { from: "three", to: "", ...sum }], 60);
    expect(nodes.map((node) => node.id)).toEqual(["base one two", "base three", "outside", "default/web", "default/db", "default/far"]);
    expect(edges.map((edge) => `${edge.from}>${edge.to}${edge.dashed ? "" : ` ${edge.rate}`}`)).toEqual([
      "base three>base one two 1",
      "base three>outside 1",
      "base one two>default/web",
      "base three>default/web",
      "outside>default/far",
    ]);
    const of = (call: Partial<Call>) => rows.map((row) => row.isOf({ direction: "outbound", base: "three", ...call } as Call));
    expect(of({ endpoint: "default/web-0" })).toEqual([true, false]);
    expect(of({ endpoint: "10.0.0.1:80" })).toEqual([false, true]);
    expect([of({ endpoint: "default/web-0", base: "one two" }), of({ endpoint: "" }), of({ endpoint: "default/web-0", direction: "inbound" })]).toEqual(Array(3).fill([false, false]));
  });
  it("knows the base of calls where there is one", () => {
    const sum = { calls: 1, errors: 0, p50_us: 1, p99_us: 2 };
    const { rows } = topologyByBase([app("default/web", ["local"])], [{ from: "local", to: "local", ...sum }], 60);
    expect(rows[0]?.isOf({ direction: "gateway", endpoint: "default/web-0" } as Call)).toBe(true);
  });
});

describe("the stream of calls", () => {
  const read = (...told: unknown[]) => {
    const seen: string[] = [];
    const reader = { call: (call: Call) => seen.push(callKey(call)), missed: (count: number) => seen.push(`missed ${count}`), silent: (base: string, why: string) => seen.push(`${base}: ${why}`) };
    for (const one of told) readTold(JSON.stringify(one), reader);
    return seen;
  };
  it("has calls, and says what is missing", () => {
    const call = { sequence: 1, span_id: "a", time: "2026-01-01T00:00:00Z", service: "" };
    expect(read(call, { missed: 3 }, { base: "one", missed: 2 }, { base: "two", ended: "it left" }, { odd: true })).toEqual([" 1 a ", "missed 3", "missed 2", "two: it left"]);
  });
  it("takes a base for silent until it is heard again", () => {
    const bases = new SilentBases();
    const call = (base?: string) => ({ base }) as Call;
    bases.ended("one", "it left");
    bases.ended("two", "it is slow");
    expect([bases.heard(call("three")), bases.heard(call()), bases.heard(call("one")), bases.heard(call("one"))]).toEqual([false, false, true, false]);
    expect(bases.all()).toEqual([["two", "it is slow"]]);
  });
  it("has each call of an edge once", () => {
    const of = (direction: string, service: string) => isOfEdge({ caller: "default/web", direction, service } as Call, "default/web", "default/db");
    expect(of("outbound", "default/db/http")).toBe(true);
    expect(of("inbound", "default/db/http")).toBe(false);
    expect(of("outbound", "default/dbs/http")).toBe(false);
    const lost = { caller: "outside", direction: "gateway", service: "" } as Call;
    expect([isOfEdge(lost, "outside", ""), isOfEdge(lost, "default/web", ""), isOfEdge(lost, "outside", "default/db")]).toEqual([true, false, false]);
  });
  it("tells calls of several bases apart", () => {
    const [one, two] = ["one", "two"].map((base) => ({ base, sequence: 1, span_id: "a", time: "2026-01-01T00:00:00Z", service: "" }));
    expect(new Set(read(one, two)).size).toBe(2);
  });
});

describe("addresses that are not well written", () => {
  it("stay as they are", () => {
    expect(format.decoded("100%")).toBe("100%");
    expect(format.decoded("a%20b")).toBe("a b");
  });
});

describe("a call", () => {
  const call = (span: string, parent?: string, time = "2026-01-01T00:00:00.000001Z") =>
    ({ span_id: span, parent_id: parent, time, took_us: 100, stations: { route_us: 1, filter_us: 2, attempt_us: 3, endpoint_us: 10, response_us: 90 } }) as Call;
  it("is its stations, one after the other", () => {
    expect(steps(call("a")).map((step) => [step.name, step.from, step.to])).toEqual([
      ["listen", 0, 0],
      ["codec", 0, 0],
      ["route", 0, 1],
      ["filter", 1, 2],
      ["attempt", 2, 3],
      ["endpoint", 3, 90],
      ["body", 90, 100],
    ]);
  });
  it("stands under the one that made it", () => {
    expect(ordered([call("b", "a", "2026-01-01T00:00:00.000002Z"), call("a"), call("c", "b", "2026-01-01T00:00:00.000003Z")]).map((row) => [row.call.span_id, row.depth])).toEqual([
      ["a", 0],
      ["b", 1],
      ["c", 2],
    ]);
  });
  it("is asked for as the command line does", () => {
    const filters = { app: "web", caller: "", route: "", status: "5xx", path: "/a b", slower: "20", header: "", errors: true };
    expect(asked(filters)).toEqual({ app: "default/web", status: "5xx", path: "/a b", slower_than_us: 20_000, errors: true });
    expect(command(filters)).toBe("dodai tap web --status 5xx --path '/a b' --slower-than 20ms --errors");
    // Rules are told by their namespace, which `default` needs not be given.
    const of = (route: string) => asked({ ...filters, route }).route;
    expect([of("shop/all"), of("default/shop/all"), of("edge/shop/all")]).toEqual(["default/shop/all", "default/shop/all", "edge/shop/all"]);
  });
});

describe("documents", () => {
  const schema = {
    type: "object",
    required: ["kind", "spec"],
    additionalProperties: false,
    properties: {
      kind: { const: "App", description: "The kind." },
      spec: { $ref: "#/$defs/Spec" },
    },
    $defs: {
      Spec: {
        type: "object",
        additionalProperties: false,
        description: "What is wanted.",
        properties: { replicas: { type: "integer", minimum: 0 }, run: { anyOf: [{ enum: ["once", "service"] }, { type: "null" }] } },
      },
    },
  };
  const check = (text: string) => checkText(text, new Map([["App", schema]]));
  it("are checked with lines and the name that was meant", () => {
    expect(check("kind: App\nspec:\n  replica: 1\n  run: onse\n").findings).toEqual([
      { line: 3, severity: "error", message: "`replica` is not known in `spec`; did you mean `replicas`?" },
      { line: 4, severity: "error", message: "`spec.run` is `onse`; it can be once, service; did you mean `once`?" },
    ]);
    expect(check("kind: App\n").findings[0]?.message).toBe("`spec` is missing");
    expect(check("kind: App\nspec: {replicas: -1}\n").findings[0]?.message).toContain("must be from 0");
    expect(check("kind: App\nspec: [\n").findings.length).toBeGreaterThan(0);
    expect(check("kind: App\nspec:\n  replicas: 2\n").findings).toEqual([]);
  });
  it("say what a place is about", () => {
    expect(check("kind: App\nspec:\n  replicas: 2\n").places.get(2)?.description).toBe("What is wanted.");
    expect(check("kind: App\nspec:\n  replicas: 2\n").places.get(3)?.names).toEqual(["run"]);
  });
  it("are shown without what the server keeps", () => {
    const document = { spec: { a: 1 }, kind: "App", apiVersion: "v1", metadata: { name: "x", namespace: "default", uid: "1", annotations: { "dodai.dev/scope": "y" } }, status: {} };
    expect(toYaml(document as unknown as Document)).toBe("apiVersion: v1\nkind: App\nmetadata:\n  name: x\nspec:\n  a: 1\n");
  });
  it("are coloured without losing a letter", () => {
    for (const line of ["  - name: web # note", "a: 'b: c'", "- 12", "", "  key:", "# only", "x: true"]) {
      expect(
        tokens(line)
          .map((token) => token.text)
          .join(""),
      ).toBe(line);
    }
  });
});

describe("words and numbers", () => {
  it("are short", () => {
    expect([format.rate(0.25), format.rate(1234), format.rate(12_345)]).toEqual(["0.25", "1234", "12.3k"]);
    expect([format.duration(90), format.duration(1500), format.duration(2_500_000)]).toEqual(["90 µs", "1.50 ms", "2.50 s"]);
    expect([format.bytes(10), format.bytes(5 << 20), format.bytes(null)]).toEqual(["10 B", "5.0 MiB", "–"]);
    expect([format.percent(0), format.percent(0.005), format.percent(0.5)]).toEqual(["0%", "0.50%", "50.0%"]);
    expect([format.quoted("a b"), format.quoted("it's"), format.quoted("a-b")]).toEqual(["'a b'", "'it'\\''s'", "a-b"]);
  });
  it("are found by what is typed", () => {
    expect(fit("orders App", "ord")).toBe(0);
    expect(fit("orders App", "xyz")).toBeNull();
    expect(fit("orders App", "odr")).not.toBeNull();
  });
});

describe("shares", () => {
  const app = (traffic: unknown, revisions: unknown[] = []): App =>
    ({ document: { apiVersion: "dodai.dev/v1", kind: "App", metadata: { name: "web" }, spec: { module: {}, ...(traffic ? { traffic } : {}) } }, status: { latestRevision: "b", revisions } }) as unknown as App;
  it("are all to the latest where nothing is said", () => {
    expect(sharesOf(app(undefined))).toEqual([{ revision: "latest", weight: 1 }]);
    expect(sharesOf(app([{ revision: "a" }, { revision: "latest", weight: 9 }]))).toEqual([{ revision: "a", weight: 1 }, { revision: "latest", weight: 9 }]);
  });
  it("change nothing else in the document, and say no more than is needed", () => {
    const split = withShares(app(undefined), [{ revision: "latest", weight: 90 }, { revision: "a", weight: 10 }, { revision: "c", weight: 0 }]);
    expect(split.spec).toEqual({ module: {}, traffic: [{ revision: "latest", weight: 90 }, { revision: "a", weight: 10 }] });
    expect(withShares(app([{ revision: "a" }]), [{ revision: "latest", weight: 100 }]).spec).toEqual({ module: {} });
  });
  it("move until each revision that is named takes its own", () => {
    const traffic = [{ revision: "latest", weight: 2 }, { revision: "a", weight: 2 }];
    const b = { id: "b", weight: 1, ready: 1, wanted: 1 };
    expect(isMoving(app(traffic))).toBe(true);
    expect(isMoving(app(traffic, [b]))).toBe(true);
    expect(isMoving(app(traffic, [b, { id: "a", weight: 0, ready: 0, wanted: 1 }]))).toBe(true);
    expect(isMoving(app(traffic, [b, { id: "a", weight: 1, ready: 1, wanted: 1 }]))).toBe(false);
  });
  it("do not move where the document names no revision", () => {
    const ran = { id: "b", weight: 0, ready: 0, wanted: 1 };
    expect(isMoving(app(undefined, [ran]))).toBe(false);
    expect(isMoving(app([{ revision: "latest" }], [ran]))).toBe(false);
  });
  const kept = (id: string, template: unknown = { module: {} }) => ({ metadata: {}, spec: { id, template } }) as unknown as Document;
  it("begin as the document has them, however small or old", () => {
    const traffic = [{ revision: "old", weight: 1 }, { revision: "latest", weight: 999 }];
    const split = app(traffic);
    const choices = choicesOf(split, [kept("b"), kept("a")]);
    expect(choices).toEqual([
      { revision: "latest", weight: 999 },
      { revision: "b", weight: 0 },
      { revision: "a", weight: 0 },
      { revision: "old", weight: 1, hindrance: "gone" },
    ]);
    expect(saysSame(split, choices)).toBe(true);
    const more = choices.map((one) => (one.revision === "a" ? { revision: "a", weight: 7 } : { revision: one.revision, weight: one.weight }));
    expect(saysSame(split, more)).toBe(false);
    expect(withShares(split, more).spec).toEqual({ module: {}, traffic: [...traffic, { revision: "a", weight: 7 }] });
  });
  it("cannot be given to what would not run beside the newest", () => {
    const fixed = { process: {}, services: [{ name: "http", port: 80 }] };
    const choices = choicesOf(app(undefined), [kept("b", fixed), kept("a", fixed), kept("c", { process: {}, run: "once" }), kept("d", { process: {}, services: [{ name: "http" }] }), kept("e", { module: {}, services: [{ port: 80 }] })]);
    expect(choices.map((one) => one.hindrance)).toEqual([undefined, undefined, "ports", "once", undefined, undefined]);
  });
  it("are taken away by the file that the app came from", () => {
    const from = (metadata: unknown) => isFromFile({ document: { metadata } } as unknown as App);
    expect([from({ fieldOwners: { "": "file" } }), from({ fieldOwners: { "": "console" } }), from({}), from({ fieldOwners: { "": "console" }, annotations: { "dodai.dev/file-revision": "a" } })]).toEqual([true, false, false, true]);
  });
});

describe("a document as a command", () => {
  it("ends where no line of it does", () => {
    expect(format.applied("a: 1")).toBe("dodai apply --owner cli -f - <<'EOF'\na: 1\nEOF");
    expect(format.applied("a: |\nEOF\nEOF_\n")).toBe("dodai apply --owner cli -f - <<'EOF__'\na: |\nEOF\nEOF_\nEOF__");
  });
});

describe("data as a command", () => {
  it("is what the button sends", () => {
    expect(format.publishing("bus", "default", "orders", '{"id": 1}')).toBe(`dodai publish --content-type application/json bus orders '{"id": 1}'`);
    expect(format.publishing("bus", "team a", "orders", "{no json")).toBe("dodai publish --content-type text/plain -n 'team a' bus orders '{no json'");
    expect(format.publishing("bus", "default", "orders", "[1]")).toBe("dodai publish --content-type application/json bus orders '[1]'");
    expect(format.publishing("bus", "default", "-t", "-5")).toBe("dodai publish --content-type application/json -- bus -t -5");
    expect(format.publishing("bus", "default", "orders", "@home")).toBe("dodai publish --content-type text/plain bus orders @@home");
    expect(format.configuring("settings", "default", "key", null)).toBe("dodai config get settings key");
    expect(format.configuring("settings", "shop", "key", "")).toBe("dodai config set -n shop settings key ''");
    expect(format.configuring("settings", "default", "key", "@@")).toBe("dodai config set settings key @@@");
    expect(format.configuring("settings", "shop", "key", "--off")).toBe("dodai config set -n shop -- settings key --off");
  });
  it("names base, group and owner where they are needed", () => {
    const bus = { name: "bus", namespace: "default" };
    expect(format.listing("topic", bus)).toBe("dodai topic list bus");
    expect(format.peeking(bus, { topic: "dead", group: "" })).toBe("dodai topic peek bus dead");
    expect(format.replaying({ ...bus, namespace: "shop" }, { topic: "dead", group: "web", base: "one" }, "7", "orders")).toBe("dodai topic replay -n shop --group=web --base=one --to=orders bus dead 7");
    expect(format.releasing({ name: "doors", namespace: "default" }, { resource: "lock||web||door", owner: "-me" })).toBe("dodai lock release --owner=-me doors 'lock||web||door'");
    expect(format.forgetting("default/web", "-x", "two")).toBe("dodai job delete --base=two -- web -x");
  });
});

describe("bases", () => {
  const base = (name: string, more: object = {}) => ({ name, connected: true, not_open: {}, components: {}, ...more }) as Base;
  it("come with those in trouble first, and are found by what they run", () => {
    const all = [base("b10"), base("b9"), base("c", { refused: "no" }), base("d", { connected: false }), base("e", { components: { "default/store": false } })];
    const own = byBase([{ id: "web-1", base: "b9" }, { id: "web-2", base: "b10" }, { id: "api-1", base: "b9" }] as Instance[]);
    const names = (word: string) => orderedBases(all, word, own).map((one) => one.name).join(" ");
    expect(names("")).toBe("d c e b9 b10");
    expect(names(" API ")).toBe("b9");
    expect([names("web"), names("store"), names("none")]).toEqual(["b9 b10", "e", ""]);
  });
});

describe("refusals", () => {
  it("are said in Chinese by every code that the server has", () => {
    const codes = new Set<string>();
    for (const [file, text] of Object.entries(sources)) {
      for (const [, code] of text.matchAll(/Refusal::new\([^"()]*(?:\([^()]*\)[^"()]*)*"([a-z_]+)"/g)) codes.add(code ?? "");
      if (file.endsWith("/refusal.rs")) for (const [, code] of text.matchAll(/of\(StatusCode::\w+, "([a-z_]+)"/g)) codes.add(code ?? "");
    }
    expect(codes.size).toBeGreaterThan(15);
    expect([...codes].filter((code) => !saidCodes.includes(code))).toEqual([]);
  });
  it("are joined by problems of documents and reasons of conditions", () => {
    const [problems = ""] = Object.values(documents);
    const codes = [...problems.matchAll(/^ +\w+ = "([a-z_]+)",$/gm)].map(([, code]) => code ?? "");
    expect(codes.length).toBeGreaterThan(10);
    expect(saidProblems.toSorted()).toEqual(codes.toSorted());
    const texts = Object.values(statuses).join("\n");
    const reasons = [...texts.matchAll(/"([A-Z][A-Za-z]+)"/g)].map(([, reason]) => reason ?? "");
    expect(reasons.length).toBeGreaterThan(20);
    expect([...new Set(reasons)].filter((reason) => !saidReasons.includes(reason) && !CONDITIONS.includes(reason))).toEqual([]);
  });
});
