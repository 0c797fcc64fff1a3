// Plots, each with its figures in a table for those who cannot see it or want to copy them.

import { duration, el, figure, say, svg } from "./dom.js";

const WIDTH = 300;
const HEIGHT = 96;

// The next round number above a value.
export function ceiling(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((step) => step * power).find((step) => step >= value * 0.999) ?? 10 * power;
}

// One figure over the last minute. `series` are {name, look, format}; the first is the one in large type.
export class TimePlot {
  constructor({ name, unit, series, least = 0, format = figure, window = 60 }) {
    Object.assign(this, { name, unit, series, least, format, window });
    this.value = el("span", {}, "–");
    this.second = el("span", { class: "second" }, "\u00a0");
    this.top = el("span", { class: "top", "aria-hidden": "true" });
    this.area = svg("path", { class: "area" });
    this.lines = series.map(({ look = "" }) => svg("path", { class: `line ${look}` }));
    const grid = [0.5, HEIGHT / 2, HEIGHT - 0.5].map((y) => svg("line", { class: "grid-line", x1: 0, x2: WIDTH, y1: y, y2: y }));
    this.svg = svg(
      "svg",
      { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": `${name}: nothing yet` },
      grid,
      this.area,
      [...this.lines].reverse(),
    );
    this.rows = el("tbody");
    this.details = el(
      "details",
      { ontoggle: () => this.fillTable() },
      el("summary", {}, "Figures"),
      el(
        "table",
        { class: "plain" },
        el("caption", { class: "hidden" }, `${name}, the last minute`),
        el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Seconds ago"), series.map((one) => el("th", { scope: "col", class: "number" }, one.name)))),
        this.rows,
      ),
    );
    this.node = el(
      "figure",
      { class: "card plot stale" },
      el("figcaption", {}, el("span", { class: "name" }, name), el("span", { class: "value" }, this.value, " ", unit ? el("small", {}, unit) : null), this.second),
      el("div", { class: "field" }, this.svg, this.top),
      el("div", { class: "ends", "aria-hidden": "true" }, el("span", {}, "1 min ago"), el("span", {}, "now")),
      this.details,
    );
    this.points = [];
  }

  // `points` are {at, values}; a value that is null leaves a gap.
  show(points, second, isStale) {
    this.points = points;
    const last = points.at(-1);
    const now = last?.at ?? 0;
    this.node.classList.toggle("stale", isStale || !last);
    const known = points.flatMap((point) => point.values).filter((value) => value !== null);
    const top = ceiling(Math.max(this.least, ...known));
    const x = (at) => (1 - (now - at) / this.window) * WIDTH;
    const y = (value) => HEIGHT - 1 - (value / top) * (HEIGHT - 2);
    this.lines.forEach((line, index) => {
      let path = "";
      let isOpen = false;
      for (const { at, values } of points) {
        const value = values[index];
        if (value === null) isOpen = false;
        else {
          path += `${isOpen ? "L" : "M"}${x(at).toFixed(1)} ${y(value).toFixed(1)}`;
          isOpen = true;
        }
      }
      line.setAttribute("d", path);
    });
    this.area.setAttribute("d", this.areaPath(points, x, y));
    const value = last?.values[0] ?? null;
    const shown = value === null ? "–" : this.format(value);
    say(this.value, shown);
    say(this.second, second);
    say(this.top, this.format(top));
    this.svg.setAttribute("aria-label", `${this.name}: ${shown} ${this.unit ?? ""}${second ? `, ${second}` : ""}; highest of the last minute ${this.format(Math.max(0, ...known))}`);
    if (this.details.open) this.fillTable();
  }

  // Below the first line, one piece between two gaps.
  areaPath(points, x, y) {
    let path = "";
    let piece = [];
    const close = () => {
      if (piece.length > 1) {
        const line = piece.map(([at, value]) => `${x(at).toFixed(1)} ${y(value).toFixed(1)}`).join("L");
        path += `M${x(piece[0][0]).toFixed(1)} ${HEIGHT}L${line}L${x(piece.at(-1)[0]).toFixed(1)} ${HEIGHT}Z`;
      }
      piece = [];
    };
    for (const { at, values } of points) values[0] === null ? close() : piece.push([at, values[0]]);
    close();
    return path;
  }

  fillTable() {
    if (!this.details.open) return;
    const now = this.points.at(-1)?.at ?? 0;
    const rows = this.points.filter((_, index) => (this.points.length - 1 - index) % 10 === 0).reverse();
    const cell = (value) => el("td", { class: "number" }, value === null ? "–" : this.format(value));
    this.rows.replaceChildren(...rows.map(({ at, values }) => el("tr", {}, el("td", {}, (now - at).toFixed(0)), values.map(cell))));
  }
}

const BOX = { width: 520, height: 210, left: 56, right: 10, top: 10, bottom: 30 };

function frame(label, top, format, xTicks, x) {
  const y = (value) => BOX.height - BOX.bottom - (value / top) * (BOX.height - BOX.top - BOX.bottom);
  const node = svg("svg", { viewBox: `0 0 ${BOX.width} ${BOX.height}`, role: "img", "aria-label": label });
  for (const value of [0, top / 2, top]) {
    node.append(
      svg("line", { class: "grid-line", x1: BOX.left, x2: BOX.width - BOX.right, y1: y(value), y2: y(value) }),
      svg("text", { class: "axis", x: BOX.left - 6, y: y(value) + 4, "text-anchor": "end" }, format(value)),
    );
  }
  for (const tick of xTicks) node.append(svg("text", { class: "axis", x: x(tick), y: BOX.height - 12, "text-anchor": "middle" }, String(tick)));
  return { node, y };
}

// Of ticks, as many as there is room for: always the first and the last.
function thinned(ticks, most = 9) {
  const step = Math.ceil(ticks.length / most);
  return ticks.filter((_, index) => (ticks.length - 1 - index) % step === 0);
}

// What a call takes by the number of its items, and each item's part of it. `costs` are {size, seconds}.
export function costPlot(costs) {
  const top = ceiling(Math.max(...costs.map((cost) => cost.seconds)));
  const [least, most] = [costs[0].size, costs.at(-1).size];
  const span = Math.log2(most / least) || 1;
  const x = (size) => BOX.left + 12 + (Math.log2(size / least) / span) * (BOX.width - BOX.left - BOX.right - 24);
  const powers = costs.map((cost) => cost.size).filter((size) => Number.isInteger(Math.log2(size)));
  const { node, y } = frame(`Time of a call by its number of items: from ${duration(costs[0].seconds)} for ${least} to ${duration(costs.at(-1).seconds)} for ${most}`, top, duration, thinned(powers), x);
  const path = (value) => costs.map((cost, index) => `${index ? "L" : "M"}${x(cost.size).toFixed(1)} ${y(value(cost)).toFixed(1)}`).join("");
  node.append(
    svg("path", { class: "line second-line", d: path((cost) => cost.seconds / cost.size) }),
    svg("path", { class: "line", d: path((cost) => cost.seconds) }),
    costs.filter((cost) => powers.includes(cost.size)).map((cost) => svg("circle", { class: "mark", cx: x(cost.size), cy: y(cost.seconds), r: 3.5 })).reduce((all, one) => (all.append(one), all), svg("g")),
  );
  return node;
}

// How many calls there were of each size. `calls` are {size, calls}.
export function sizePlot(calls) {
  const top = ceiling(Math.max(...calls.map((one) => one.calls)));
  const most = calls.at(-1).size;
  const step = (BOX.width - BOX.left - BOX.right) / most;
  const x = (size) => BOX.left + (size - 0.5) * step;
  const total = calls.reduce((sum, one) => sum + one.calls, 0);
  const usual = calls.reduce((best, one) => (one.calls > best.calls ? one : best));
  const ticks = thinned(Array.from({ length: most }, (_, index) => index + 1), 10);
  const { node, y } = frame(`${total} calls by their number of items; most had ${usual.size}`, top, figure, ticks, x);
  const bars = svg("g", { class: "bars" });
  for (const one of calls) {
    const height = Math.max(1, y(0) - y(one.calls));
    bars.append(svg("rect", { x: x(one.size) - Math.min(14, step * 0.4), width: Math.min(28, step * 0.8), y: y(0) - height, height, rx: Math.min(2, step * 0.2) }));
  }
  node.append(bars);
  return node;
}
