// The session: a token is exchanged for a cookie, which the browser keeps, and a key, which this origin keeps. Both are
// needed, because a cookie is sent to every port of the machine and storage is not.
import { decoded } from "../format";
import { t } from "../text/text";

const PLACE = "dodai-session";

export type State = "unknown" | "open" | "closed";

let state: State = "unknown";
const listeners = new Set<() => void>();

function become(next: State) {
  state = next;
  for (const tell of listeners) tell();
}

export const sessionState = () => state;

export function onSession(tell: () => void): () => void {
  listeners.add(tell);
  return () => listeners.delete(tell);
}

export const key = () => localStorage.getItem(PLACE);

/** The server no longer takes what we have. */
export function lost() {
  if (state === "open") become("closed");
}

/** Exchanges a token. `null` if it opens the server, otherwise why not. */
export async function begin(token: string): Promise<string | null> {
  try {
    const response = await fetch("/v1/session", {
      method: "POST",
      headers: { authorization: `Bearer ${token.trim()}` },
    });
    const told = (await response.json()) as { key?: string; message?: string };
    if (!response.ok || !told.key) return told.message ?? `${response.status}`;
    localStorage.setItem(PLACE, told.key);
    become("open");
    return null;
  } catch {
    return t("the server does not answer");
  }
}

/** Looks at the address and at what was kept, once at the start. A token is taken out of the address at once. */
export async function start(): Promise<void> {
  const found = /^#token=(.+)$/.exec(location.hash);
  if (found?.[1]) {
    history.replaceState(null, "", location.pathname + location.search);
    if ((await begin(decoded(found[1]))) === null) return;
  }
  if (key() === null) return become("closed");
  const response = await fetch("/v1/session", { headers: { "dodai-session": key() ?? "" } }).catch(() => null);
  become(response?.ok ? "open" : "closed");
}

export async function end(): Promise<void> {
  await fetch("/v1/session", { method: "DELETE", headers: { "dodai-session": key() ?? "" } }).catch(() => null);
  localStorage.removeItem(PLACE);
  become("closed");
}
