// The icons: strokes of one weight on a grid of sixteen.
const shapes = {
  home: "M2.5 7.5 8 3l5.5 4.5V13h-4V9.5h-3V13h-4z",
  apps: "M2.5 2.5h4.5v4.5H2.5zM9 2.5h4.5v4.5H9zM2.5 9h4.5v4.5H2.5zM9 9h4.5v4.5H9z",
  topology: "M4 4.5a1.5 1.5 0 1 0 0-.01M12 8a1.5 1.5 0 1 0 0-.01M4 12.5a1.5 1.5 0 1 0 0-.01M5 5.2l5.6 2.2M5 11.4l5.6-2.6",
  calls: "M2 8h2.5L6 3.5 9.5 12.5 11 8h3",
  components: "M8 2 13.5 5v6L8 14l-5.5-3V5zM2.5 5 8 8l5.5-3M8 8v6",
  jobs: "M8 2.5a5.5 5.5 0 1 0 .01 0M8 5v3.2l2.2 1.4",
  documents: "M4 1.8h5.5L12.5 5v9.2H4zM9.5 1.8V5h3M6 8h4.5M6 10.7h4.5",
  bases: "M2.5 3h11v4h-11zM2.5 9h11v4h-11zM5 5h.01M5 11h.01",
  search: "M7 2.5a4.5 4.5 0 1 0 .01 0M10.3 10.3l3.2 3.2",
  sun: "M8 5.2a2.8 2.8 0 1 0 .01 0M8 1.2v1.4M8 13.4v1.4M1.2 8h1.4M13.4 8h1.4M3.2 3.2l1 1M11.8 11.8l1 1M12.8 3.2l-1 1M4.2 11.8l-1 1",
  moon: "M13 9.6A5.6 5.6 0 0 1 6.4 3a5.6 5.6 0 1 0 6.6 6.6z",
  copy: "M5.5 5.5h8v8h-8zM10.5 5.5v-3h-8v8h3",
  terminal: "M2 3h12v10H2zM4.5 6l2 2-2 2M8.5 10.2h3",
  close: "M4 4l8 8M12 4l-8 8",
  warning: "M8 2.5 14.2 13H1.8zM8 6.5v3M8 11.3h.01",
  pause: "M5.5 3.5v9M10.5 3.5v9",
  play: "M5 3.2v9.6L12.5 8z",
  out: "M6.5 2.5h-4v11h4M10 5l3 3-3 3M13 8H6",
  chevron: "M6 4l4 4-4 4",
  restart: "M13 8a5 5 0 1 1-1.6-3.7M13 2.5v3h-3",
  undo: "M3 6h6.5a3.5 3.5 0 0 1 0 7H6M3 6l3-3M3 6l3 3",
} as const;

export type IconName = keyof typeof shapes;

export function Icon({ name, size = 16 }: { name: IconName; size?: number }) {
  return (
    <svg width={size} height={size} viewBox="0 0 16 16" fill="none" stroke="currentColor" strokeWidth="1.4" strokeLinecap="round" strokeLinejoin="round" aria-hidden="true">
      <path d={shapes[name]} />
    </svg>
  );
}
