// How things are, in one word that is also a class of the style sheet: bad, warn, good or idle. The sign says it without
// the colour.
export const SIGNS = { bad: "✕", warn: "▲", good: "●", idle: "○" };

const BAD = new Set(["down", "crash_loop", "failed", "ejected", "stale", "expired", "unready", "failing"]);
const GOOD = new Set(["up", "running", "ready", "enabled", "current", "closed", "valid", "unchecked"]);
export const kind = (word) => BAD.has(word) ? "bad" : GOOD.has(word) ? "good" : "warn";

export const errorShare = (now) => now && now.rate > 0 ? now.errors / now.rate : 0;
export const failing = (now) => now && now.errors > 0 ? (errorShare(now) >= 0.05 ? "bad" : "warn") : null;

export function ofEndpoint(e) {
  if (e.admin !== "enabled") return "idle";
  if (e.problem || e.health === "down" || e.ejection_state === "ejected") return "bad";
  return failing(e.now) || (e.health === "unknown" || e.ejection_state === "probation" || e.unready.length || e.turns < 1 ? "warn" : "good");
}
export const word = (e) => e.problem === "endpoint_failing" ? "failing" : e.admin !== "enabled" ? e.admin : e.ejection_state && e.ejection_state !== "well" ? e.ejection_state : e.health;

export const serves = (e) => e.admin === "enabled" && e.health !== "down" && e.ejection_state !== "ejected";
const asleep = (pool) => Boolean((pool.managed || pool.engine)?.on_demand?.asleep);

export function ofPool(pool) {
  if (!pool.endpoints.some(serves)) return asleep(pool) ? "idle" : "bad";
  if (pool.panic) return "bad";
  return pool.endpoints.some((e) => ofEndpoint(e) === "bad") ? "warn" : failing(pool.now) || "good";
}
export const ofRoute = (route) => route.problem ? (route.problem === "requests_refused" ? "warn" : "bad") : failing(route.now) || (route.now ? "good" : "idle");

const RANK = { bad: 0, warn: 1, good: 2, idle: 3 };
export const worstFirst = (rows, of) => rows.map((row, i) => [RANK[of(row)], i, row]).sort((a, b) => a[0] - b[0] || a[1] - b[1]).map(([, , row]) => row);
