// Draws the graph of calls on a canvas: only what can be seen, and only when something moves or changes.
import { type Node, layOut } from "../graph";

export interface SceneNode {
  id: string;
  label: string;
  note: string;
  tone: "good" | "warn" | "bad" | "accent" | "plain";
}

export interface SceneEdge {
  from: string;
  to: string;
  /** Calls per second. */
  rate: number;
  /** The share of errors. */
  errors: number;
  /** No calls: one is the place of the other. */
  dashed?: boolean;
}

export type Hit = { node: string } | { edge: SceneEdge } | null;

const WIDTH = 150;
const HEIGHT = 42;
/** Half the width of an edge from a node to itself. */
const LOOP = 28;
/** Around the box of a node, for the width of its line. */
const MARGIN = 2;
const NEAR_PX = 7;
const DASHES = [4, 5];
const ZOOM = { least: 0.08, most: 2.5 };

interface Colours {
  panel: string;
  line: string;
  strong: string;
  text: string;
  dim: string;
  good: string;
  warn: string;
  bad: string;
  accent: string;
}

function colours(): Colours {
  const style = getComputedStyle(document.documentElement);
  const of = (name: string) => style.getPropertyValue(name).trim();
  return {
    panel: of("--panel"),
    line: of("--line"),
    strong: of("--line-strong"),
    text: of("--text"),
    dim: of("--dim"),
    good: of("--good"),
    warn: of("--warn"),
    bad: of("--bad"),
    accent: of("--series-1"),
  };
}

type Curve = readonly [x0: number, y0: number, x1: number, y1: number, x2: number, y2: number, x3: number, y3: number];

function at([x0, y0, x1, y1, x2, y2, x3, y3]: Curve, u: number): [number, number] {
  const v = 1 - u;
  const [a, b, c, d] = [v * v * v, 3 * v * v * u, 3 * v * u * u, u * u * u];
  return [a * x0 + b * x1 + c * x2 + d * x3, a * y0 + b * y1 + c * y2 + d * y3];
}

export class Scene {
  private nodes: SceneNode[] = [];
  private edges: SceneEdge[] = [];
  private places = new Map<string, Node>();
  private shape = "";
  private view = { x: 0, y: 0, zoom: 1 };
  private isFitted = false;
  /** Whether somebody has chosen what is seen. */
  private isMoved = false;
  private colours = colours();
  private frame = 0;
  private gone = false;
  private chosen: Hit = null;
  private readonly still = matchMedia("(prefers-reduced-motion: reduce)");
  /** Frames drawn, and what the last one had: for those who measure. */
  frames = 0;
  drawn = { labels: 0, dots: 0 };

  constructor(private readonly canvas: HTMLCanvasElement) {
    this.draw = this.draw.bind(this);
  }

  show(nodes: SceneNode[], edges: SceneEdge[]) {
    this.nodes = nodes;
    this.edges = edges;
    const shape = [...nodes.map((node) => node.id), "|", ...edges.map((edge) => `${edge.from}>${edge.to}`)].join(" ");
    if (shape !== this.shape) {
      this.shape = shape;
      this.places = layOut(
        nodes.map((node) => node.id),
        edges,
      );
      if (!this.isFitted || !this.isMoved) this.fit();
    }
    this.wake();
  }

  choose(hit: Hit) {
    this.chosen = hit;
    this.wake();
  }

  recolour() {
    this.colours = colours();
    this.wake();
  }

  /** Makes all of it visible. */
  fit() {
    const { clientWidth, clientHeight } = this.canvas;
    if (!clientWidth || this.places.size === 0) return;
    const xs = [...this.places.values()].map((node) => node.x);
    const ys = [...this.places.values()].map((node) => node.y);
    const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    const zoom = Math.min(1.1, (clientWidth - 60) / (right - left + WIDTH), (clientHeight - 60) / (bottom - top + HEIGHT));
    this.view = { zoom: Math.max(ZOOM.least, zoom), x: (left + right) / 2, y: (top + bottom) / 2 };
    this.isFitted = true;
    this.isMoved = false;
    this.wake();
  }

  move(dx: number, dy: number) {
    this.isMoved = true;
    this.view.x -= dx / this.view.zoom;
    this.view.y -= dy / this.view.zoom;
    this.wake();
  }

