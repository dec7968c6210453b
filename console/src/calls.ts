// The stream of calls: what a message of it is, and what tells one call from every other.
import type { Call, Missed, Silent, Told } from "./api/schema";
import type { Tone } from "./parts/basic";

/** Sequence numbers count on each base, and begin anew when it does. */
export const callKey = (call: Call) => `${call.base ?? ""} ${call.sequence} ${call.span_id} ${call.event ?? ""}`;

const isMissed = (told: Told): told is Missed => typeof (told as Missed).missed === "number";
const isSilent = (told: Told): told is Silent => typeof (told as Silent).ended === "string";

/** What a reader does with each message. */
export interface Reader {
  call(call: Call): void;
  missed?(count: number): void;
  silent?(base: string, why: string): void;
}

/** Reads one message. What is none of the three is passed over: it comes from a server of another version. */
export function readTold(data: string, reader: Reader) {
  const told = JSON.parse(data) as Told;
  if (isMissed(told)) reader.missed?.(told.missed);
  else if (isSilent(told)) reader.silent?.(told.base, told.ended);
  else if (typeof told.time === "string" && typeof told.service === "string") reader.call(told);
}

/** Bases that tell no more calls, with the reason; one whose call comes tells again. */
export class SilentBases {
  private readonly known = new Map<string, string>();

  /** A base says no more. */
  ended(base: string, why: string) {
    this.known.set(base, why);
  }

  /** A call came; whether its base was taken for silent. */
  heard(call: Call): boolean {
    return this.known.size > 0 && call.base !== undefined && this.known.delete(call.base);
  }

  /** The stream begins anew. */
  clear() {
    this.known.clear();
  }

  all(): [string, string][] {
    return [...this.known];
  }
}

/**
 * Whether a call is one of an edge, counted where it begins. The filter of the stream also lets through what the app itself
 * calls, and a call from base to base is told by both: `inbound` is its arrival.
 */
export const isOfEdge = (call: Call, caller: string, app: string) =>
  call.direction !== "inbound" && call.caller === caller && (app === "" ? call.service === "" : call.service.startsWith(`${app}/`));

/** How a call ended, in one tone. */
export function toneOfCall(call: Call): Tone {
  if (call.failure || call.status >= 500 || call.status === 0 || (call.grpc_status ?? 0) !== 0) return "bad";
  return call.status >= 400 ? "warn" : "good";
}
