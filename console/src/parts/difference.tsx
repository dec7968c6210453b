// Two texts as the lines they differ in.
import { diffLines, folded } from "../diff";
import { t } from "../text/text";

const SIGN = { same: "  ", add: "+ ", del: "- ", gap: "" } as const;

export function Difference({ before, after, label }: { before: string; after: string; label: string }) {
  const lines = folded(diffLines(before, after));
  if (lines.length === 0) return <div className="dim">{t("Nothing differs.")}</div>;
  return (
    <div className="diff" role="region" aria-label={label} tabIndex={0}>
      {lines.map((line, at) => (
        <div key={at} className={line.kind}>
          {SIGN[line.kind]}
          {line.text}
        </div>
      ))}
    </div>
  );
}
