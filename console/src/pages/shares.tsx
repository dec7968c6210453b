// The traffic switch of an app: which revision gets which share of the calls, changed in its document.
import { useEffect, useState } from "react";
import { ask, type Refused } from "../api/client";
import { refresh } from "../api/live";
import type { App } from "../apps";
import { applied, percent } from "../format";
import { Badge, Confirm, Failure, toast } from "../parts/basic";
import { Difference } from "../parts/difference";
import { t } from "../text/text";
import { toYaml } from "../yaml";
import { sharesOf, withShares } from "../shares";
import { Hit } from "./app";
import { revisionOf } from "./documents";

interface Props {
  app: App;
  /** The revisions that are kept, newest first. */
  revisions: string[];
  onClose: () => void;
}

/** Asks for the shares, shows what they change and whom that hits, and applies them. */
export function Shares({ app, revisions, onClose }: Props) {
  const said = sharesOf(app);
  const [weights, setWeights] = useState<Record<string, string>>(() => {
    const all = said.reduce((sum, one) => sum + one.weight, 0) || 1;
    return Object.fromEntries(said.map((one) => [one.revision, String(Math.round((one.weight / all) * 100))]));
  });
  const [error, setError] = useState<Refused | null>(null);
  const choices = ["latest", ...revisions];
  const shares = choices.map((revision) => ({ revision, weight: Math.max(0, Math.round(Number(weights[revision] ?? 0)) || 0) }));
  const all = shares.reduce((sum, one) => sum + one.weight, 0);
  const [before, after] = [toYaml(app.document), toYaml(withShares(app, shares))];
  const isSame = before === after;
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
            {shares.map(({ revision, weight }) => (
              <tr key={revision}>
                <td>
                  <span className="row">
                    <code>{revision}</code>
                    {revision === app.status.latestRevision && <Badge tone="accent">{t("newest")}</Badge>}
                    {revision === "latest" && <span className="dim">{t("whichever is newest and ready")}</span>}
                  </span>
                </td>
                <td>
                  <input
                    className="input num"
                    style={{ width: 92 }}
                    type="number"
                    min={0}
                    max={1_000_000}
                    aria-label={t("Weight of {revision}", { revision })}
                    value={weights[revision] ?? "0"}
                    onChange={(event) => setWeights({ ...weights, [revision]: event.target.value })}
                  />
                </td>
                <td className="right num">{percent(all ? weight / all : 0)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {all === 0 && <div className="notice warn">{t("At least one revision needs a weight.")}</div>}
      {error && <Failure error={error} />}
      {!isSame && all > 0 && <Difference before={before} after={after} label={t("What will change")} />}
      <Hit app={app}>{t("Instances of a revision that has none start first; it gets its share when they are ready. No call fails.")}</Hit>
    </Confirm>
  );
}
