// Heat by endpoint: a row each, the worst first, over the half hour that the daemon remembers.
import { get } from "./api.js";
import { h, svg } from "./dom.js";
import { clock, known, percent, plural, rate, shortNames, time } from "./format.js";
import { link } from "./place.js";
import { SIGNS, ofEndpoint, worstFirst } from "./state.js";

const MOST_POOLS = 6, MOST_ROWS = 16, LEVELS = 5;
const METRICS = {
  errors: { label: "errors", of: (row, i) => row.rate[i] > 0 ? row.errors[i] / row.rate[i] : null, format: percent, level: (v) => v <= 0 ? 0 : v < 0.01 ? 1 : v < 0.05 ? 2 : v < 0.25 ? 3 : 4, steps: ["0 %", "below 1 %", "below 5 %", "below 25 %", "25 % and more"] },
  p99: { label: "p99", of: (row, i) => row.p99[i], format: time },
  rate: { label: "requests/s", of: (row, i) => row.rate[i], format: rate },
};
let metric = "errors";
let found = new Map();

export async function look(pools) {
  const wanted = pools.slice(0, MOST_POOLS);
  found = new Map(await Promise.all(wanted.map(async (pool) => [pool.name, await get("/api/v1/heat", { pool: pool.name })])));
}

function scale(rows) {
  const chosen = METRICS[metric];
  if (chosen.level) return chosen;
  const top = Math.max(0, ...rows.flatMap(([, , row]) => row.rate.map((_, i) => chosen.of(row, i)).filter(known)));
  const steps = Array.from({ length: LEVELS }, (_, i) => `up to ${chosen.format(top * (i + 1) / LEVELS)}`);
  return { ...chosen, level: (v) => top ? Math.min(LEVELS - 1, Math.floor(v / top * LEVELS * 0.9999)) : 0, steps };
}

function cells(row, times, chosen, name) {
  const width = 6, gap = Math.min(0.6, times.length / 100), parts = [];
  times.forEach((t, i) => {
    const value = chosen.of(row, i);
    parts.push(svg("rect", { class: known(value) ? `heat${chosen.level(value)}` : "none", x: i * width, y: 0, width: width - gap, height: 18 },
      svg("title", {}, `${name}, ${clock(t)}: ${known(value) ? `${chosen.format(value)} ${chosen.label}` : "no requests"}`)));
  });
  return svg("svg", { class: "cells", viewBox: `0 0 ${Math.max(1, times.length) * width} 18`, preserveAspectRatio: "none", role: "img", "aria-label": `${chosen.label} of ${name}` }, parts);
}

export function heat(shown, place, again) {
  const pools = shown.pools.filter((pool) => found.has(pool.name) && pool.endpoints.length);
  const rows = pools.flatMap((pool) => {
    const data = found.get(pool.name);
    return pool.endpoints.map((e) => [pool, e, data.endpoints[e.address] || { rate: [], errors: [], p99: [] }, data.times]);
  });
  const chosen = scale(rows);
  const listed = worstFirst(rows, ([, e]) => ofEndpoint(e)).slice(0, place.pool ? 4 * MOST_ROWS : MOST_ROWS);
  const names = new Map(pools.map((pool) => [pool.name, shortNames(pool.endpoints.map((e) => e.address), 24)]));
  const poolNames = shortNames(pools.map((pool) => pool.name), 14);
  const times = rows[0]?.[3] || [];
  return [
    h("h2", {}, "Heat by endpoint ", h("small", {}, times.length ? `${clock(times[0])} to ${clock(times[times.length - 1])}, worst first` : "after the first samples")),
    h("p", { class: "choices", role: "group", "aria-label": "What the colours show" }, Object.entries(METRICS).map(([key, each]) => h("button", { "aria-pressed": String(key === metric), "data-key": `heat ${key}`, onclick: () => { metric = key; again(); } }, each.label)),
      h("span", { class: "scale" }, chosen.steps.map((step, i) => h("span", {}, svg("svg", { class: "swatch", viewBox: "0 0 10 10" }, svg("rect", { class: `heat${i}`, width: 10, height: 10 })), step)), h("span", {}, svg("svg", { class: "swatch", viewBox: "0 0 10 10" }, svg("rect", { class: "none", width: 10, height: 10 })), "no requests"))),
    h("ul", { class: "rows" }, listed.map(([pool, e, row, when]) => {
      const state = ofEndpoint(e);
      return h("li", { class: state }, h("a", { href: link({ pool: pool.name, endpoint: e.address }), title: `${e.address} of pool ${pool.name}`, "data-key": `heat ${pool.name} ${e.address}` }, h("span", { class: "sign" }, SIGNS[state]), " ", h("b", {}, names.get(pool.name).get(e.address)), h("span", { class: "dim" }, ` ${poolNames.get(pool.name)}`)), cells(row, when, chosen, e.address));
    })),
    rows.length > listed.length ? h("p", { class: "dim" }, `${plural(rows.length - listed.length, "further endpoint")}, not worse; filter, or choose a pool.`) : null,
  ];
}
