// What types of components can do, block by block, and what the components of each type do.
import type { Blocks, Component, ComponentType } from "../api/schema";
import { short } from "../format";
import { Panel } from "../parts/basic";
import { A } from "../route";
import { t } from "../text/text";

export type Block = keyof Blocks;

/** What is asked of each block: the name of the API, and how a person reads it. */
function columnsOf(block: Block): [name: string, heading: string][] {
  switch (block) {
    case "state":
      return [
        ["etag", t("Etags")],
        ["first_write", t("First write wins")],
        ["transaction", t("Transactions")],
        ["ttl", t("Time to live")],
        ["list", t("Lists keys")],
        ["content_type", t("Keeps the content type")],
        ["durable", t("Survives the process")],
      ];
    case "pubsub":
      return [
        ["ordered", t("Keeps the order")],
        ["ttl", t("Time to live")],
        ["bulk_publish", t("Publishes many in one step")],
        ["durable", t("Survives the process")],
      ];
    case "configuration":
      return [["write", t("Written from here")]];
    case "secrets":
      return [["multiple_values", t("Several values in one secret")]];
    case "lock":
      return [["list", t("Lists locks")]];
    case "bindings":
      return [
        ["input", t("Tells apps (input)")],
        ["operations", t("Operations (output)")],
      ];
  }
}

const BLOCKS: Block[] = ["state", "pubsub", "configuration", "secrets", "lock", "bindings"];

const titleOf = (block: Block) =>
  ({ state: t("Key-value state"), pubsub: t("Messages"), configuration: t("Configuration"), secrets: t("Secrets"), lock: t("Locks"), bindings: t("Bindings") })[block];

/** What holds for every type of a block. */
const noteOf = (block: Block) =>
  ({
    state: t("Bulk reads and writes work with every store. Queries and actors work with none."),
    pubsub: t("Bulk publishing and bulk subscriptions work with every broker. Where the broker itself knows no time to live, a message that is late is dropped at delivery."),
    configuration: "",
    secrets: t("A file has several values in one secret where its component says multiValued."),
    lock: "",
    bindings: "",
  })[block];

type Can = Record<string, unknown>;

interface Row {
  type: string;
  versions: string[];
  can: Can;
  components: Component[];
}

/** The types that serve a block, with the components of each. Versions of a type that can do the same are one row. */
export function rowsOf(block: Block, types: ComponentType[], items: Component[]): Row[] {
  const rows: Row[] = [];
  for (const { type, version, blocks } of types) {
    const can = blocks[block] as Can | null | undefined;
    if (!can) continue;
    const components = items.filter((one) => one.type === type && (one.version || "v1") === version);
    const same = rows.find((row) => row.type === type && JSON.stringify(row.can) === JSON.stringify(can));
    if (same) {
      same.versions.push(version);
      same.components.push(...components);
    } else rows.push({ type, versions: [version], can, components });
  }
  return rows;
}

function Cells({ block, can }: { block: Block; can: Can }) {
  return columnsOf(block).map(([name]) => {
    const value = can[name];
    if (Array.isArray(value) && value.length) {
      return (
        <td key={name} className="mono">
          {value.join(", ")}
        </td>
      );
    }
    const has = value === true;
    return (
      <td key={name} className={has ? "yes" : "no"}>
        <span role="img" aria-label={has ? t("yes") : t("no")}>
          {has ? "✓" : "–"}
        </span>
      </td>
    );
  });
}

function Table({ block, rows }: { block: Block; rows: Row[] }) {
  const columns = columnsOf(block);
  const as = (one: Component) => (one.blocks ? ((one.blocks[block] as Can | null | undefined) ?? {}) : null);
  return (
    <div className="scroll-x">
      <table className="matrix">
        <caption>{titleOf(block)}</caption>
        <thead>
          <tr>
            <th scope="col">{t("Type")}</th>
            {columns.map(([name, heading]) => (
              <th key={name} scope="col">
                {heading}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.flatMap((row) => [
            <tr key={`${row.type} ${row.versions.join()}`}>
              <th scope="row" className="mono">
                {row.type} <span className="dim">{row.versions.join(", ")}</span>
              </th>
              <Cells block={block} can={row.can} />
            </tr>,
            ...row.components.map((one) => {
              const can = as(one);
              return (
                <tr key={`${one.namespace}/${one.name}`} className="of">
                  <th scope="row">
                    <A className="link" to={`/components/${one.namespace}/${encodeURIComponent(one.name)}`}>
                      {short(`${one.namespace}/${one.name}`)}
                    </A>
                  </th>
                  {can ? (
                    <Cells block={block} can={can} />
                  ) : (
                    <td colSpan={columns.length} className="dim">
                      {t("It is not open now.")}
                    </td>
                  )}
                </tr>
              );
            }),
          ])}
        </tbody>
      </table>
      {noteOf(block) && <p className="dim note">{noteOf(block)}</p>}
    </div>
  );
}

/** What the drivers of this build can do, and what the components that are configured do. */
export function Matrix({ types, items }: { types: ComponentType[]; items: Component[] }) {
  return (
    <Panel title={t("What types and components can do")} flush>
      {BLOCKS.map((block) => ({ block, rows: rowsOf(block, types, items) }))
        .filter(({ rows }) => rows.length > 0)
        .map(({ block, rows }) => (
          <Table key={block} block={block} rows={rows} />
        ))}
    </Panel>
  );
}
