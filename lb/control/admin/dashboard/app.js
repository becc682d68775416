// The loop of the page: asks the daemon every few seconds, and draws. The history comes from the daemon, so a new page
// has it at once.
import { TokenError, get, keepToken } from "./api.js";
import { Chart } from "./chart.js";
import { byId, h, redraw } from "./dom.js";
import { count, known, percent, rate, short, time } from "./format.js";
import { heat, look } from "./heat.js";
import { models } from "./models.js";
import { panels } from "./panels.js";
import { filtered, here, link } from "./place.js";
import { pools } from "./pools.js";
import { serves } from "./state.js";
import { connect, topology } from "./topology.js";
import { verdict } from "./verdict.js";

const PERIOD = 5000, HEAT_EVERY = 3;
const CHARTS = [
  new Chart("Latency", [{ field: "p50", label: "p50", class: "s1" }, { field: "p95", label: "p95", class: "s2" }, { field: "p99", label: "p99", class: "s3" }], { format: time, least: 1e-3 }),
  new Chart("Requests by status", [{ field: "2xx", label: "2xx", class: "ok" }, { field: "3xx", label: "3xx", class: "s1", rare: true }, { field: "4xx", label: "4xx", class: "warn" }, { field: "429", label: "429", class: "s2", rare: true }, { field: "5xx", label: "5xx", class: "bad" }, { field: "other", label: "no status", class: "idle", rare: true }], { format: (v) => `${rate(v)}/s`, stacked: true, least: 1 }),
  new Chart("Errors", [{ field: "failed", label: "faults of servers", class: "bad" }, { field: "turned_away", label: "refused here", class: "warn" }], { format: percent, least: 0.01 }),
  new Chart("In flight", [{ field: "in_flight", label: "in flight", class: "s1" }, { field: "waiting", label: "in queues", class: "s3" }], { format: count, least: 4 }),
];
const CACHE = new Chart("Cache hit ratio", [{ field: "hit_ratio", label: "answered by a cache", class: "ok" }], { format: percent, least: 1 });
let overview = null, past = { key: "", number: 0, times: [], values: {} }, turn = 0, timer = 0;

function chosen(place) {
  if (place.endpoint && place.pool) return { of: "endpoint", pool: place.pool, name: place.endpoint };
  if (place.model) return { of: "model", pool: place.pool, name: place.model };
  if (place.pool) return { of: "pool", name: place.pool };
  if (place.route) return { of: "route", name: place.route };
  return { of: "total" };
}

// New samples go behind those that are there; another subject, or a daemon that was started anew, begins afresh.
async function remember(place) {
  const series = chosen(place), key = JSON.stringify(series);
  const after = past.key === key ? past.number : 0;
  const found = await get("/api/v1/history", { ...series, after });
  if (found.number < after) past.key = "";
  const keep = past.key === key && after;
  const { number, times, ...values } = found, most = Math.round(overview.kept_s / overview.interval_s);
  const names = new Set([...Object.keys(keep ? past.values : {}), ...Object.keys(values)]);
  const old = keep ? past.times.length : 0, blank = (n) => Array(n).fill(null);
  const joined = [...names].map((name) => [name, [...(keep && past.values[name] || blank(old)), ...(values[name] || blank(times.length))].slice(-most)]);
  past = { key, number, times: [...(keep ? past.times : []), ...times].slice(-most), values: Object.fromEntries(joined) };
}

function drawCharts(place) {
  const span = Number(place.range) || 300;
  const from = past.times.findIndex((t) => t >= past.times[past.times.length - 1] - span);
  const times = past.times.slice(Math.max(0, from)), values = {};
  for (const [name, column] of Object.entries(past.values)) values[name] = column.slice(Math.max(0, from));
  const part = (field) => times.map((_, i) => values.rate?.[i] > 0 ? Math.min(1, values[field][i] / values.rate[i]) : null);
  values.failed = part("errors");
  values.turned_away = part("refused");
  const charts = [...CHARTS, ...(overview.cache && values.hit_ratio?.some(known) ? [CACHE] : [])], box = byId("charts");
  if (charts.length !== box.children.length) box.replaceChildren(...charts.map((chart) => chart.element));
  for (const chart of charts) chart.update(times, values, span);
}

