// A text field for YAML: numbered lines, coloured words, marks where something is wrong. The text itself is a plain
// textarea, so keyboards, screen readers, undo and input methods work as everywhere.
import { type KeyboardEvent, useId, useMemo, useRef } from "react";

export interface Mark {
  line: number;
  message: string;
  severity: "error" | "warning";
}

interface Token {
  kind: "" | "k" | "s" | "n" | "c";
  text: string;
}

/** The parts of one line of YAML by what they are. */
export function tokens(line: string): Token[] {
  const comment = /(^|\s)#.*$/.exec(line);
  const body = comment ? line.slice(0, comment.index) : line;
  const rest: Token[] = comment ? [{ kind: "c", text: line.slice(comment.index) }] : [];
  const found = /^(\s*(?:- )*)([^\s:'"[{#][^:]*|"[^"]*"|'[^']*')(:)(\s|$)(.*)$/.exec(body);
  if (!found) {
    const item = /^(\s*(?:- )+)(.*)$/.exec(body);
    return item ? [{ kind: "", text: item[1] ?? "" }, value(item[2] ?? ""), ...rest] : [value(body), ...rest];
  }
  const [, before = "", key = "", colon = "", space = "", after = ""] = found;
  return [{ kind: "", text: before }, { kind: "k", text: key }, { kind: "", text: colon + space }, value(after), ...rest];
}

function value(text: string): Token {
  if (/^\s*(-?\d[\d.]*|true|false|null)\s*$/.test(text)) return { kind: "n", text };
  return { kind: text.trim() && text.trim() !== "---" ? "s" : "", text };
}

interface Props {
  text: string;
  label: string;
  marks: readonly Mark[];
  onChange: (text: string) => void;
  onLine?: (line: number) => void;
  onSave?: () => void;
}

export function Editor({ text, label, marks, onChange, onLine, onSave }: Props) {
  const id = useId();
  const area = useRef<HTMLTextAreaElement>(null);
  const lines = useMemo(() => text.split("\n"), [text]);
  const byLine = new Map<number, Mark>();
  for (const mark of marks) if (byLine.get(mark.line)?.severity !== "error") byLine.set(mark.line, mark);
  const tell = () => {
    const field = area.current;
    if (field) onLine?.(field.value.slice(0, field.selectionStart).split("\n").length);
  };
  const onKey = (event: KeyboardEvent<HTMLTextAreaElement>) => {
    const field = event.currentTarget;
    if (event.key === "s" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      onSave?.();
      return;
    }
    if (event.key !== "Enter" || event.nativeEvent.isComposing) return;
    // A new line begins where the one before did, and further in behind a colon.
    const before = field.value.slice(0, field.selectionStart);
    const last = before.slice(before.lastIndexOf("\n") + 1);
    const indent = /^\s*(- )?/.exec(last)?.[0].replace("-", " ") ?? "";
    event.preventDefault();
    document.execCommand("insertText", false, `\n${indent}${last.trimEnd().endsWith(":") ? "  " : ""}`);
  };
  return (
    <div className="editor">
      <div className="gutter" aria-hidden="true">
        {lines.map((_, at) => {
          const mark = byLine.get(at + 1);
          return (
            <div key={at} className={mark ? (mark.severity === "error" ? "bad" : "warn") : ""} title={mark?.message}>
              {at + 1}
            </div>
          );
        })}
      </div>
      <div className="area">
        <pre aria-hidden="true">
          {lines.map((line, at) => (
            <span key={at}>
              {tokens(line).map((token, place) => (token.kind ? <span key={place} className={token.kind}>{token.text}</span> : token.text))}
              {"\n"}
            </span>
          ))}
        </pre>
        <textarea ref={area} id={id} aria-label={label} aria-invalid={marks.some((mark) => mark.severity === "error")} value={text} spellCheck={false} autoCapitalize="off" autoComplete="off" wrap="off" onChange={(event) => onChange(event.target.value)} onKeyDown={onKey} onKeyUp={tell} onClick={tell} />
      </div>
    </div>
  );
}
