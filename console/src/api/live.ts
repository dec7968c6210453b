// The one live stream of this page: what is new each second, and which parts of the API have changed since.
import { useEffect, useState, useSyncExternalStore } from "react";
import { type Answer, type Asked, ask, address, type Name, Refused } from "./client";
import type { Beat, Event, Point, Traffic } from "./schema";
import { type Connection, follow } from "./stream";

/** What an answer depends on; it is asked for again when that changes. */
export type Topic = "documents" | "instances" | "node" | "none";

const MAX_EVENTS = 200;

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
    onState: (state) => {
      connection = state;
      tell();
    },
    onMessage: (message) => {
      if (message.event === "anew") {
        beat = null;
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

/** Stops listening and forgets what was heard. */
export function silence() {
  stop?.();
  stop = null;
  beat = null;
  events = [];
  cache.clear();
}

export const useConnection = () => useSyncExternalStore(subscribe, () => connection);
export const useBeat = () => useSyncExternalStore(subscribe, () => beat);
export const useNewEvents = () => useSyncExternalStore(subscribe, () => events);

interface Entry {
  topics: Topic[];
  value: unknown;
  error: Refused | null;
  asked: boolean;
  again: () => void;
  listeners: Set<() => void>;
}

const cache = new Map<string, Entry>();

function changed(topics: Topic[]) {
  for (const [url, entry] of cache) {
    if (!entry.topics.some((topic) => topics.includes(topic))) continue;
    if (entry.listeners.size) entry.again();
    else cache.delete(url);
  }
}

/** Makes every page ask anew for what depends on these. */
export const refresh = changed;

export interface Got<T> {
  value: T | undefined;
  error: Refused | null;
  again: () => void;
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
      const made: Entry = { topics, value: undefined, error: null, asked: false, again: () => {}, listeners: new Set() };
      made.again = () => {
        made.asked = true;
        ask(name, asked)
          .then((value) => {
            made.value = value;
            made.error = null;
          })
          .catch((error: unknown) => {
            made.error = error instanceof Refused ? error : new Refused(0, { code: "page", message: String(error) });
          })
          .finally(() => {
            for (const one of made.listeners) one();
          });
      };
      cache.set(url, made);
      entry = made;
    }
    entry.listeners.add(listener);
    if (!entry.asked || entry.error) entry.again();
    else listener();
    const timer = everyMs ? setInterval(entry.again, everyMs) : undefined;
    return () => {
      entry.listeners.delete(listener);
      clearInterval(timer);
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
    let gone = false;
    setTraffic(undefined);
    const load = () =>
      ask("traffic", { seconds, ...(app ? { app } : {}) })
        .then((value) => gone || setTraffic(value))
        .catch(() => undefined);
    void load();
    const onBeat = (next: Beat | null) => {
      if (!next) void load();
      else if (seconds <= FINE_SECONDS) setTraffic((now) => now && append(now, next, seconds, app));
    };
    beatListeners.add(onBeat);
    // Edges are sums over the range, and coarse steps come every fifteen seconds.
    const timer = setInterval(load, seconds <= FINE_SECONDS ? 10_000 : 15_000);
    return () => {
      gone = true;
      beatListeners.delete(onBeat);
      clearInterval(timer);
    };
  }, [seconds, app]);
  return traffic;
}
