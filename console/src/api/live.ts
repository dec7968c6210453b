// The one live stream of this page: what is new each second, and which parts of the API have changed since.
import { useEffect, useState, useSyncExternalStore } from "react";
import { type Answer, type Asked, ask, address, type Name, Refused } from "./client";
import type { Beat, Event, Point, Traffic } from "./schema";
import { type Connection, follow } from "./stream";

/** What an answer depends on; it is asked for again when that changes. */
export type Topic = "documents" | "instances" | "node" | "none";

const MAX_EVENTS = 200;
/** The server says something each second: one that does not for so long is gone, whatever the connection says. */
const SILENT_MS = 5000;
/** How long an answer stays that no page shows; the next page may want it. */
const LINGER_MS = 1000;

let connection: Connection = "connecting";
let beat: Beat | null = null;
let events: Event[] = [];
let stop: (() => void) | null = null;
const listeners = new Set<() => void>();
const beatListeners = new Set<(beat: Beat | null) => void>();

function tell() {
  for (const listener of listeners) listener();
}

function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** Begins to listen, once per page. */
export function listen() {
  stop ??= follow({
    url: "/v1/live",
    silentMs: SILENT_MS,
    onState: (state) => {
      // One more try is not yet an answer.
      if (state === "connecting" && connection !== "open") return;
      connection = state === "refused" ? "away" : state;
      tell();
    },
    onMessage: (message) => {
      if (message.event === "anew") {
        // A server that knows how things stand says so: what is asked for now is as of then.
        beat = null;
        const marks = JSON.parse(message.data) as Partial<Beat>;
        if (typeof marks.documents === "number") beat = { ...EMPTY, ...marks };
        changed(["documents", "instances", "node"]);
        for (const listener of beatListeners) listener(null);
        return;
      }
      const next = JSON.parse(message.data) as Beat;
      const topics: Topic[] = [];
      if (beat && beat.documents !== next.documents) topics.push("documents");
      if (beat && beat.instances !== next.instances) topics.push("instances");
      if (beat && beat.node !== next.node) topics.push("node");
      beat = next;
      if (next.events.length) events = [...events, ...next.events].slice(-MAX_EVENTS);
      if (topics.length) changed(topics);
      for (const listener of beatListeners) listener(next);
      tell();
    },
  });
}

const EMPTY: Beat = { second: 0, documents: 0, instances: 0, node: 0, apps: {}, edges: [], events: [] };

/** Stops listening and forgets what was heard. */
export function silence() {
  stop?.();
  stop = null;
  beat = null;
  events = [];
  cache.clear();
  failures.clear();
  connection = "connecting";
}

/** Answers that could not be renewed: what is shown of them is from before. */
const failures = new Map<string, Refused>();
let failure: Refused | null = null;

function failed(url: string, error: Refused | null) {
  if (error) failures.set(url, error);
  else if (!failures.delete(url)) return;
  failure = failures.values().next().value ?? null;
  tell();
}

/** Why something that is shown is from before; `null` if all is new. */
export const useFailure = () => useSyncExternalStore(subscribe, () => failure);

const refusedBy = (error: unknown) => (error instanceof Refused ? error : new Refused(0, { code: "page", message: String(error) }));

export const useConnection = () => useSyncExternalStore(subscribe, () => connection);
export const useBeat = () => useSyncExternalStore(subscribe, () => beat);
export const useNewEvents = () => useSyncExternalStore(subscribe, () => events);

interface Entry {
  topics: Topic[];
  value: unknown;
  error: Refused | null;
  /** How often it was asked for, and which of those the answer is of: answers overtake each other. */
  asked: number;
  answered: number;
  again: () => void;
  listeners: Set<() => void>;
}

const cache = new Map<string, Entry>();

function changed(topics: Topic[]) {
  for (const [url, entry] of cache) {
    if (!entry.topics.some((topic) => topics.includes(topic))) continue;
    if (entry.listeners.size) entry.again();
    else {
      cache.delete(url);
      failed(url, null);
    }
  }
}

/** Makes every page ask anew for what depends on these. */
export const refresh = changed;

export interface Got<T> {
  value: T | undefined;
  error: Refused | null;
  again: () => void;
}

