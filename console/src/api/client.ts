// Asks the management API. Types and paths come from its description; what opens it is a session (see session.ts).
import { type Operations, paths, type Refusal } from "./schema";
import { t } from "../text/text";
import { key, lost } from "./session";

/** Why the API refused, or that it could not be asked. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    readonly refusal: Refusal,
  ) {
    super(refusal.message);
  }
}

export type Name = keyof Operations;
export type Answer<N extends Name> = Operations[N]["answer"];

type Braced<Path> = Path extends `${string}{${infer Part}}${infer Rest}` ? Part | Braced<Rest> : never;
export type Asked<N extends Name> = {
  [Part in Braced<Operations[N]["path"]>]: string;
} & Operations[N]["query"];

/** The address of an operation: parts of the path are taken out of `asked`, the rest is its query. */
export function address<N extends Name>(name: N, asked?: Asked<N>): string {
  const rest = new Map(Object.entries((asked ?? {}) as Record<string, unknown>));
  const path = paths[name][1].replace(/\{(\w+)\}/g, (_, part: string) => {
    const value = String(rest.get(part) ?? "");
    rest.delete(part);
    return encodeURIComponent(value);
  });
  const query = new URLSearchParams();
  for (const [field, value] of rest) {
    if (value !== undefined && value !== "" && value !== false) query.set(field, String(value));
  }
  const text = query.toString();
  return text ? `${path}?${text}` : path;
}

export function headers(): Record<string, string> {
  return { "dodai-session": key() ?? "", "dodai-actor": "console" };
}

/** Reads why a response is a refusal. */
export async function refusalOf(response: Response): Promise<Refused> {
  if (response.status === 401) lost();
  const told = (await response.json().catch(() => null)) as Refusal | null;
  const message = `the server answered ${response.status} ${response.statusText}`;
  return new Refused(response.status, told?.message ? told : { code: "http", message });
}

const gone = (): Refusal => ({ code: "gone", message: t("the server does not answer"), remedy: t("is it still running? `dodai status` says so") });

/** Asks, and gives the answer as the description says. */
export async function ask<N extends Name>(
  name: N,
  asked?: Asked<N>,
  body?: Operations[N]["body"] | Blob,
  signal?: AbortSignal,
): Promise<Answer<N>> {
  const init: RequestInit = { method: paths[name][0], headers: headers(), signal: signal ?? null };
  if (body instanceof Blob) init.body = body;
  else if (typeof body === "string") {
    init.headers = { ...headers(), "content-type": "text/plain" };
    init.body = body;
  } else if (body !== undefined) {
    init.headers = { ...headers(), "content-type": "application/json" };
    init.body = JSON.stringify(body);
  }
  let response: Response;
  try {
    response = await fetch(address(name, asked), init);
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new Refused(0, gone());
  }
  if (!response.ok) throw await refusalOf(response);
  return (await response.json()) as Answer<N>;
}
