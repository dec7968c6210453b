// One call as the six stations it passed, with the time in each, and the calls of its trace.
import type { Call } from "../api/schema";
import { callKey } from "../calls";
import { duration, short } from "../format";
import { t } from "../text/text";

export interface Step {
  name: "listen" | "codec" | "route" | "filter" | "attempt" | "endpoint" | "body";
  from: number;
  to: number;
  /** Within the endpoint: when a connection or instance was ready, and waiting began. */
  ready?: number;
}

/**
 * Each station with when the call came to it and when it left, in microseconds. The clock begins when the head of the
 * request is complete, so listen and codec lie before it; what the call did not come to is left out.
 */
export function steps(call: Call): Step[] {
  const left = call.stations;
  if (!left) return [];
  const found: Step[] = [
    { name: "listen", from: 0, to: 0 },
    { name: "codec", from: 0, to: 0 },
  ];
  let from = 0;
  const leave = (name: Step["name"], end: number, ready?: number) => {
    // Nothing was stamped where the call ended before.
    if (end <= 0 || end < from) return;
    found.push({ name, from, to: end, ...(ready === undefined ? {} : { ready }) });
    from = end;
  };
  leave("route", left.route_us);
  leave("filter", left.filter_us);
  leave("attempt", left.attempt_us);
  leave("endpoint", left.response_us, Math.max(left.endpoint_us, from));
  leave("body", call.took_us);
  return found;
}

export function Stations({ call }: { call: Call }) {
  const all = steps(call);
  const end = Math.max(1, call.took_us);
  if (all.length === 0) return <div className="dim">{t("The times of this call were not taken.")}</div>;
  const part = (from: number, to: number) => ({ left: `${(from / end) * 100}%`, width: `${((to - from) / end) * 100}%` });
  return (
    <section aria-label={t("Stations")}>
      <div className="spread" style={{ marginBottom: 4 }}>
        <h3 style={{ fontSize: 12 }}>{t("Stations")}</h3>
        <span className="dim num">{t("{time} in all", { time: duration(call.took_us) })}</span>
      </div>
      <ol className="stations">
        {all.map((step) => (
          <li key={step.name} className="station" title={t(`station.${step.name}.about`)}>
            <span>{t(`station.${step.name}`)}</span>
            <span className="track">
              {step.to > step.from && (
                <>
                  <i style={part(step.from, step.ready ?? step.to)} />
                  {step.ready !== undefined && <i className="wait" style={part(step.ready, step.to)} />}
                </>
              )}
            </span>
            <span className={step.to > step.from ? "time" : "time dim"}>{step.to > step.from ? duration(step.to - step.from) : "–"}</span>
          </li>
        ))}
      </ol>
    </section>
  );
}

interface TraceProps {
  calls: Call[];
  opened: Call;
  open: (call: Call) => void;
}

/** Calls of one trace in the order of time, each under the one that made it, as far as they were seen. */
export function ordered(calls: readonly Call[]): { call: Call; depth: number }[] {
  const bySpan = new Map(calls.map((call) => [call.span_id, call]));
  const depth = (call: Call): number => {
    let at = call;
    let found = 0;
    while (at.parent_id && bySpan.has(at.parent_id) && found < 20) {
      at = bySpan.get(at.parent_id) as Call;
      found += 1;
    }
    return found;
  };
  const rows = calls.map((call) => ({ call, depth: depth(call) }));
  return rows.sort((a, b) => a.call.time.localeCompare(b.call.time) || a.depth - b.depth);
}

const micros = (call: Call) => Date.parse(call.time) * 1000 + Number(call.time.slice(23, 26).replace(/\D/g, "") || 0);

export function Trace({ calls, opened, open }: TraceProps) {
  const rows = ordered(calls);
  const start = Math.min(...calls.map(micros));
  const end = Math.max(...calls.map((call) => micros(call) + call.took_us));
  const whole = Math.max(1, end - start);
  return (
    <section aria-label={t("Trace")}>
      <h3 style={{ fontSize: 12, marginBottom: 4 }}>{t("Trace")}</h3>
      <ol className="trace">
        {rows.map(({ call, depth }) => (
          <li key={callKey(call)}>
            <button type="button" className="button quiet small clip" style={{ paddingLeft: depth * 14, justifyContent: "flex-start", fontWeight: callKey(call) === callKey(opened) ? 600 : 450 }} onClick={() => open(call)}>
              {short(call.caller)} → {short(call.service.replace(/\/[^/]*$/, "")) || call.target}
            </button>
            <span className="track">
              <i style={{ left: `${((micros(call) - start) / whole) * 100}%`, width: `${(call.took_us / whole) * 100}%` }} />
            </span>
            <span className="num" style={{ textAlign: "right" }}>
              {duration(call.took_us)}
            </span>
          </li>
        ))}
      </ol>
    </section>
  );
}
