// The lines that two texts differ in.
export interface DiffLine {
  kind: "same" | "add" | "del" | "gap";
  text: string;
}

/** Every line of both texts, by the longest common subsequence; long texts are compared by their middle only. */
export function diffLines(before: string, after: string): DiffLine[] {
  const [a, b] = [before.split("\n"), after.split("\n")];
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start += 1;
  let end = 0;
  while (end < a.length - start && end < b.length - start && a[a.length - 1 - end] === b[b.length - 1 - end]) end += 1;
  const [left, right] = [a.slice(start, a.length - end), b.slice(start, b.length - end)];
  const width = right.length + 1;
  const longest = new Uint32Array((left.length + 1) * width);
  for (let i = left.length - 1; i >= 0; i -= 1) {
    for (let j = right.length - 1; j >= 0; j -= 1) {
      const same = left[i] === right[j];
      longest[i * width + j] = same
        ? (longest[(i + 1) * width + j + 1] ?? 0) + 1
        : Math.max(longest[(i + 1) * width + j] ?? 0, longest[i * width + j + 1] ?? 0);
    }
  }
  const lines: DiffLine[] = a.slice(0, start).map((text) => ({ kind: "same", text }));
  let [i, j] = [0, 0];
  while (i < left.length || j < right.length) {
    if (i < left.length && j < right.length && left[i] === right[j]) {
      lines.push({ kind: "same", text: left[i] ?? "" });
      i += 1;
      j += 1;
    } else if (i < left.length && (j >= right.length || (longest[(i + 1) * width + j] ?? 0) >= (longest[i * width + j + 1] ?? 0))) {
      lines.push({ kind: "del", text: left[i] ?? "" });
      i += 1;
    } else {
      lines.push({ kind: "add", text: right[j] ?? "" });
      j += 1;
    }
  }
  return [...lines, ...a.slice(a.length - end).map((text): DiffLine => ({ kind: "same", text }))];
}

/** The same with long stretches that are equal left out. */
export function folded(lines: readonly DiffLine[], context = 3): DiffLine[] {
  const near = lines.map((_, at) => lines.slice(Math.max(0, at - context), at + context + 1).some((line) => line.kind !== "same"));
  const out: DiffLine[] = [];
  let skipped = 0;
  lines.forEach((line, at) => {
    if (near[at]) {
      if (skipped) out.push({ kind: "gap", text: `⋯ ${skipped}` });
      skipped = 0;
      out.push(line);
    } else skipped += 1;
  });
  if (skipped && out.length) out.push({ kind: "gap", text: `⋯ ${skipped}` });
  return out;
}
