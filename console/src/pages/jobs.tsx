// Jobs: what apps have asked to be told later, when each runs next, how its last run ended; and an end to one.
import { useState } from "react";
import { ask } from "../api/client";
import { useApi } from "../api/live";
import type { Job } from "../api/schema";
import { appPath } from "../apps";
import { age, forgetting, moment, quoted, short } from "../format";
import { Badge, Cli, Confirm, Dot, Empty, Failed, Failure, Head, Panel, toast, usePages, Waiting } from "../parts/basic";
import { A, useField } from "../route";
import { t } from "../text/text";

const EVERY_MS = 3000;
const EXAMPLE = `curl -X POST -H "dapr-api-token: $DAPR_API_TOKEN" $DAPR_HTTP_ENDPOINT/v1.0/jobs/report -d '{"schedule": "@every 1m", "data": "hello"}'`;

const keyOf = (job: Job) => `${job.base ?? ""} ${job.app} ${job.name}`;

export function Jobs() {
  const [app, setApp] = useField("of");
  const pages = usePages();
  const apps = useApi("documents", { kind: "App" }, ["documents"]);
  const got = useApi("jobs", { ...(app ? { app } : {}), ...pages.from }, ["none"], EVERY_MS);
  const [opened, setOpened] = useState<Job | null>(null);
  const names = (apps.value?.items ?? []).map((one) => `${one.metadata.namespace ?? "default"}/${one.metadata.name}`);
  const items = got.value?.items ?? [];
  const isSpread = items.some((job) => job.base);
  return (
    <div className="stack">
      <Head title={t("Jobs")} sub={t("What apps have asked to be told later, once or again and again")}>
        <select
          className="select"
          aria-label={t("App")}
          value={app}
          onChange={(event) => {
            pages.begin();
            setApp(event.target.value);
          }}
        >
          <option value="">{t("All apps")}</option>
          {[...new Set([...names, ...(app ? [app] : [])])].sort().map((name) => (
            <option key={name} value={name}>
              {short(name)}
            </option>
          ))}
        </select>
        <Cli text={app ? `dodai job list ${quoted(short(app))}` : "dodai job list"} />
      </Head>
      {got.error && got.value && <Failure error={got.error} />}
      <Panel flush>
        <Failed failed={got.value?.failed} />
        {!got.value ? (
          <Waiting error={got.error} />
        ) : items.length === 0 ? (
          <Empty title={t("No jobs")} command={EXAMPLE}>
            {t("Apps schedule jobs by their runtime API:")}
          </Empty>
        ) : (
          <div className="scroll-x">
            <table>
              <thead>
                <tr>
                  <th>{t("App")}</th>
                  <th>{t("Job")}</th>
                  {isSpread && <th>{t("Base")}</th>}
                  <th>{t("When")}</th>
                  <th>{t("Next run")}</th>
                  <th className="right">{t("Runs")}</th>
                  <th>{t("Last run")}</th>
                  <th />
                </tr>
              </thead>
              <tbody>
                {items.map((job) => (
                  <tr key={keyOf(job)}>
                    <td>
                      <A className="link" to={appPath(job.app)}>
                        {short(job.app)}
                      </A>
                    </td>
                    <td className="mono">{job.name}</td>
                    {isSpread && <td>{job.base}</td>}
                    <td className="mono">{job.schedule ?? job.due_time ?? "–"}</td>
                    <td>
                      <Next job={job} />
                    </td>
                    <td className="right num nowrap">{job.repeats === null ? job.ticks : t("{count} of {all}", { count: job.ticks, all: job.repeats })}</td>
                    <td>
                      <Last job={job} />
                    </td>
                    <td className="right">
                      <button type="button" className="button small danger" aria-label={t("Delete {name} of {app}", { name: job.name, app: short(job.app) })} onClick={() => setOpened(job)}>
                        {t("Delete…")}
                      </button>
                    </td>
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
        )}
        {pages.ways(got.value?.next)}
      </Panel>
      {opened && <Delete job={opened} onClose={() => setOpened(null)} onDone={got.again} />}
    </div>
  );
}

/** When it runs next, or for how long it has been due. */
function Next({ job }: { job: Job }) {
  const isLate = job.next_ms < Date.now() - EVERY_MS;
  return (
    <span className="row wrap" title={moment(job.next_ms)}>
      {isLate ? <Badge tone="warn">{t("due for {time}", { time: age(job.next_ms) })}</Badge> : <span className="num nowrap">{t("in {time}", { time: age(Date.now(), job.next_ms) })}</span>}
      {job.failures > 0 && <Badge tone="bad">{t("failed {count} times", { count: job.failures })}</Badge>}
    </span>
  );
}

/** How the last run ended. */
function Last({ job }: { job: Job }) {
  if (job.last_ms === null) return <span className="dim">{t("has not run yet")}</span>;
  return (
    <span className="row" title={moment(job.last_ms)}>
      <Dot tone={job.problem === null ? "good" : "bad"} />
      <span>{job.problem ?? t("The app took it")}</span>
      <span className="dim num nowrap">{t("{age} ago", { age: age(job.last_ms) })}</span>
    </span>
  );
}

function Delete({ job, onClose, onDone }: { job: Job; onClose: () => void; onDone: () => void }) {
  const [namespace = "", app = ""] = job.app.split("/");
  const run = async () => {
    await ask("deleteJob", { namespace, app, job: job.name, ...(job.base ? { base: job.base } : {}) });
    toast(t("Deleted"));
    onDone();
  };
  return (
    <Confirm title={t("Delete job {name}", { name: job.name })} word={job.name} action={t("Delete")} command={forgetting(job.app, job.name, job.base)} run={run} onClose={onClose} danger>
      <p>{t("{app} is not told, and the job does not run any more. A run that is under way goes on.", { app: short(job.app) })}</p>
    </Confirm>
  );
}
