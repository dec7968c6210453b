// Lines over time: one chart with axes, and a spark without.
import { useEffect, useRef } from "react";
import uPlot from "uplot";
import type { Point, Range } from "../api/schema";
import { useIsDark, useLanguage } from "../settings";
import { type Key, t } from "../text/text";

/** What of a point a line shows. */
export interface Line {
  label: Key | "";
  colour: "--series-1" | "--series-2" | "--series-3" | "--bad" | "--dim";
  value: (point: Point, step: number) => number | null;
  fill?: boolean;
}

/** Columns for every step of the range; a step without a point is what the line says of an empty one. */
export function columns(points: readonly Point[], range: Range, lines: readonly Line[]): (number | null)[][] {
  const { step } = range;
  const first = Math.ceil(range.from / step) * step;
  const at = new Map<number, Point>();
  for (const point of points) {
    const last = Math.floor(point[0] / step) * step;
    // What was read late stands for the steps that it has waited for, too.
    const steps = Math.max(1, Math.round(point[7] / 1000 / step));
    for (let back = 0; back < steps; back += 1) if (!at.has(last - back * step)) at.set(last - back * step, point);
  }
  const times: number[] = [];
  const values: (number | null)[][] = lines.map(() => []);
  // The last step has not ended yet.
  for (let second = first; second <= range.to - (step > 1 ? step : 0); second += step) {
    times.push(second);
    const point = at.get(second);
    lines.forEach((line, index) => values[index]?.push(line.value(point ?? [second, 0, 0, 0, 0, 0, 0, 0], step)));
  }
  return [times, ...values];
}

const colour = (name: string) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

interface ChartProps {
  points: readonly Point[] | undefined;
  range: Range | undefined;
  lines: readonly Line[];
  format: (value: number) => string;
  label: string;
  height?: number;
  /** Between the marks of the axis, where tens look odd. */
  steps?: readonly number[];
}

export function Chart({ points, range, lines, format, label, height = 170, steps }: ChartProps) {
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const dark = useIsDark();
  const language = useLanguage();
  const data = points && range ? columns(points, range, lines) : null;
  const isEmpty = !data || data.slice(1).every((column) => column.every((value) => !value));
  const latest = useRef(data);
  latest.current = data;

  useEffect(() => {
    const box = place.current;
    if (!box) return;
    const axis = {
      stroke: colour("--dim"),
      grid: { stroke: colour("--line"), width: 1 },
      ticks: { show: false },
      font: "11px system-ui, sans-serif",
    };
    const made = new uPlot(
      {
        width: box.clientWidth || 400,
        height,
        cursor: { y: false, points: { size: 6 } },
        legend: { show: false },
        padding: [8, 8, 0, 0],
        scales: { y: { range: (_, __, top) => [0, top > 0 ? top * 1.12 : 1] } },
        axes: [
          { ...axis, size: 24, space: 70, values: (_, ticks) => ticks.map((tick) => new Date(tick * 1000).toLocaleTimeString("en-GB").slice(0, tick % 60 ? 8 : 5)) },
          { ...axis, size: 58, space: 30, ...(steps ? { incrs: [...steps] } : {}), values: (_, ticks) => ticks.map((tick) => format(tick)) },
        ],
        series: [
          {},
          ...lines.map((line) => ({
            label: line.label,
            stroke: colour(line.colour),
            width: 1.5,
            points: { show: false },
            ...(line.fill ? { fill: `${colour(line.colour)}22` } : {}),
          })),
        ],
        hooks: {
          setCursor: [
            (self) => {
              const index = self.cursor.idx;
              const texts = lines.map((line, at) => {
                const value = index === null || index === undefined ? null : self.data[at + 1]?.[index];
                return `${line.label && t(line.label)} ${value === null || value === undefined ? "–" : format(value)}`;
              });
              const second = index === null || index === undefined ? undefined : self.data[0]?.[index];
              box.title = second ? `${new Date(second * 1000).toLocaleTimeString("en-GB")}  ${texts.join("  ")}` : "";
            },
          ],
        },
      },
      (latest.current ?? [[], ...lines.map(() => [])]) as uPlot.AlignedData,
      box,
    );
    plot.current = made;
    const resized = new ResizeObserver(() => made.setSize({ width: box.clientWidth, height }));
    resized.observe(box);
    return () => {
      resized.disconnect();
      made.destroy();
      plot.current = null;
    };
    // The lines of one chart do not change while it is shown.
  }, [dark, language, height]);

  useEffect(() => {
    if (data) plot.current?.setData(data as uPlot.AlignedData);
  });

  return (
    <figure>
      <div className="chart" ref={place} role="img" aria-label={label}>
        {isEmpty && <div className="chart-empty">{data ? t("No calls in this time") : t("Loading…")}</div>}
      </div>
    </figure>
  );
}

export function Legend({ lines }: { lines: readonly Line[] }) {
  return (
    <div className="legend" aria-hidden="true">
      {lines.map((line) => (
        <span key={line.label}>
          <i style={{ background: `var(${line.colour})` }} />
          {line.label && t(line.label)}
        </span>
      ))}
    </div>
  );
}

/** A small line of calls over the range, errors under it in red. */
export function Spark({ points, range }: { points: readonly Point[]; range: Range }) {
  const slots = 60;
  const width = (range.to - range.from) / slots || 1;
  const calls = new Array<number>(slots).fill(0);
  const errors = new Array<number>(slots).fill(0);
  for (const [second, count, failed] of points) {
    const slot = Math.min(slots - 1, Math.max(0, Math.floor((second - range.from) / width)));
    calls[slot] = (calls[slot] ?? 0) + count;
    errors[slot] = (errors[slot] ?? 0) + failed;
  }
  const top = Math.max(1, ...calls);
  const path = (values: number[]) => values.map((value, at) => `${at ? "L" : "M"}${(at * 100) / (slots - 1)} ${31 - (value / top) * 28}`).join("");
  return (
    <svg className="spark" viewBox="0 0 100 34" preserveAspectRatio="none" aria-hidden="true">
      <path d={`${path(calls)}L100 34L0 34Z`} fill="var(--series-1)" opacity="0.12" />
      <path d={path(calls)} fill="none" stroke="var(--series-1)" strokeWidth="1.4" vectorEffect="non-scaling-stroke" />
      {errors.some((count) => count > 0) && <path d={path(errors)} fill="none" stroke="var(--bad)" strokeWidth="1.4" vectorEffect="non-scaling-stroke" />}
    </svg>
  );
}
