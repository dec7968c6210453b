// The small parts that every page is made of.
import { type ReactNode, useEffect, useId, useLayoutEffect, useRef, useState } from "react";
import type { Refused } from "../api/client";
import type { Phase } from "../api/schema";
import { ranges, type RangeName, useRange } from "../route";
import { t } from "../text/text";
import { saidOf } from "../text/refusals";
import { Icon } from "./icon";

export type Tone = "good" | "warn" | "bad" | "accent" | "plain";

export function Badge({ tone = "plain", children }: { tone?: Tone; children: ReactNode }) {
  return <span className={`badge ${tone}`}>{children}</span>;
}

export function Dot({ tone }: { tone: Tone }) {
  return <span className={`dot ${tone}`} aria-hidden="true" />;
}

export function toneOf(phase: Phase): Tone {
  switch (phase) {
    case "ready":
    case "succeeded":
    case "running":
      return "good";
    case "waiting":
    case "starting":
    case "draining":
    case "unknown":
    case "gone":
      return "plain";
    case "unready":
    case "backing_off":
      return "warn";
    case "failed":
      return "bad";
  }
}

export function PhaseBadge({ phase }: { phase: Phase }) {
  return (
    <Badge tone={toneOf(phase)}>
      <Dot tone={toneOf(phase)} />
      {t(`phase.${phase}`)}
    </Badge>
  );
}

interface PanelProps {
  title?: ReactNode;
  actions?: ReactNode;
  flush?: boolean;
  children: ReactNode;
}

export function Panel({ title, actions, flush, children }: PanelProps) {
  const id = useId();
  return (
    <section className="panel" {...(title ? { "aria-labelledby": id } : {})}>
      {(title || actions) && (
        <header>
          <h2 id={id}>{title}</h2>
          {actions && <div className="row">{actions}</div>}
        </header>
      )}
      <div className={flush ? "body flush" : "body"}>{children}</div>
    </section>
  );
}

export function Head({ title, sub, children }: { title: ReactNode; sub?: ReactNode; children?: ReactNode }) {
  return (
    <div className="head">
      <div className="grow">
        <h1>{title}</h1>
        {sub && <div className="sub">{sub}</div>}
      </div>
      {children && <div className="row wrap">{children}</div>}
    </div>
  );
}

let toastTimer: ReturnType<typeof setTimeout> | undefined;
let showToast: ((text: string) => void) | undefined;

/** Says something for a moment. */
export function toast(text: string) {
  showToast?.(text);
}

export function Toast() {
  const [text, setText] = useState("");
  useEffect(() => {
    showToast = (next) => {
      setText(next);
      clearTimeout(toastTimer);
      toastTimer = setTimeout(() => setText(""), 2500);
    };
  }, []);
  return (
    <div role="status" aria-live="polite">
      {text && <div className="toast fade">{text}</div>}
    </div>
  );
}

export async function copy(text: string) {
  try {
    await navigator.clipboard.writeText(text);
    toast(t("Copied"));
  } catch {
    toast(t("The browser does not allow copying here"));
  }
}

/** A command to be run in a terminal, with a button that copies it. */
export function Command({ text }: { text: string }) {
  return (
    <div className="command">
      <code className="grow" tabIndex={0}>
        {text}
      </code>
      <button type="button" className="button quiet icon small" onClick={() => void copy(text)} aria-label={t("Copy the command")} title={t("Copy the command")}>
        <Icon name="copy" size={14} />
      </button>
    </div>
  );
}

/** Copies what does the same from a terminal. */
export function Cli({ text }: { text: string }) {
  const [first = "", ...more] = text.split("\n");
  const shown = `${t("Copy as a command")}: ${first}${more.length ? " …" : ""}`;
  return (
    <button type="button" className="button quiet icon" onClick={() => void copy(text)} title={shown} aria-label={shown}>
      <Icon name="terminal" />
    </button>
  );
}

export function Empty({ title, children, command }: { title: string; children?: ReactNode; command?: string }) {
  return (
    <div className="empty">
      <strong>{title}</strong>
      {children && <div>{children}</div>}
      {command && <Command text={command} />}
    </div>
  );
}

export function Failure({ error }: { error: Refused }) {
  return (
    <div className="notice bad" role="alert">
      <Icon name="warning" />
      <div>
        {saidOf(error) && <div>{saidOf(error)}</div>}
        <div className={saidOf(error) ? "dim" : ""}>{error.refusal.message}</div>
        {error.refusal.remedy && <div className="dim">{error.refusal.remedy}</div>}
      </div>
    </div>
  );
}

