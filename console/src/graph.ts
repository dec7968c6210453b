// Where the nodes of a graph of calls are drawn: callers to the left, what is called to the right, few crossings. The
// same graph is always laid out in the same way, so nothing jumps when a figure changes.
export interface Node {
  id: string;
  rank: number;
  x: number;
  y: number;
}

export interface Link {
  from: string;
  to: string;
}

export const RANK_GAP = 230;
export const ROW_GAP = 68;
/** A rank that is longer is split into columns; of many nodes it may be longer, so that the whole is not a ribbon. */
const MOST_ROWS = 28;
const SWEEPS = 6;

/** The rank of every node: one more than the highest of its callers; edges that would close a circle do not count. */
export function ranks(ids: readonly string[], links: readonly Link[]): Map<string, number> {
  const outgoing = new Map<string, string[]>(ids.map((id) => [id, []]));
  const incoming = new Map<string, number>(ids.map((id) => [id, 0]));
  for (const { from, to } of links) {
    if (from === to || !outgoing.has(from) || !outgoing.has(to)) continue;
    outgoing.get(from)?.push(to);
    incoming.set(to, (incoming.get(to) ?? 0) + 1);
  }
  const rank = new Map<string, number>(ids.map((id) => [id, 0]));
  const waiting = new Map(incoming);
  const done = new Set<string>();
  let ready = ids.filter((id) => waiting.get(id) === 0);
  while (done.size < ids.length) {
    if (ready.length === 0) {
      // A circle: begin with the one that waits for the fewest.
      const rest = ids.filter((id) => !done.has(id));
      ready = [rest.reduce((best, id) => ((waiting.get(id) ?? 0) < (waiting.get(best) ?? 0) ? id : best))];
    }
    const next: string[] = [];
    for (const id of ready) {
      if (done.has(id)) continue;
      done.add(id);
      for (const to of outgoing.get(id) ?? []) {
        if (done.has(to)) continue;
        rank.set(to, Math.max(rank.get(to) ?? 0, (rank.get(id) ?? 0) + 1));
        const left = (waiting.get(to) ?? 0) - 1;
        waiting.set(to, left);
        if (left === 0) next.push(to);
      }
    }
    ready = next;
  }
  return rank;
}

/** Lays a graph out. */
export function layOut(ids: readonly string[], links: readonly Link[]): Map<string, Node> {
  const sorted = [...ids].sort();
  const rank = ranks(sorted, links);
  const layers: string[][] = [];
  for (const id of sorted) {
    const at = rank.get(id) ?? 0;
    layers[at] ??= [];
    layers[at]?.push(id);
  }
  const neighbours = new Map<string, string[]>(sorted.map((id) => [id, []]));
  for (const { from, to } of links) {
    neighbours.get(from)?.push(to);
    neighbours.get(to)?.push(from);
  }
  const place = new Map<string, number>();
  const renew = (layer: string[]) => layer.forEach((id, at) => place.set(id, at / Math.max(1, layer.length - 1)));
  for (const layer of layers) renew(layer ?? []);
  for (let sweep = 0; sweep < SWEEPS; sweep += 1) {
    const order = sweep % 2 ? [...layers].reverse() : layers;
    for (const layer of order) {
      const mean = (id: string) => {
        const near = (neighbours.get(id) ?? []).filter((other) => rank.get(other) !== rank.get(id));
        if (near.length === 0) return place.get(id) ?? 0;
        return near.reduce((sum, other) => sum + (place.get(other) ?? 0), 0) / near.length;
      };
      const means = new Map(layer.map((id) => [id, mean(id)]));
      layer.sort((a, b) => (means.get(a) ?? 0) - (means.get(b) ?? 0) || a.localeCompare(b));
      renew(layer);
    }
  }
  const nodes = new Map<string, Node>();
  const most = Math.max(MOST_ROWS, Math.ceil(Math.sqrt(sorted.length * 2)));
  let x = 0;
  for (const [at, layer] of layers.entries()) {
    const wide = Math.ceil(layer.length / most);
    const rows = Math.ceil(layer.length / wide);
    layer.forEach((id, index) => {
      const column = Math.floor(index / rows);
      const inColumn = Math.min(rows, layer.length - column * rows);
      nodes.set(id, { id, rank: at, x: x + column * RANK_GAP, y: ((index % rows) - (inColumn - 1) / 2) * ROW_GAP });
    });
    x += wide * RANK_GAP + (layer.length > 1 ? 20 : 0);
  }
  return nodes;
}
