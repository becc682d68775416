// Listeners → routes → pools → endpoints, with health and load. Lines join them where there is room; else each says where
// it leads. The worst come first; what is left out is counted.
import { h, svg } from "./dom.js";
import { count, percent, plural, rate, short, shortNames } from "./format.js";
import { link } from "./place.js";
import { SIGNS, errorShare, ofEndpoint, ofPool, ofRoute, serves, word, worstFirst } from "./state.js";

const MOST = 12;
const edges = [];

function node(id, state, name, shown, figure, to, chosen, below) {
  const inner = [h("span", { class: "sign", "aria-hidden": "true" }, SIGNS[state]), h("span", { class: "name" }, shown), h("span", { class: "figure" }, figure)];
  return h("li", { class: `node ${state}${chosen ? " chosen" : ""}`, "data-id": id, title: `${name} · ${state}` },
    to ? h("a", { href: to, "data-key": id }, inner) : h("div", {}, inner), below || null);
}

const load = (part) => h("progress", { class: "load", max: 1, value: Math.min(1, part), "aria-label": "share of the load" });
const errors = (now) => now && now.errors > 0 ? ` · ${percent(errorShare(now))} errors` : "";
const leads = (pools, names) => pools.length ? h("span", { class: "leads dim" }, `→ ${pools.map((pool) => names.get(pool) || short(pool, 24)).join(", ")}`) : null;

function column(title, nodes, rest) {
  return h("div", { class: "column" }, h("h3", {}, title), h("ul", {}, nodes, rest ? h("li", { class: "rest dim" }, rest) : null));
}

export function topology(overview, shown, place) {
  edges.length = 0;
  const routes = worstFirst([...shown.routes].sort((a, b) => (b.now?.rate || 0) - (a.now?.rate || 0)), ofRoute).slice(0, MOST);
  const pools = worstFirst(shown.pools, ofPool).slice(0, MOST);
  const there = new Set(pools.map((pool) => pool.name));
  const poolNames = shortNames(shown.pools.map((pool) => pool.name), 24), routeNames = shortNames(shown.routes.map((r) => r.name), 24);
  const listeners = overview.listeners.filter((l) => shown.routes.some((r) => r.listener === l.name) || l.pools.some((p) => there.has(p)) || !(place.q || place.pool || place.route)).slice(0, MOST);
  for (const l of listeners) for (const pool of l.pools) if (there.has(pool)) edges.push([`l:${l.name}`, `p:${pool}`, "good", l.now?.rate || 0]);
  for (const r of routes) {
    edges.push([`l:${r.listener}`, `r:${r.name}`, ofRoute(r), r.now?.rate || 0]);
    for (const pool of r.pools) if (there.has(pool)) edges.push([`r:${r.name}`, `p:${pool}`, ofRoute(r), (r.now?.rate || 0) / r.pools.length]);
  }
  const each = Math.max(2, Math.floor(16 / Math.max(1, pools.length)));
  const endpoints = pools.flatMap((pool) => {
    const names = shortNames(pool.endpoints.map((e) => e.address), 24);
    const most = Math.max(1e-9, ...pool.endpoints.map((e) => e.now?.rate || 0));
    const listed = worstFirst(pool.endpoints, ofEndpoint).slice(0, each);
    const more = pool.endpoints.length - listed.length;
    const rows = listed.map((e) => {
      const state = ofEndpoint(e), id = `e:${pool.name} ${e.address}`;
      edges.push([`p:${pool.name}`, id, state, e.now?.rate || 0]);
      const figure = state === "bad" || state === "idle" ? `${word(e)}${errors(e.now)}` : `${rate(e.now?.rate ?? 0)}/s${errors(e.now)}`;
      return node(id, state, `${e.address} of pool ${pool.name}`, names.get(e.address), figure, link({ pool: pool.name, endpoint: e.address }), place.endpoint === e.address, load((e.now?.rate || 0) / most));
    });
    return more > 0 ? [...rows, h("li", { class: "rest" }, h("a", { href: link({ pool: pool.name }), "data-key": `more ${pool.name}` }, `${plural(more, "more", "more")} of ${poolNames.get(pool.name)}`))] : rows;
  });
  return [h("h2", {}, "Topology ", h("small", {}, "requests a second, worst first")), h("div", { class: "columns" }, svg("svg", { class: "edges", "aria-hidden": "true" }),
    column("Listeners", listeners.map((l) => node(`l:${l.name}`, "good", `${l.name} on ${l.sockets.join(", ")}`, short(l.name), `${l.protocol} · ${count(l.now?.in_flight ?? 0)} open`, null, false, [h("span", { class: "dim small" }, `${short(l.sockets[0], 34)}${l.sockets.length > 1 ? ` and ${count(l.sockets.length - 1)} more` : ""}`), leads(l.pools, poolNames)]))),
    column("Routes", routes.map((r) => node(`r:${r.name}`, ofRoute(r), `${r.name} ${r.host}${r.path}`, routeNames.get(r.name), `${rate(r.now?.rate ?? 0)}/s${errors(r.now)}`, link({ route: r.name }), place.route === r.name, leads(r.pools, poolNames))),
      shown.routes.length > routes.length || overview.routes_left_out ? `${count(shown.routes.length - routes.length + overview.routes_left_out)} more` : null),
    column("Pools", pools.map((p) => node(`p:${p.name}`, ofPool(p), p.name, poolNames.get(p.name), `${rate(p.now?.rate ?? 0)}/s${errors(p.now)}`, link({ pool: p.name }), place.pool === p.name && !place.endpoint,
      h("span", { class: "dim small" }, `${p.endpoints.filter(serves).length} of ${p.endpoints.length} take requests${p.queue ? ` · ${count(p.queue.waiting)} wait` : ""}`))),
      shown.pools.length > pools.length ? `${count(shown.pools.length - pools.length)} more` : null),
    column("Endpoints", endpoints))];
}

// The lines, once the nodes have their places.
export function connect(section) {
  const box = section.querySelector(".columns"), canvas = section.querySelector(".edges");
  if (!box) return;
  const frame = box.getBoundingClientRect(), nodes = new Map([...box.querySelectorAll(".node")].map((n) => [n.dataset.id, n.getBoundingClientRect()]));
  canvas.setAttribute("viewBox", `0 0 ${frame.width} ${frame.height}`);
  const most = Math.max(1e-9, ...edges.map((edge) => edge[3]));
  canvas.replaceChildren(...edges.flatMap(([from, to, state, flow]) => {
    const a = nodes.get(from), b = nodes.get(to);
    if (!a || !b || b.left <= a.right) return [];
    const x1 = a.right - frame.left, x2 = b.left - frame.left, y1 = a.top + a.height / 2 - frame.top, y2 = b.top + b.height / 2 - frame.top, bend = Math.min(40, (x2 - x1) / 2);
    return [svg("path", { class: `edge ${state}`, "stroke-width": (1 + 4 * Math.sqrt(flow / most)).toFixed(1), d: `M${x1},${y1}C${x1 + bend},${y1} ${x2 - bend},${y2} ${x2},${y2}` })];
  }));
}