/** Bases that did not answer, of a list of several. */
export function Failed({ failed }: { failed: Record<string, string> | undefined }) {
  const all = Object.entries(failed ?? {});
  if (all.length === 0) return null;
  return (
    <div className="notice warn">
      <ul>
        {all.map(([base, why]) => (
          <li key={base}>
            {base}: {why}
          </li>
        ))}
      </ul>
    </div>
  );
}

/** What is shown until an answer is there, or instead of it. */
export function Waiting({ error }: { error: Refused | null }) {
  return error ? <Failure error={error} /> : <div className="empty" aria-busy="true">{t("Loading…")}</div>;
}

export function RangePicker() {
  const [, chosen, set] = useRange();
  return (
    <div className="segments" role="group" aria-label={t("Time range")}>
      {(Object.keys(ranges) as RangeName[]).map((name) => (
        <button key={name} type="button" aria-pressed={name === chosen} onClick={() => set(name)}>
          {name}
        </button>
      ))}
    </div>
  );
}

interface DialogProps {
  title: string;
  wide?: boolean;
  onClose: () => void;
  children: ReactNode;
}

export function Dialog({ title, wide, onClose, children }: DialogProps) {
  const dialog = useRef<HTMLDialogElement>(null);
  const id = useId();
  // Closed while it is still in the page, it gives the focus back to where it was.
  useLayoutEffect(() => {
    const open = dialog.current;
    open?.showModal();
    return () => open?.close();
  }, []);
  return (
    <dialog ref={dialog} className={wide ? "wide" : ""} aria-labelledby={id} onCancel={onClose} onClose={onClose}>
      <div className="inside">
        <h2 id={id}>{title}</h2>
        {children}
      </div>
    </dialog>
  );
}

interface ConfirmProps {
  title: string;
  /** What must be typed. */
  word: string;
  /** What is asked for, where nothing that could be typed is right yet. */
  shown?: string;
  /** What will be hit. */
  children: ReactNode;
  action: string;
  command?: string;
  danger?: boolean;
  run: () => Promise<unknown>;
  onClose: () => void;
}

/** Asks for a word before something is done that is felt by others, and shows what that is. */
export function Confirm({ title, word, shown = word, children, action, command, danger, run, onClose }: ConfirmProps) {
  const [typed, setTyped] = useState("");
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<Refused | null>(null);
  const submit = async () => {
    setBusy(true);
    setError(null);
    try {
      await run();
      onClose();
    } catch (failure) {
      setError(failure as Refused);
      setBusy(false);
    }
  };
  return (
    <Dialog title={title} onClose={onClose}>
      <div className="stack tight">{children}</div>
      <form
        className="stack tight"
        onSubmit={(event) => {
          event.preventDefault();
          if (typed === word && !busy) void submit();
        }}
      >
        <label className="field">
          <span>{t("Type {word} to confirm", { word: shown })}</span>
          <input className="input" value={typed} onChange={(event) => setTyped(event.target.value)} autoFocus autoComplete="off" spellCheck={false} />
        </label>
        {error && <Failure error={error} />}
        <div className="spread">
          {command ? <Cli text={command} /> : <span />}
          <div className="actions">
            <button type="button" className="button" onClick={onClose}>
              {t("Cancel")}
            </button>
            <button type="submit" className={danger ? "button danger" : "button primary"} disabled={typed !== word || busy}>
              {busy ? t("Working…") : action}
            </button>
          </div>
        </div>
      </form>
    </Dialog>
  );
}

/** The way back and on through a list that comes page by page; nothing where all of it is there. */
export function Pages({ back, more }: { back: (() => void) | null; more: (() => void) | null }) {
  if (!back && !more) return null;
  return (
    <div className="actions" style={{ padding: 10 }}>
      <button type="button" className="button small" disabled={!back} onClick={() => back?.()}>
        {t("Back")}
      </button>
      <button type="button" className="button small" disabled={!more} onClick={() => more?.()}>
        {t("More")}
      </button>
    </div>
  );
}

/** A list that the API tells page by page: after which the page begins, and the way through it. */
export function usePages() {
  const [after, setAfter] = useState<string[]>([]);
  const last = after.at(-1);
  const ways = (next: string | null | undefined) => (
    <Pages back={after.length > 0 ? () => setAfter(after.slice(0, -1)) : null} more={next ? () => setAfter([...after, next]) : null} />
  );
  return { from: last ? { after: last } : {}, ways, begin: () => setAfter([]) };
}
