// Lines and stacked areas over time, with scales. A chart stays in the page and is given new values.
import { clock, known } from "./format.js";
import { h, svg } from "./dom.js";

const HEIGHT = 170, LEFT = 58, RIGHT = 10, TOP = 8, BOTTOM = 22;

// About four ticks at 1, 2 or 5 times a power of ten.
export function ticks(top) {
  const rough = top / 4, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough * 0.999);
  const found = [];
  for (let value = 0; value < top + step * 0.999; value += step) found.push(Number(value.toPrecision(12)));
  return found;
}

export class Chart {
  // lines: [{field, label, class}]; `format` writes a value with its unit; `stacked`: areas on top of each other.
  constructor(title, lines, { format, stacked = false, least = 1e-9 }) {
    Object.assign(this, { title, lines, format, stacked, least, times: [], values: {}, at: null });
    this.legend = h("p", { class: "legend" });
    this.plot = svg("svg", { class: "plot", role: "img" });
    this.caption = h("h2", {}, title);
    this.element = h("figure", { class: "chart" }, this.caption, this.legend, this.plot);
    this.plot.addEventListener("pointermove", (event) => this.point(event));
    this.plot.addEventListener("pointerleave", () => { this.at = null; this.draw(); });
    new ResizeObserver(() => this.draw()).observe(this.element);
  }

  update(times, values, span) {
    Object.assign(this, { times, values, span });
    this.draw();
  }

  point(event) {
    const box = this.plot.getBoundingClientRect();
    const wanted = this.from + (event.clientX - box.left - LEFT) / Math.max(1, this.width - LEFT - RIGHT) * (this.to - this.from);
    let best = null;
    this.times.forEach((t, i) => { if (best === null || Math.abs(t - wanted) < Math.abs(this.times[best] - wanted)) best = i; });
    this.at = best;
    this.draw();
  }

  draw() {
    this.width = Math.max(220, this.element.clientWidth - 24);
    const { times, lines, width } = this;
    const values = lines.map((line) => this.values[line.field] || []);
    this.to = times.length ? times[times.length - 1] : 0;
    this.from = this.to - this.span;
    const sums = times.map((_, i) => values.reduce((sum, column) => sum + (column[i] || 0), 0));
    const top = Math.max(this.least, ...(this.stacked ? sums : values.flat().filter(known)));
    const marks = ticks(top), high = marks[marks.length - 1];
    const x = (t) => LEFT + (t - this.from) / this.span * (width - LEFT - RIGHT);
    const y = (v) => HEIGHT - BOTTOM - v / high * (HEIGHT - BOTTOM - TOP);
    const parts = [];
    for (const value of marks) parts.push(svg("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }),
      svg("text", { class: "tick", x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, this.format(value)));
    const step = this.span / (width < 420 ? 3 : 5);
    for (let t = Math.ceil((this.from + 1) / step) * step; t <= this.to && times.length; t += step)
      parts.push(svg("text", { class: "tick", x: Math.min(x(t), width - 22), y: HEIGHT - 6, "text-anchor": "middle" }, clock(t)));
    if (this.stacked) parts.push(...this.areas(values, x, y));
    else values.forEach((column, i) => parts.push(svg("path", { class: `line ${lines[i].class}`, d: path(times, column, x, y) })));
    if (this.at !== null && this.at < times.length) parts.push(svg("line", { class: "cursor", x1: x(times[this.at]), x2: x(times[this.at]), y1: TOP, y2: HEIGHT - BOTTOM }));
    if (!times.length) parts.push(svg("text", { class: "tick", x: width / 2, y: HEIGHT / 2, "text-anchor": "middle" }, "the first sample comes after 5 s"));
    this.plot.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.plot.setAttribute("width", width);
    this.plot.setAttribute("height", HEIGHT);
    this.plot.setAttribute("aria-label", this.title);
    this.plot.replaceChildren(...parts);
    const at = this.at === null ? times.length - 1 : this.at;
    this.legend.replaceChildren(...lines.filter((line) => !line.rare || (this.values[line.field] || []).some((v) => v > 0)).map((line) =>
      h("span", { class: `key ${line.class}` }, `${line.label} `, h("b", {}, known(this.values[line.field]?.[at]) ? this.format(this.values[line.field][at]) : "–"))),
      this.at !== null && at < times.length ? h("span", { class: "dim" }, clock(times[at], true)) : "");
  }

  areas(values, x, y) {
    const { times, lines } = this;
    const below = times.map(() => 0), parts = [];
    values.forEach((column, i) => {
      const upper = below.map((low, n) => low + (column[n] || 0));
      if (upper.some((value, n) => value > below[n])) {
        const there = times.map((t, n) => `${x(t).toFixed(1)},${y(upper[n]).toFixed(1)}`);
        const back = times.map((t, n) => `${x(t).toFixed(1)},${y(below[n]).toFixed(1)}`).reverse();
        parts.push(svg("polygon", { class: `area ${lines[i].class}`, points: [...there, ...back].join(" ") }));
      }
      upper.forEach((value, n) => { below[n] = value; });
    });
    return parts;
  }
}

// A gap in the values is one in the line; a value without neighbours is a dot.
function path(times, column, x, y) {
  let d = "";
  times.forEach((t, i) => {
    if (!known(column[i])) return;
    const at = `${x(t).toFixed(1)},${y(column[i]).toFixed(1)}`;
    d += known(column[i - 1]) ? `L${at}` : `M${at}h0.1`;
  });
  return d || "M0,0";
}
