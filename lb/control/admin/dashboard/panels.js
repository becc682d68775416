// The rest of what an operator asks: statuses, errors by kind, scaling, jobs, caches, the last reload, certificates, workers.
import { alerts, reload } from "./changes.js";
import { h, panel, table } from "./dom.js";
import { clock, count, date, percent, plural, rate, short, size, time } from "./format.js";
import { kind } from "./state.js";

const state = (value) => ({ text: value, class: kind(value) });

// Rows of a name, a number and a bar of its share.
function bars(rows, seconds) {
  const most = Math.max(1, ...rows.map(([, n]) => n));
  return table([[""], ["number", "n"], ["a second", "n"], [""]], rows.map(([name, n, style]) => [{ text: name, class: "wrap" }, { text: count(n), class: n ? style : "dim" }, rate(n / Math.max(1, seconds)), h("progress", { class: `bar ${style}`, max: most, value: n, "aria-hidden": "true" })]), { class: "bars" });
}

const STATUSES = [["2xx", "good"], ["3xx", "good"], ["4xx", "warn"], ["429", "warn"], ["5xx", "bad"], ["other", "idle"]];
const NAMES = { "4xx": "4xx, 429 apart", 429: "429 too many requests", other: "no status: client left, or a session" };
const GRPC_FAULTS = new Set(["Unknown", "DeadlineExceeded", "Unimplemented", "Internal", "Unavailable", "DataLoss"]);
const KINDS = {
  "route.rejected": "refused here: no valid credential, limit, queue or no endpoint (401, 403, 429, 503)",
  "route.timeouts": "deadline of the request passed",
  "endpoint.answers": "an endpoint answered with an error (5xx, or its gRPC status)",
  "endpoint.connect_errors": "no connection to the endpoint",
  "endpoint.local_connect_errors": "this host could begin no connection (ports, descriptors, memory)",
  "endpoint.response_errors": "answer broke off or broke the protocol",
  "endpoint.timeouts": "attempt without an answer in time",
  "queue.ended.full": "queue was full",
  "queue.ended.late": "would have been answered too late",
  "queue.ended.shed": "shed in an overload",
  "queue.ended.timeout": "waited too long in the queue",
  "queue.ended.left": "client left the queue",
  "route.client_aborts": "client left before the answer",
  "listener.rejected": "refused by a listener",
  "listener.timeouts": "first bytes did not come in time",
  "listener.rejected_requests.unrouted": "no route takes it (404, 405, 415)",
  "listener.rejected_requests.malformed": "not understood (400, 408, 414, 431)",
};

function statuses({ recent }) {
  const of = (prefix) => Object.entries(recent.counts).filter(([key]) => key.startsWith(prefix)).map(([key, n]) => [key.slice(prefix.length), n]);
  const rows = STATUSES.map(([name, style]) => [NAMES[name] || name, recent.counts[`route.requests.${name}`] || 0, style]);
  rows.push(["of them refused here (401, 403, 429, 503)", recent.counts["route.rejected"] || 0, "warn"]);
  const grpc = of("route.grpc.").sort((a, b) => b[1] - a[1]).map(([code, n]) => [`gRPC ${code}`, n, code === "OK" ? "good" : GRPC_FAULTS.has(code) ? "bad" : "warn"]);
  return panel("Statuses", `last ${time(recent.seconds)}`, bars([...rows, ...grpc], recent.seconds));
}

function errors({ recent }) {
  const dropped = Object.entries(recent.counts).filter(([key]) => key.startsWith("udp-listener.dropped.")).map(([key, n]) => [`datagram dropped: ${key.slice(21)}`, n, "warn"]);
  // Of the errors of endpoints, those without an answer have words of their own.
  const of = (word) => recent.counts[`endpoint.${word}`] || 0;
  const counts = { ...recent.counts, "endpoint.answers": Math.max(0, of("errors") - of("timeouts") - of("connect_errors") - of("response_errors")) };
  const rows = Object.entries(KINDS).map(([key, text]) => [text, counts[key] || 0, key.startsWith("endpoint") ? "bad" : "warn"]).filter(([, n]) => n).concat(dropped).sort((a, b) => b[1] - a[1]);
  return panel("Errors by kind", `last ${time(recent.seconds)}`, rows.length ? bars(rows, recent.seconds) : h("p", { class: "dim" }, "None."));
}