/** Asks every so often, but neither while nobody sees the page nor while an answer is on its way: some ask every base. */
export function regularly(everyMs: number, again: () => void, isBusy: () => boolean): () => void {
  const look = () => {
    if (!document.hidden && !isBusy()) again();
  };
  const timer = setInterval(look, everyMs);
  document.addEventListener("visibilitychange", look);
  return () => {
    clearInterval(timer);
    document.removeEventListener("visibilitychange", look);
  };
}

/** An answer of the API that is kept up to date. `null` asks nothing. */
export function useApi<N extends Name>(
  name: N,
  asked: Asked<N> | null,
  topics: Topic[] = ["none"],
  everyMs?: number,
): Got<Answer<N>> {
  const url = asked === null ? "" : address(name, asked);
  const [, draw] = useState(0);
  useEffect(() => {
    if (asked === null) return;
    const listener = () => draw((count) => count + 1);
    let entry = cache.get(url);
    if (!entry) {
      const made: Entry = { topics, value: undefined, error: null, asked: 0, answered: 0, again: () => {}, listeners: new Set() };
      made.again = () => {
        made.asked += 1;
        const number = made.asked;
        const done = (value: unknown, error: Refused | null) => {
          if (number < made.answered) return;
          made.answered = number;
          made.error = error;
          // What is gone is not shown as it was.
          if (!error || error.status === 404) made.value = value;
          if (made.listeners.size) failed(url, made.value === undefined ? null : error);
          for (const one of made.listeners) one();
        };
        ask(name, asked).then(
          (value) => done(value, null),
          (error: unknown) => done(undefined, refusedBy(error)),
        );
      };
      cache.set(url, made);
      entry = made;
    }
    entry.listeners.add(listener);
    if (!entry.asked || entry.error) entry.again();
    else listener();
    const rest = everyMs ? regularly(everyMs, entry.again, () => entry.answered < entry.asked) : undefined;
    return () => {
      entry.listeners.delete(listener);
      rest?.();
      setTimeout(() => {
        if (entry.listeners.size || cache.get(url) !== entry) return;
        cache.delete(url);
        failed(url, null);
      }, LINGER_MS);
    };
    // The address says all of `asked`.
  }, [url, everyMs]);
  const entry = cache.get(url);
  return {
    value: entry?.value as Answer<N> | undefined,
    error: entry?.error ?? null,
    again: () => entry?.again(),
  };
}

const FINE_SECONDS = 300;

/** Adds the last second to what is shown, and drops what is now too old. */
export function append(traffic: Traffic, next: Beat, seconds: number, app?: string): Traffic {
  if (next.second <= traffic.range.to) return traffic;
  const from = next.second - seconds;
  const add = (points: Point[], point?: Point) => {
    const kept = points.filter((one) => one[0] >= from);
    return point ? [...kept, point] : kept;
  };
  const apps: Record<string, Point[]> = {};
  for (const name of new Set([...Object.keys(traffic.apps), ...Object.keys(next.apps)])) {
    if (!app || app === name) apps[name] = add(traffic.apps[name] ?? [], next.apps[name]);
  }
  return { ...traffic, apps, range: { ...traffic.range, from, to: next.second } };
}

/** Rates and latencies of the last so many seconds, moving on with each beat. */
export function useTraffic(seconds: number, app?: string): Traffic | undefined {
  const [traffic, setTraffic] = useState<Traffic>();
  useEffect(() => {
    let [gone, asked, answered] = [false, 0, 0];
    setTraffic(undefined);
    const place = `traffic ${seconds} ${app ?? ""}`;
    const load = () => {
      asked += 1;
      const number = asked;
      const done = (error: Refused | null, value?: Traffic) => {
        if (gone || number < answered) return;
        answered = number;
        if (value) setTraffic(value);
        failed(place, error);
      };
      ask("traffic", { seconds, ...(app ? { app } : {}) }).then(
        (value) => done(null, value),
        (error: unknown) => done(refusedBy(error)),
      );
    };
    load();
    const onBeat = (next: Beat | null) => {
      if (!next) load();
      else if (seconds <= FINE_SECONDS) setTraffic((now) => now && append(now, next, seconds, app));
    };
    beatListeners.add(onBeat);
    // Edges are sums over the range, and coarse steps come every fifteen seconds.
    const timer = setInterval(load, seconds <= FINE_SECONDS ? 10_000 : 15_000);
    return () => {
      gone = true;
      failed(place, null);
      beatListeners.delete(onBeat);
      clearInterval(timer);
    };
  }, [seconds, app]);
  return traffic;
}