  zoom(factor: number, px: number, py: number) {
    this.isMoved = true;
    const before = this.toWorld(px, py);
    this.view.zoom = Math.min(ZOOM.most, Math.max(ZOOM.least, this.view.zoom * factor));
    const after = this.toWorld(px, py);
    this.view.x += before[0] - after[0];
    this.view.y += before[1] - after[1];
    this.wake();
  }

  private toWorld(px: number, py: number): [number, number] {
    const { clientWidth, clientHeight } = this.canvas;
    return [(px - clientWidth / 2) / this.view.zoom + this.view.x, (py - clientHeight / 2) / this.view.zoom + this.view.y];
  }

  /** What is at a point of the canvas. */
  hit(px: number, py: number): Hit {
    const [x, y] = this.toWorld(px, py);
    for (const node of this.nodes) {
      const place = this.places.get(node.id);
      if (place && Math.abs(place.x - x) < WIDTH / 2 && Math.abs(place.y - y) < HEIGHT / 2) return { node: node.id };
    }
    const near = NEAR_PX / this.view.zoom;
    for (const edge of this.edges) {
      const curve = edge.dashed ? null : this.curve(edge);
      if (!curve) continue;
      for (let u = 0.05; u < 1; u += 0.05) {
        const [cx, cy] = at(curve, u);
        if (Math.hypot(cx - x, cy - y) < near) return { edge };
      }
    }
    return null;
  }

  private curve(edge: SceneEdge): Curve | null {
    const [from, to] = [this.places.get(edge.from), this.places.get(edge.to)];
    if (!from || !to) return null;
    if (edge.from === edge.to) {
      // From its top and back to it.
      const [x, y] = [from.x, from.y - HEIGHT / 2];
      return [x - LOOP, y, x - LOOP, y - 60, x + LOOP, y - 60, x + LOOP, y];
    }
    const forward = to.x > from.x;
    const [x0, x3] = forward ? [from.x + WIDTH / 2, to.x - WIDTH / 2] : [from.x, to.x];
    const [y0, y3] = forward ? [from.y, to.y] : [from.y - HEIGHT / 2, to.y - HEIGHT / 2];
    if (!forward) return [x0, y0, x0, y0 - 60, x3, y3 - 60, x3, y3];
    const bend = Math.max(40, (x3 - x0) / 2);
    return [x0, y0, x0 + bend, y0, x3 - bend, y3, x3, y3];
  }

  wake() {
    if (!this.frame && !this.gone) this.frame = requestAnimationFrame(this.draw);
  }

  end() {
    this.gone = true;
    cancelAnimationFrame(this.frame);
  }