function scaling(pools) {
  return pools.map((pool) => {
    const row = pool.managed || pool.engine, found = row && row.scaling;
    if (!found) return null;
    const detail = Object.entries({ ...found.metrics, ...found.learned }).filter(([, value]) => typeof value !== "object");
    const forecast = detail.filter(([key]) => key.includes("forecast")), rest = detail.filter(([key]) => !key.includes("forecast"));
    const figure = ([key, value]) => {
      const [, name, unit] = key.match(/^(?:forecast_)?(.*?)(?:_(ms|s))?$/), words = name.replaceAll("_", " ");
      if (typeof value === "boolean") return `${words}: ${value ? "yes" : "no"}`;
      if (typeof value !== "number") return `${words}: ${value ?? "–"}`;
      return `${words} ${unit ? time(unit === "ms" ? value / 1e3 : value) : rate(value)}`;
    };
    return panel(`Scaling of ${short(pool.name, 24)}`, `rule ${found.rule}`,
      h("p", {}, h("b", {}, `${count(found.wanted)} wanted`), ` of ${found.min} to ${found.max}${found.recommended === null ? "" : `, ${rate(found.recommended)} recommended`}: ${found.reason}`),
      forecast.length ? h("p", {}, `Forecast: ${forecast.map(figure).join(" · ")}`) : null,
      rest.length ? h("p", { class: "dim" }, rest.map(figure).join(" · ")) : null,
      found.events.length ? table([["time"], ["from", "n"], ["to", "n"], ["reason"]], found.events.slice(-6).reverse().map((e) => [clock(e.at, true), e.from, e.to, { text: e.reason, class: "wrap" }])) : h("p", { class: "dim" }, "It has not changed yet."));
  });
}

function jobs(found) {
  if (!found) return null;
  const routes = new Map();
  for (const [route, name, n] of found.jobs) routes.set(route, { ...(routes.get(route) || {}), [name]: n });
  const names = ["queued", "running", "done", "failed", "dead", "cancelled"];
  const dead = found.jobs.some(([, name, n]) => name === "dead" && n);
  return panel("Jobs", `process ${found.state} · oldest queued ${time(found.oldest_s || 0)}`,
    table([["route"], ...names.map((name) => [name, "n"])], [...routes].map(([route, row]) => [short(route), ...names.map((name) => ({ text: count(row[name] || 0), class: name === "dead" && row[name] ? "bad" : "" }))])),
    dead ? h("p", { class: "bad" }, "Dead letters are listed by ", h("code", {}, "tidegate jobs list --state dead"), ".") : null,
    found.error ? h("p", { class: "bad" }, found.error) : null);
}

function cache(found) {
  if (!found || !("entries" in found)) return null;
  const hits = found.hits + found.stale, asked = hits + found.misses;
  const rejected = found.rejected_value + found.rejected_size + found.rejected_busy + found.rejected_purged;
  const rows = [["hit ratio", asked ? percent(hits / asked) : "–"], ["hits", count(found.hits)], ["stale", count(found.stale)], ["misses", count(found.misses)], ["compute saved", time(found.saved_us / 1e6)], ["entries", count(found.entries)], ["bytes", `${size(found.bytes)} of ${size(found.capacity)}`], ["evictions", count(found.evictions)], ["rejected", count(rejected)], ["purges", count(found.purges)]];
  const tier = found.tier ? Object.entries(found.tier.processes).map(([process, row]) => [process, state(row.state === "closed" ? "up" : "down"), count(row.hits), count(row.misses)]) : [];
  return panel("Result cache", "since the start", table([[""], ["", "n"]], rows), tier.length ? table([["cache tier, by process"], ["state"], ["hits", "n"], ["misses", "n"]], tier) : null);
}

function transitions(rows) {
  return rows.length ? panel("Last transitions", "", table([["time"], ["pool"], ["endpoint"], ["what"], ["from"], ["to"], ["reason"]], rows.map((c) => [clock(c.at, true), short(c.pool, 20), { text: short(c.endpoint), title: c.endpoint }, c.what, state(c.from), state(c.to), { text: c.reason, class: "dim wrap" }]))) : null;
}

function certificates(tls) {
  if (!tls || !tls.certificates.length) return null;
  const style = (s) => s <= 0 ? "bad" : s < 14 * 86400 ? "warn" : "good";
  return panel("Certificates", "", table([["of"], ["expires", "n"], ["file"], ["names"]], tls.certificates.map((c) => [{ text: short(c.owner, 24), title: c.owner }, { text: c.expires_in_s > 0 ? `in ${time(c.expires_in_s)}` : "expired", class: `n ${style(c.expires_in_s)}` }, { text: short(c.file, 24), title: c.file }, { text: c.names.join(", "), class: "wrap names" }]), { class: "cards labelled" }));
}

const workers = (rows) => panel("Workers", "", table([["worker"], ["pid", "n"], ["state"], ["connections", "n"], ["exchanges", "n"], ["sessions", "n"], ["restarts", "n"]],
  rows.map((w) => [w.index, w.pid ?? "–", state(w.state), count(w.stats?.connections ?? 0), count(w.stats?.exchanges ?? 0), count(w.stats?.sessions ?? 0), w.restarts])));

export function panels(overview, shown, again) {
  return [statuses(overview), errors(overview), ...scaling(shown.pools), jobs(overview.jobs), cache(overview.cache), reload(overview, again), alerts(overview.alerts, again), certificates(overview.tls), workers(overview.workers), transitions(overview.transitions)];
}
