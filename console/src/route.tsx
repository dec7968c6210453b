// Where we are: the path and its query. The time range stays in the query from page to page, so every address can be
// handed on.
import { type AnchorHTMLAttributes, type MouseEvent, useSyncExternalStore } from "react";

const listeners = new Set<() => void>();

addEventListener("popstate", () => {
  for (const listener of listeners) listener();
});

function subscribe(listener: () => void) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export const usePath = () => useSyncExternalStore(subscribe, () => location.pathname);
const useSearch = () => useSyncExternalStore(subscribe, () => location.search);

/** The address with the present time range, unless it has its own. */
export function withRange(to: string): string {
  const range = new URLSearchParams(location.search).get("range");
  if (!range || /[?&]range=/.test(to)) return to;
  return `${to}${to.includes("?") ? "&" : "?"}range=${range}`;
}

export function go(to: string, replace = false) {
  const next = withRange(to);
  if (next === location.pathname + location.search) return;
  if (replace) history.replaceState(null, "", next);
  else history.pushState(null, "", next);
  if (!replace) scrollTo(0, 0);
  for (const listener of listeners) listener();
}

/** One field of the query, and how to set it. */
export function useField(name: string, otherwise = ""): [string, (value: string) => void] {
  const query = new URLSearchParams(useSearch());
  const set = (value: string) => {
    const next = new URLSearchParams(location.search);
    if (value === otherwise) next.delete(name);
    else next.set(name, value);
    const text = next.toString();
    history.replaceState(null, "", text ? `${location.pathname}?${text}` : location.pathname);
    for (const listener of listeners) listener();
  };
  return [query.get(name) ?? otherwise, set];
}

export const ranges = { "5m": 300, "15m": 900, "1h": 3600 } as const;
export type RangeName = keyof typeof ranges;

/** The time range in seconds, and its name. */
export function useRange(): [number, RangeName, (name: RangeName) => void] {
  const [found, set] = useField("range", "5m");
  const name = found in ranges ? (found as RangeName) : "5m";
  return [ranges[name], name, set];
}

type Props = AnchorHTMLAttributes<HTMLAnchorElement> & { to: string };

/** A link within the console. */
export function A({ to, onClick, ...rest }: Props) {
  useSearch();
  const follow = (event: MouseEvent<HTMLAnchorElement>) => {
    onClick?.(event);
    if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey) return;
    event.preventDefault();
    go(to);
  };
  return <a href={withRange(to)} onClick={follow} {...rest} />;
}
