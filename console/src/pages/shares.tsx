// The traffic switch of an app: which revision gets which share of the calls, changed in its document.
import { useEffect, useState } from "react";
import { ask, type Refused } from "../api/client";
import { refresh } from "../api/live";
import type { Document } from "../api/schema";
import type { App } from "../apps";
import { applied, percent } from "../format";
import { Badge, Confirm, Failure, toast } from "../parts/basic";
import { Difference } from "../parts/difference";
import { t } from "../text/text";
import { toYaml } from "../yaml";
import { choicesOf, isFromFile, saysSame, withShares } from "../shares";
import { Hit } from "./app";
import { revisionOf } from "./documents";

interface Props {
  app: App;
  /** The revisions that are kept, newest first. */
  revisions: Document[];
  onClose: () => void;
}

/** Asks for the shares, shows what they change and whom that hits, and applies them. */
export function Shares({ app, revisions, onClose }: Props) {
  const choices = choicesOf(app, revisions);
  /** What was typed; the others have what the document says. */
  const [typed, setTyped] = useState<Record<string, string>>({});
  const [error, setError] = useState<Refused | null>(null);
  const weightOf = (revision: string, weight: number) => Math.max(0, Math.round(Number(typed[revision] ?? weight)) || 0);
  const shares = choices.map(({ revision, weight }) => ({ revision, weight: weightOf(revision, weight) }));
  const all = shares.reduce((sum, one) => sum + one.weight, 0);
  const isSame = saysSame(app, shares);
  const before = toYaml(app.document);
  const after = isSame ? before : toYaml(withShares(app, shares));
  useEffect(() => {
    if (all === 0 || isSame) return setError(null);
    const stop = new AbortController();
    ask("apply", { dryRun: true, owner: "console" }, { files: [{ name: "", content: after }] }, stop.signal)
      .then(() => setError(null))
      .catch((failure: Refused) => !stop.signal.aborted && setError(failure));
    return () => stop.abort();
  }, [after, all, isSame]);
  const run = async () => {
    const revision = revisionOf(app.document);
    await ask("apply", { owner: "console", ...(revision === undefined ? {} : { ifRevision: revision }) }, { files: [{ name: "", content: after }] });
    toast(t("The calls are moving"));
    refresh(["documents", "instances"]);
  };
  const isGood = all > 0 && !isSame && !error;
  return (
    <Confirm title={t("Move calls between revisions of {app}", { app: app.name })} word={isGood ? app.name : "\u0000"} shown={app.name} action={t("Move")} command={applied(after)} run={run} onClose={onClose}>
      <div className="scroll-x">
        <table>
          <thead>
            <tr>
              <th>{t("Revision")}</th>
              <th>{t("Weight")}</th>
              <th className="right">{t("Share")}</th>
            </tr>
          </thead>
          <tbody>
            {choices.map(({ revision, weight, hindrance }) => (
              <tr key={revision}>
                <td>
                  <span className="row">
                    <code>{revision}</code>
                    {revision === app.status.latestRevision && <Badge tone="accent">{t("newest")}</Badge>}
                    {revision === "latest" && <span className="dim">{t("whichever is newest and ready")}</span>}
                  </span>
                  {hindrance && <div className="dim">{t(`hindrance.${hindrance}`)}</div>}
                </td>
                <td>
                  <input
                    className="input num"
                    style={{ width: 92 }}
                    type="number"
                    min={0}
                    max={1_000_000}
                    step={1}
                    disabled={hindrance !== undefined && weight === 0}
                    aria-label={t("Weight of {revision}", { revision })}
                    value={typed[revision] ?? String(weight)}
                    onChange={(event) => setTyped({ ...typed, [revision]: event.target.value })}
                  />
                </td>
                <td className="right num">{percent(all ? weightOf(revision, weight) / all : 0)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {all === 0 && <div className="notice warn">{t("At least one revision needs a weight.")}</div>}
      {error && <Failure error={error} />}
      {!isSame && all > 0 && <Difference before={before} after={after} label={t("What will change")} />}
      {isFromFile(app) && <div className="notice warn">{t("This app came from a file. Its next apply takes these shares away, unless they are written there too.")}</div>}
      <Hit app={app}>{t("Instances of a revision that has none start first; it gets its share when they are ready. No call fails.")}</Hit>
    </Confirm>
  );
}