  private draw(now: number) {
    this.frame = 0;
    this.frames += 1;
    this.drawn = { labels: 0, dots: 0 };
    const { canvas, view } = this;
    const context = canvas.getContext("2d");
    if (!context) return;
    const ratio = devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
      if (!this.isFitted) this.fit();
    }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    context.translate(width / 2, height / 2);
    context.scale(view.zoom, view.zoom);
    context.translate(-view.x, -view.y);
    const [left, top] = this.toWorld(0, 0);
    const [right, bottom] = this.toWorld(width, height);
    const moves = this.drawEdges(context, now, left, right, top, bottom);
    this.drawNodes(context, left, right, top, bottom);
    // Dots that show the direction move on as long as something is called.
    if (moves && !this.still.matches) this.wake();
  }

  private drawEdges(context: CanvasRenderingContext2D, now: number, left: number, right: number, top: number, bottom: number): boolean {
    const { colours: c, view } = this;
    let moves = false;
    const dots = view.zoom > 0.3;
    const shown: [SceneEdge, Curve][] = [];
    for (const edge of this.edges) {
      const curve = this.curve(edge);
      if (!curve) continue;
      if (Math.max(curve[0], curve[6]) < left || Math.min(curve[0], curve[6]) > right) continue;
      if (Math.max(curve[1], curve[7]) < top - 60 || Math.min(curve[1], curve[7]) > bottom + 60) continue;
      shown.push([edge, curve]);
    }
    for (const [edge, curve] of shown) {
      const isChosen = this.chosen !== null && "edge" in this.chosen && this.chosen.edge.from === edge.from && this.chosen.edge.to === edge.to;
      context.beginPath();
      context.moveTo(curve[0], curve[1]);
      context.bezierCurveTo(curve[2], curve[3], curve[4], curve[5], curve[6], curve[7]);
      // However small all of it is, a line can be seen.
      context.lineWidth = Math.max(Math.min(6, 1 + Math.log10(1 + edge.rate) * 1.2) * (isChosen ? 1.8 : 1), 0.5 / view.zoom);
      context.strokeStyle = edge.errors > 0.01 ? c.bad : isChosen ? c.accent : c.strong;
      if (edge.dashed) context.setLineDash(DASHES);
      context.stroke();
      if (edge.dashed) context.setLineDash([]);
    }
    if (!dots) return false;
    for (const [edge, curve] of shown) {
      if (edge.rate <= 0) continue;
      moves = true;
      const count = Math.min(4, 1 + Math.floor(Math.log10(1 + edge.rate)));
      context.fillStyle = edge.errors > 0.01 ? c.bad : c.accent;
      this.drawn.dots += count;
      for (let dot = 0; dot < count; dot += 1) {
        const [x, y] = at(curve, ((now / 2200 + dot / count) % 1 + 1) % 1);
        context.fillRect(x - 2, y - 2, 4, 4);
      }
    }
    return moves;
  }

  /** The box of nodes of a tone, as they are now: to copy it costs less than to draw it for each. */
  private box(tone: SceneNode["tone"], isChosen: boolean, texts: boolean): OffscreenCanvas {
    const { colours: c } = this;
    const scale = this.view.zoom * (devicePixelRatio || 1);
    const box = new OffscreenCanvas(Math.ceil((WIDTH + 2 * MARGIN) * scale), Math.ceil((HEIGHT + 2 * MARGIN) * scale));
    const context = box.getContext("2d");
    if (!context) return box;
    context.scale(box.width / (WIDTH + 2 * MARGIN), box.height / (HEIGHT + 2 * MARGIN));
    context.beginPath();
    context.roundRect(MARGIN, MARGIN, WIDTH, HEIGHT, 8);
    const ofTone = tone === "plain" ? c.strong : c[tone];
    // From far away a node is its state.
    context.fillStyle = texts ? c.panel : ofTone;
    context.fill();
    context.lineWidth = isChosen ? 2 : 1;
    context.strokeStyle = isChosen ? c.accent : c.strong;
    context.stroke();
    if (!texts) return box;
    context.fillStyle = ofTone;
    context.beginPath();
    context.arc(MARGIN + 14, MARGIN + HEIGHT / 2, 4, 0, Math.PI * 2);
    context.fill();
    return box;
  }

  private drawNodes(context: CanvasRenderingContext2D, left: number, right: number, top: number, bottom: number) {
    const { colours: c, view } = this;
    const texts = view.zoom > 0.35;
    const shown: [SceneNode, number, number][] = [];
    for (const node of this.nodes) {
      const place = this.places.get(node.id);
      if (!place) continue;
      const { x, y } = place;
      if (x + WIDTH / 2 < left || x - WIDTH / 2 > right || y + HEIGHT / 2 < top || y - HEIGHT / 2 > bottom) continue;
      shown.push([node, x - WIDTH / 2, y]);
    }
    const boxes = new Map<string, OffscreenCanvas>();
    for (const [node, x, y] of shown) {
      const isChosen = this.chosen !== null && "node" in this.chosen && this.chosen.node === node.id;
      const key = `${node.tone} ${isChosen}`;
      const box = boxes.get(key) ?? this.box(node.tone, isChosen, texts);
      boxes.set(key, box);
      context.drawImage(box, x - MARGIN, y - HEIGHT / 2 - MARGIN, WIDTH + 2 * MARGIN, HEIGHT + 2 * MARGIN);
    }
    if (!texts) return;
    // To set a font costs more than to write with it.
    this.drawn.labels = shown.length;
    context.fillStyle = c.text;
    context.font = "600 13px system-ui, sans-serif";
    for (const [node, x, y] of shown) context.fillText(clipped(node.label, 15), x + 26, y - 2);
    context.fillStyle = c.dim;
    context.font = "11px system-ui, sans-serif";
    for (const [node, x, y] of shown) context.fillText(clipped(node.note, 20), x + 26, y + 13);
  }
}

const clipped = (text: string, most: number) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
