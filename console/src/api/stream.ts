// Server-sent events over fetch, which can send the key of the session (EventSource cannot). Goes on where it was when
// the connection breaks, waiting longer each time, and rests while nobody sees the page: a browser has six connections
// for all its tabs.
import { headers, Refused, refusalOf } from "./client";

export interface Message {
  id: string;
  event: string;
  data: string;
}

/** Splits what came into whole messages and a rest. */
export function parse(text: string): { messages: Message[]; rest: string } {
  const blocks = text.split("\n\n");
  const rest = blocks.pop() ?? "";
  const messages: Message[] = [];
  for (const block of blocks) {
    const message: Message = { id: "", event: "message", data: "" };
    for (const line of block.split("\n")) {
      const at = line.indexOf(":");
      if (at <= 0) continue;
      const value = line.slice(at + 1).replace(/^ /, "");
      const field = line.slice(0, at);
      if (field === "data") message.data += message.data ? `\n${value}` : value;
      else if (field === "id") message.id = value;
      else if (field === "event") message.event = value;
    }
    if (message.data) messages.push(message);
  }
  return { messages, rest };
}

export type Connection = "connecting" | "open" | "away" | "refused";

export interface Follow {
  url: string;
  onMessage(message: Message): void;
  onState?(state: Connection): void;
  /** The server does not take the question, so it is not asked again. */
  onRefused?(error: Refused): void;
  /** After so long without a byte the connection counts as dead. Default: never, for a stream may be silent. */
  silentMs?: number;
  /** Whether to connect again when the answer ends by itself. Default: yes. */
  again?: boolean;
}

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 10_000;
/** How long a page may be out of sight before its streams rest. */
const UNSEEN_MS = 10_000;

/** Waits until the page is seen. */
function seen(): Promise<void> {
  if (!document.hidden) return Promise.resolve();
  return new Promise((done) => {
    const look = () => {
      if (document.hidden) return;
      document.removeEventListener("visibilitychange", look);
      done();
    };
    document.addEventListener("visibilitychange", look);
  });
}

/** Whether asking the same again brings the same refusal: the question is wrong, or what it is about is gone. */
const isFinal = (status: number) => status >= 400 && status < 500 && status !== 408 && status !== 429;

/** Follows a stream until the result is called. */
export function follow({ url, onMessage, onState, onRefused, silentMs, again = true }: Follow): () => void {
  const stop = new AbortController();
  let rest = new AbortController();
  let unseen: ReturnType<typeof setTimeout> | undefined;
  const onSight = () => {
    clearTimeout(unseen);
    if (document.hidden) unseen = setTimeout(() => rest.abort(), UNSEEN_MS);
  };
  document.addEventListener("visibilitychange", onSight);
  stop.signal.addEventListener("abort", () => {
    clearTimeout(unseen);
    document.removeEventListener("visibilitychange", onSight);
  });
  let last = "";
  const read = async () => {
    const dead = new AbortController();
    let silence: ReturnType<typeof setTimeout> | undefined;
    const heard = () => {
      clearTimeout(silence);
      if (silentMs) silence = setTimeout(() => dead.abort(), silentMs);
    };
    const signal = AbortSignal.any([stop.signal, rest.signal, dead.signal]);
    signal.addEventListener("abort", () => clearTimeout(silence));
    heard();
    await readAll(signal, heard).finally(() => clearTimeout(silence));
  };
  const readAll = async (signal: AbortSignal, heard: () => void) => {
    const init = { headers: last ? { ...headers(), "last-event-id": last } : headers(), signal };
    const response = await fetch(url, init);
    if (!response.ok || !response.body) throw await refusalOf(response);
    onState?.("open");
    const decoder = new TextDecoder();
    const reader = response.body.getReader();
    let unread = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      heard();
      const parsed = parse(unread + decoder.decode(value, { stream: true }));
      unread = parsed.rest;
      for (const message of parsed.messages) {
        if (message.id) last = message.id;
        onMessage(message);
      }
    }
  };
  const run = async () => {
    let wait = FIRST_WAIT_MS;
    while (!stop.signal.aborted) {
      await seen();
      if (stop.signal.aborted) return;
      rest = new AbortController();
      const began = Date.now();
      onState?.("connecting");
      const error: unknown = await read().catch((error: unknown) => error);
      if (error instanceof Refused && isFinal(error.status) && !stop.signal.aborted) {
        onState?.("refused");
        onRefused?.(error);
        return;
      }
      if (stop.signal.aborted || !again) return;
      if (rest.signal.aborted) continue;
      onState?.("away");
      if (Date.now() - began > LONGEST_WAIT_MS) wait = FIRST_WAIT_MS;
      await new Promise((done) => setTimeout(done, wait));
      wait = Math.min(wait * 2, LONGEST_WAIT_MS);
    }
  };
  void run();
  return () => stop.abort();
}
