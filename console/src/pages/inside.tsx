// Inside of components: what waits in topics, dead letters that go back, and locks.
import { useState } from "react";
import { ask } from "../api/client";
import { useApi } from "../api/live";
import type { Component, HeldLock, TopicGroup, WaitingMessage } from "../api/schema";
import { age, bytes, duration, listing, moment, peeking, posted, publishing, releasing, replaying } from "../format";
import { Badge, Cli, Confirm, Empty, Failed, Failure, Panel, toast, usePages } from "../parts/basic";
import { t } from "../text/text";
import { pretty } from "./components";

const EVERY_MS = 3000;

/** A group in words: what waits for the first has no name. */
const groupName = (group: string) => group || t("nobody yet");

/** Topics that take dead letters, and whose: each base knows the subscriptions of its own apps. */
export function deadLetters(items: Pick<TopicGroup, "topic" | "dead_letters_of">[]): Map<string, string[]> {
  const all = new Map<string, string[]>();
  // A base of an earlier version does not tell.
  for (const { topic, dead_letters_of = [] } of items) {
    if (dead_letters_of.length > 0) all.set(topic, [...new Set([...(all.get(topic) ?? []), ...dead_letters_of])].sort());
  }
  return all;
}

export function Topics({ one }: { one: Component }) {
  const got = useApi("topics", { pubsub: one.name, namespace: one.namespace }, ["node"], EVERY_MS);
  const [opened, setOpened] = useState<TopicGroup | null>(null);
  const items = got.value?.items ?? [];
  const same = (row: TopicGroup) => opened?.topic === row.topic && opened.group === row.group && opened.base === row.base;
  const isSpread = items.some((row) => row.base);
  const dead = deadLetters(items);
  const deadOf = (topic: string) => dead.get(topic) ?? [];
  return (
    <div className="columns">
      <Panel title={t("Topics and who has yet to settle what")} actions={<Cli text={listing("topic", one)} />} flush>
        {got.error && <Failure error={got.error} />}
        <Failed failed={got.value?.failed} />
        {got.value && items.length === 0 && <Empty title={t("No topics yet")} command={publishing(one.name, one.namespace, "TOPIC", '{"hello": "world"}')} />}
        {items.length > 0 && (
          <div className="scroll-x">
            <table>
              <thead>
                <tr>
                  <th>{t("Topic")}</th>
                  <th>{t("Group")}</th>
                  {isSpread && <th>{t("Base")}</th>}
                  <th className="right">{t("Waiting")}</th>
                  <th className="right">{t("In delivery")}</th>
                  <th />
                </tr>
              </thead>
              <tbody>
                {items.map((row) => (
                  <tr key={`${row.base ?? ""} ${row.topic} ${row.group}`} className={same(row) ? "picked" : ""}>
                    <td>
                      <span className="row wrap">
                        <span className="mono">{row.topic}</span>
                        {deadOf(row.topic).length > 0 && <Badge tone="warn">{t("dead letters of {topics}", { topics: deadOf(row.topic).join(", ") })}</Badge>}
                      </span>
                    </td>
                    <td>{groupName(row.group)}</td>
                    {isSpread && <td>{row.base}</td>}
                    <td className="right num">{row.pending}</td>
                    <td className="right num">{row.in_delivery}</td>
                    <td className="right">
                      <button type="button" className="button small" aria-pressed={same(row)} aria-label={t("Look at {topic} of {group}", { topic: row.topic, group: groupName(row.group) })} onClick={() => setOpened(same(row) ? null : row)}>
                        {t("Look")}
                      </button>
                    </td>
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
        )}
      </Panel>
      {opened && <Messages key={`${opened.base ?? ""} ${opened.topic} ${opened.group}`} one={one} of={opened} />}
    </div>
  );
}

/** The topic that a message was published to first, as its envelope says; empty if that is not known. */
export function topicOf(text: string | null): string {
  try {
    const topic = (JSON.parse(text ?? "") as { topic?: unknown } | null)?.topic;
    return typeof topic === "string" ? topic : "";
  } catch {
    return "";
  }
}

function Messages({ one, of }: { one: Component; of: TopicGroup }) {
  const pages = usePages();
  const place = { pubsub: one.name, topic: of.topic, namespace: one.namespace, group: of.group, ...(of.base ? { base: of.base } : {}) };
  const got = useApi("peek", { ...place, limit: 20, ...pages.from }, ["none"], EVERY_MS);
  const [again, setAgain] = useState<WaitingMessage | null>(null);
  return (
    <Panel title={<span className="mono">{of.topic}</span>} actions={<Cli text={peeking(one, of)} />} flush>
      {got.error && <Failure error={got.error} />}
      {got.value && got.value.items.length === 0 && <Empty title={t("Nothing waits")}>{t("{group} has settled all of it.", { group: groupName(of.group) })}</Empty>}
      <ul className="list">
        {got.value?.items.map((message) => (
          <li key={message.id} className="stack tight">
            <div className="spread">
              <div className="row wrap">
                <code>{message.id}</code>
                <span className="dim" title={moment(message.published_ms)}>
                  {age(message.published_ms)}
                </span>
                {message.in_delivery ? <Badge tone="accent">{t("in delivery")}</Badge> : message.attempt > 0 && <Badge tone="warn">{t("{count} tries", { count: message.attempt })}</Badge>}
                <span className="dim">{[message.content_type, bytes(message.bytes)].filter(Boolean).join(", ")}</span>
              </div>
              <button type="button" className="button small" disabled={message.in_delivery} onClick={() => setAgain(message)}>
                {t("Replay…")}
              </button>
            </div>
            <pre className="value" tabIndex={0} aria-label={t("Data")}>
              {message.text === null ? t("These bytes are no text.") : pretty(message.text)}
            </pre>
          </li>
        ))}
      </ul>
      {pages.ways(got.value?.next)}
      {again && <Replay one={one} of={of} message={again} onClose={() => setAgain(null)} onDone={got.again} />}
    </Panel>
  );
}

function Replay({ one, of, message, onClose, onDone }: { one: Component; of: TopicGroup; message: WaitingMessage; onClose: () => void; onDone: () => void }) {
  const [to, setTo] = useState(topicOf(message.text));
  const run = async () => {
    const place = { pubsub: one.name, topic: of.topic, namespace: one.namespace, ...(of.base ? { base: of.base } : {}) };
    await ask("replay", place, { group: of.group, id: message.id, to });
    toast(t("Moved to {topic}", { topic: to }));
    onDone();
  };
  return (
    <Confirm title={t("Replay message {id}", { id: message.id })} word={to || "\u0000"} shown={to || t("Topic")} action={t("Replay")} command={replaying(one, of, message.id, to || "TOPIC")} run={run} onClose={onClose}>
      <label className="field">
        <span>{t("To topic")}</span>
        <input className="input mono" value={to} onChange={(event) => setTo(event.target.value)} spellCheck={false} />
      </label>
      <p>{t("It goes to every group of {to}, also to those that have seen it there before, and leaves {topic} (group: {group}). Both in one step: it is neither lost nor doubled.", { to: to || "–", topic: of.topic, group: groupName(of.group) })}</p>
      <pre className="value">{message.text === null ? t("These bytes are no text.") : pretty(message.text)}</pre>
    </Confirm>
  );
}

export function Locks({ one }: { one: Component }) {
  const pages = usePages();
  const got = useApi("locks", { store: one.name, namespace: one.namespace, ...pages.from }, ["none"], EVERY_MS);
  const [taken, setTaken] = useState<HeldLock | null>(null);
  const unlock = async () => {
    if (!taken) return;
    const { resource, owner, base } = taken;
    await ask("unlock", { store: one.name, resource, namespace: one.namespace, owner, ...(base ? { base } : {}) });
    toast(t("Released"));
    got.again();
  };
  return (
    <Panel title={t("Locks in {store}", { store: one.name })} actions={<Cli text={listing("lock", one)} />} flush>
      {got.error && <Failure error={got.error} />}
      <Failed failed={got.value?.failed} />
      {got.value && got.value.items.length === 0 && (
        <Empty title={t("No lock is held")} command={posted(`v1.0-alpha1/lock/${encodeURIComponent(one.name)}`, { resourceId: "job", lockOwner: "me", expiryInSeconds: 60 })}>
          {t("Apps lock by their runtime API. In a shell that an app starts:")}
        </Empty>
      )}
      <ul className="list">
        {got.value?.items.map((lock) => (
          <li key={`${lock.base ?? ""} ${lock.resource}`} className="spread">
            <div className="row wrap">
              <code>{lock.resource}</code>
              <span>{lock.owner}</span>
              {lock.base && <span className="dim">{lock.base}</span>}
              <span className="dim num">{t("for {time} yet", { time: duration(lock.left_ms * 1000) })}</span>
            </div>
            <button type="button" className="button small danger" onClick={() => setTaken(lock)}>
              {t("Release…")}
            </button>
          </li>
        ))}
      </ul>
      {pages.ways(got.value?.next)}
      {taken && (
        <Confirm title={t("Release {resource}", { resource: taken.resource })} word={taken.resource} action={t("Release")} command={releasing(one, taken)} run={unlock} onClose={() => setTaken(null)} danger>
          <p>{t("{owner} does not know that it has lost the lock, and goes on. Somebody else can take it at once.", { owner: taken.owner })}</p>
        </Confirm>
      )}
    </Panel>
  );
}
