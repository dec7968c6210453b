// The last calls of an edge, as they end: what it is made of.
import { useEffect, useRef, useState } from "react";
import { address, type Asked } from "../api/client";
import type { Call } from "../api/schema";
import { follow } from "../api/stream";
import { callKey, readTold, toneOfCall } from "../calls";
import { clock, duration } from "../format";
import { t } from "../text/text";
import { Badge } from "./basic";

const MOST = 6;
const DRAW_MS = 500;

interface SamplesProps {
  /** What the server is asked for, and which of that are of the edge. */
  asked: Asked<"calls">;
  isOf: (call: Call) => boolean;
}

export function Samples({ asked, isOf }: SamplesProps) {
  const [calls, setCalls] = useState<Call[]>([]);
  const url = address("calls", asked);
  // It is made anew with each figure.
  const wanted = useRef(isOf);
  wanted.current = isOf;
  useEffect(() => {
    let fresh: Call[] = [];
    const stop = follow({
      url,
      onState: () => undefined,
      onMessage: (message) =>
        readTold(message.data, {
          call: (call) => {
            if (wanted.current(call)) fresh = [call, ...fresh].slice(0, MOST);
          },
        }),
    });
    const timer = setInterval(() => {
      const more = fresh;
      fresh = [];
      if (more.length) setCalls((known) => [...more, ...known.filter((one) => !more.some((other) => callKey(other) === callKey(one)))].slice(0, MOST));
    }, DRAW_MS);
    return () => {
      stop();
      clearInterval(timer);
    };
  }, [url]);
  if (calls.length === 0) return <div className="dim">{t("Waiting for calls…")}</div>;
  return (
    <ul className="samples" aria-label={t("Calls of this edge, newest first")}>
      {calls.map((call) => (
        <li key={callKey(call)}>
          <Badge tone={toneOfCall(call)}>{call.status || "–"}</Badge>
          <span className="mono clip grow" title={`${call.method} ${call.target}`}>
            {call.method} {call.target}
          </span>
          <span className="num dim nowrap" title={clock(Date.parse(call.time), true)}>
            {duration(call.took_us)}
          </span>
        </li>
      ))}
    </ul>
  );
}
