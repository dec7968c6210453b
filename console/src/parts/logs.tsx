// What an app writes: the last lines and those that come, with a search. Bounded; it stays at the end unless somebody
// scrolls up.
import { type ReactNode, useEffect, useRef, useState } from "react";
import { address, type Refused } from "../api/client";
import type { LogLine } from "../api/schema";
import { follow } from "../api/stream";
import { clock, quoted, short } from "../format";
import { useField } from "../route";
import { t } from "../text/text";
import { Cli, Empty, Failure, Panel } from "./basic";
import { Icon } from "./icon";

const MOST = 2000;
const PAST = 500;
/** Lines are drawn a few times a second, however many come. */
const DRAW_MS = 150;

/** The text with what was searched for marked. */
export function marked(text: string, wanted: string): ReactNode {
  if (!wanted) return text;
  const parts: ReactNode[] = [];
  const lower = text.toLowerCase();
  let from = 0;
  for (let at = lower.indexOf(wanted); at >= 0; at = lower.indexOf(wanted, from)) {
    parts.push(text.slice(from, at), <mark key={at}>{text.slice(at, at + wanted.length)}</mark>);
    from = at + wanted.length;
  }
  parts.push(text.slice(from));
  return parts;
}

export function Logs({ namespace, name, instances }: { namespace: string; name: string; instances: string[] }) {
  const [lines, setLines] = useState<LogLine[]>([]);
  const [wanted, setWanted] = useField("q");
  const [instance, setInstance] = useField("instance");
  const [running, setRunning] = useState(true);
  const [refused, setRefused] = useState<Refused | null>(null);
  const box = useRef<HTMLDivElement>(null);
  const atEnd = useRef(true);
  useEffect(() => {
    if (!running) return;
    let fresh: LogLine[] = [];
    let first = true;
    setRefused(null);
    const stop = follow({
      url: address("logs", { namespace, name, follow: true, tail: PAST, ...(instance ? { instance } : {}) }),
      onState: (state) => {
        // A new connection tells the past again.
        if (state === "connecting") first = true;
      },
      onRefused: setRefused,
      onMessage: (message) => fresh.push(JSON.parse(message.data) as LogLine),
    });
    const timer = setInterval(() => {
      if (fresh.length === 0) return;
      const more = fresh;
      fresh = [];
      const anew = first;
      first = false;
      setLines((known) => [...(anew ? [] : known), ...more].slice(-MOST));
    }, DRAW_MS);
    return () => {
      stop();
      clearInterval(timer);
    };
  }, [namespace, name, instance, running]);
  useEffect(() => {
    if (atEnd.current && box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [lines]);
  const lower = wanted.toLowerCase();
  const shown = lower ? lines.filter((line) => line.text.toLowerCase().includes(lower)) : lines;
  const app = quoted(short(`${namespace}/${name}`));
  return (
    <Panel
      title={t("Logs")}
      flush
      actions={
        <>
          <input className="input" type="search" placeholder={t("Search in lines")} aria-label={t("Search in lines")} value={wanted} onChange={(event) => setWanted(event.target.value)} />
          <select className="select" aria-label={t("Instance")} value={instance} onChange={(event) => setInstance(event.target.value)}>
            <option value="">{t("All instances")}</option>
            {instances.map((one) => (
              <option key={one}>{one}</option>
            ))}
            {instance && !instances.includes(instance) && <option>{instance}</option>}
          </select>
          <button type="button" className="button icon" onClick={() => setRunning(!running)} aria-label={running ? t("Pause") : t("Go on")} title={running ? t("Pause") : t("Go on")}>
            <Icon name={running ? "pause" : "play"} />
          </button>
          <Cli text={`dodai logs -f ${app}${instance ? ` --instance ${quoted(instance)}` : ""}`} />
        </>
      }
    >
      {refused && <Failure error={refused} />}
      {shown.length === 0 ? (
        <Empty title={lines.length ? t("No line has this") : t("It has not written anything yet")} command={`dodai logs -f ${app}`} />
      ) : (
        <div
          className="logs tall"
          ref={box}
          tabIndex={0}
          role="log"
          aria-label={t("Logs")}
          aria-live="off"
          onScroll={(event) => {
            const { scrollHeight, scrollTop, clientHeight } = event.currentTarget;
            atEnd.current = scrollHeight - scrollTop - clientHeight < 40;
          }}
        >
          {shown.map((line, at) => (
            <div key={at} className={line.stream}>
              <time>{clock(line.time_ms, true)}</time>
              {instances.length > 1 && <span className="from">{line.instance}</span>}
              <span className="grow">{marked(line.text, lower)}</span>
            </div>
          ))}
        </div>
      )}
    </Panel>
  );
}