function figures() {
  const { now } = overview, all = overview.pools.flatMap((pool) => pool.endpoints), up = all.filter(serves).length;
  const failed = now && now.rate > 0 ? now.errors / now.rate : null;
  const last = (name) => past.key === JSON.stringify({ of: "total" }) ? past.values[name]?.at(-1) : undefined;
  const waiting = overview.pools.reduce((sum, pool) => sum + (pool.queue?.waiting || 0), 0);
  const rows = [["requests/s", rate(now?.rate ?? 0)], ["p50", time(now?.p50)], ["p95", time(now?.p95)], ["p99", time(now?.p99)], ["errors", percent(failed), failed >= 0.05 ? "bad" : failed > 0 ? "warn" : ""], ["in flight", count(now?.in_flight ?? 0)], ["in queues", count(waiting)], ["endpoints", `${count(up)} / ${count(all.length)}`, up < all.length ? "warn" : ""]];
  if (overview.cache) rows.push(["cache hits", percent(last("hit_ratio"))]);
  return rows.map(([label, value, style]) => h("div", { class: `figure ${style || ""}` }, h("span", { class: "label" }, label), h("b", {}, value)));
}

function where(place) {
  const { of } = chosen(place), parts = [h("a", { href: link({}) }, "All traffic")];
  if (of === "total") return [];
  if (place.route && of === "route") parts.push(" › route ", h("b", { title: place.route }, short(place.route, 60)));
  if (place.pool) parts.push(" › pool ", place.endpoint || place.model ? h("a", { href: link({ pool: place.pool }) }, short(place.pool, 40)) : h("b", { title: place.pool }, short(place.pool, 60)));
  if (place.endpoint) parts.push(" › endpoint ", h("b", { title: place.endpoint }, short(place.endpoint, 60)));
  if (place.model) parts.push(" › model ", h("b", { title: place.model }, short(place.model, 60)));
  return parts;
}

function draw() {
  if (!overview) return;
  const place = here(), shown = filtered(overview, place);
  byId("main").hidden = false;
  byId("summary").textContent = [overview.version, overview.zone && `zone ${overview.zone}`, overview.state, `up ${time(Math.round(overview.uptime_s))}`, `plan ${overview.generation}`].filter(known).filter(Boolean).join(" · ");
  document.title = `${{ failing: "✕ ", degraded: "▲ ", well: "" }[overview.verdict]}Tidegate`;
  redraw(byId("verdict"), verdict(overview, draw));
  redraw(byId("where"), where(place));
  redraw(byId("figures"), figures());
  drawCharts(place);
  redraw(byId("topology"), topology(overview, shown, place));
  connect(byId("topology"));
  redraw(byId("heat"), heat(shown, place, draw));
  redraw(byId("pools"), pools(overview, shown, place, () => tick(true), draw));
  redraw(byId("models"), models(overview, shown, place, draw));
  redraw(byId("panels"), panels(overview, shown, draw));
}

async function tick(fresh = false) {
  clearTimeout(timer);
  const problem = byId("problem");
  try {
    overview = await get("/api/v1/overview", fresh ? { fresh: "yes" } : {});
    const place = here();
    await remember(place);
    if (turn++ % HEAT_EVERY === 0) await look(filtered(overview, place).pools);
    byId("ask").hidden = true;
    problem.textContent = "";
    draw();
  } catch (error) {
    byId("ask").hidden = !(error instanceof TokenError);
    problem.textContent = error instanceof TypeError ? `the daemon does not answer: ${error.message}` : error.message;
  }
  clearTimeout(timer);
  timer = setTimeout(() => tick(), PERIOD);
}

function controls() {
  const place = here();
  if (document.activeElement !== byId("filter")) byId("filter").value = place.q;
  byId("range").value = place.range || "300";
}

byId("ask").addEventListener("submit", (event) => { event.preventDefault(); keepToken(event.target.elements.token.value); });
byId("controls").addEventListener("submit", (event) => event.preventDefault());
byId("filter").addEventListener("input", (event) => { history.replaceState(null, "", link({ ...here(), q: event.target.value })); draw(); });
byId("range").addEventListener("change", (event) => { location.hash = link({ ...here(), range: event.target.value }); });
addEventListener("hashchange", () => { controls(); turn = 0; tick(); });
addEventListener("resize", () => connect(byId("topology")));
controls();
tick();
