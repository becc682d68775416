// Pools with their endpoints in detail: what each of them does, what its checks say, and what can be done with it.
import { h, table } from "./dom.js";
import { count, percent, plural, rate, short, shortNames, time } from "./format.js";
import { operate } from "./operate.js";
import { link } from "./place.js";
import { SIGNS, errorShare, kind, ofEndpoint, ofPool, word, worstFirst } from "./state.js";

const MOST = 50, MOST_POOLS = 24;
const MOST_CARDS = 8; // of a pool, on narrow screens, where each endpoint is a card of many lines
const narrow = window.matchMedia("(max-width: 640px)");
const unfolded = new Set();

// Columns that only some pools have: head, class, of which pools, value.
const OWN = [
  ["cost", "n", (pool) => pool.cost, (e) => Number((e.outstanding_cost ?? 0).toPrecision(3)).toString()],
  ["sessions", "n", (pool) => pool.endpoints.some((e) => e.sessions !== null), (e) => e.sessions ?? "–"],
  ["sequences", "n", (pool) => pool.endpoints.some((e) => e.sequences), (e) => count(e.sequences)],
  ["priority", "n", (pool) => pool.levels, (e) => count(e.priority)],
  ["zone", "", (pool) => pool.endpoints.some((e) => e.zone), (e) => e.zone ?? "–"],
];

function said(e) {
  const parts = e.check ? [e.check] : [];
  if (e.unready.length) parts.push(`not ready: ${e.unready.join(", ")}`);
  if (e.why_not) parts.push(e.why_not);
  const codes = Object.entries(e.grpc).map(([code, n]) => `${n} ${code}`);
  if (codes.length) parts.push(`gRPC: ${codes.join(", ")}`);
  if (e.turns < 1) parts.push(`${percent(e.failing)} of its last attempts failed: it takes ${percent(e.turns)} of its turns`);
  if (e.agent) parts.push(`agent: ${e.agent}`);
  return parts.join("; ") || "–";
}

const state = (value) => ({ text: value, class: kind(value) });

function endpoints(pool, place, changed, again) {
  const own = OWN.filter(([, , has]) => has(pool));
  const names = shortNames(pool.endpoints.map((e) => e.address), 34);
  const all = place.endpoint ? pool.endpoints.filter((e) => e.address === place.endpoint) : worstFirst(pool.endpoints, ofEndpoint);
  const listed = unfolded.has(pool.name) ? all : all.slice(0, narrow.matches ? MOST_CARDS : MOST);
  const limit = (e) => e.learned_limit || e.max_in_flight;
  const rows = listed.map((e) => ({
    attributes: { class: ofEndpoint(e) },
    cells: [
      { text: h("a", { href: link({ pool: pool.name, endpoint: e.address }), "data-key": `endpoint ${pool.name} ${e.address}` }, h("span", { class: "sign" }, SIGNS[ofEndpoint(e)]), " ", names.get(e.address)), title: e.address },
      state(word({ ...e, admin: "enabled" })), state(e.admin), e.weight, limit(e) ? `${count(e.in_flight)} / ${count(limit(e))}` : count(e.in_flight),
      ...own.map(([, , , of]) => of(e)), rate(e.now?.rate ?? 0), { text: percent(errorShare(e.now)), class: e.now?.errors ? "bad" : "" }, time(e.now?.p50), time(e.now?.p99),
      { text: said(e), class: "dim wrap" },
      h("button", { class: "quiet", "data-key": `operate ${pool.name} ${e.address}`, "aria-label": `Change ${e.address}`, onclick: () => operate(pool, e, changed) }, "change"),
    ],
  }));
  const heads = [["endpoint"], ["health"], ["admin"], ["weight", "n"], ["in flight", "n"], ...own, ["requests/s", "n"], ["errors", "n"], ["p50", "n"], ["p99", "n"], ["last check"], [""]];
  return [table(heads, rows, { class: "cards" }),
    all.length > listed.length ? h("button", { class: "quiet", "data-key": `unfold ${pool.name}`, onclick: () => { unfolded.add(pool.name); again(); } }, `Show ${plural(all.length - listed.length, "further endpoint")}, not worse`) : null];
}

// Endpoints that were removed and still have something to do.
const leaving = (rows) => rows.length ? table([["leaving"], ["health"], ["in flight", "n"], ["sequences", "n"], ["for", "n"]],
  rows.map((e) => [e.address, state(e.health), e.in_flight, e.sequences, time(Math.round(e.leaving_for_s))])) : null;

const levels = (pool) => pool.levels ? table([["priority"], ["healthy", "n"], ["could carry", "n"], ["requests", "n"], ["own zone", "n"], ["other zones", "n"]],
  pool.levels.map((l) => [l.priority, `${l.healthy} of ${l.endpoints}${l.panic ? ", in a panic" : ""}`, ...[l.carries, l.share, l.own_zone, l.other_zones].map(percent)])) : null;

const costs = (pool) => pool.cost && Object.keys(pool.cost.models).length ? table([[`cost by ${pool.cost.unit}: model`], ["relative", "n"], ["time for a unit", "n"], ["learned from", "n"]],
  Object.entries(pool.cost.models).map(([model, c]) => [model, String(Number(c.relative.toPrecision(3))), time(c.unit_s), count(c.samples)])) : null;

function servers(managed) {
  if (!managed) return null;
  const rows = [["replicas", ""], ["next", " (next)"], ["leaving", " (leaving)"]].flatMap(([group, mark]) => managed[group].map((r) => [
    `${r.index}${mark}`, r.pid ?? "–", state(r.state), { text: [...r.gpus.map((g) => `GPU ${g}`), ...(r.cores.length ? [`cores ${r.cores.join(", ")}`] : [])].join("; ") || "–", class: "dim" }, r.restarts, { text: r.last_error || "–", class: "dim wrap" }]));
  return table([["model server"], ["pid", "n"], ["state"], ["on"], ["restarts", "n"], ["last error"]], rows);
}

function title(pool) {
  const sessions = pool.endpoints.filter((e) => e.sessions !== null);
  const parts = [pool.protocol, pool.policy];
  if (pool.queue) parts.push(`${count(pool.queue.waiting)} waiting`);
  if (sessions.length) parts.push(plural(sessions.reduce((sum, e) => sum + e.sessions, 0), "session"));
  if (pool.panic) parts.push("in a panic");
  if (pool.managed) parts.push(`${plural(pool.managed.replicas.length, "model server")}, ${count(pool.managed.wanted)} wanted`);
  const found = ofPool(pool);
  return h("h2", {}, h("span", { class: `sign ${found}` }, SIGNS[found]), " Pool ", h("a", { href: link({ pool: pool.name }), title: pool.name, "data-key": `pool ${pool.name}` }, short(pool.name, 40)), " ", h("small", {}, parts.join(" · ")));
}

export function pools(overview, shown, place, changed, again) {
  const rows = worstFirst(shown.pools, ofPool);
  const removed = place.pool || place.route ? [] : overview.removed_pools;
  return [
    ...rows.slice(0, MOST_POOLS).map((pool) => h("section", { class: "pool", "data-pool": pool.name }, title(pool), endpoints(pool, place, changed, again), levels(pool), costs(pool), leaving(pool.leaving), servers(pool.managed))),
    rows.length > MOST_POOLS ? h("p", { class: "dim" }, `${plural(rows.length - MOST_POOLS, "further pool")}, not worse; filter, or choose one.`) : null,
    ...removed.map((pool) => h("section", {}, h("h2", {}, `Pool ${pool.name} `, h("small", {}, "removed")), leaving(pool.leaving))),
  ];
}
