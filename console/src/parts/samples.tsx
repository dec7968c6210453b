// The last calls of one caller to one app, as they end: what an edge is made of.
import { useEffect, useState } from "react";
import { address } from "../api/client";
import type { Call } from "../api/schema";
import { follow } from "../api/stream";
import { callKey, isOfEdge, readTold, toneOfCall } from "../calls";
import { clock, duration } from "../format";
import { t } from "../text/text";
import { Badge } from "./basic";

const MOST = 6;
const DRAW_MS = 500;

export function Samples({ caller, app }: { caller: string; app: string }) {
  const [calls, setCalls] = useState<Call[]>([]);
  useEffect(() => {
    let fresh: Call[] = [];
    const stop = follow({
      url: address("calls", { caller, ...(app.includes("/") ? { app } : {}) }),
      onState: () => undefined,
      onMessage: (message) =>
        readTold(message.data, {
          call: (call) => {
            if (isOfEdge(call, caller, app)) fresh = [call, ...fresh].slice(0, MOST);
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
  }, [caller, app]);
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
