// Where the reader is, in the page's address: #pool=chat&endpoint=…&q=…&range=900. Every state has a link.
const FIELDS = ["route", "pool", "endpoint", "model", "q", "range"];

export function here() {
  const parts = new URLSearchParams(location.hash.slice(1));
  return Object.fromEntries(FIELDS.map((field) => [field, parts.get(field) || ""]));
}

// A link to what `wanted` names; the filter and the span of the charts stay.
export function link(wanted) {
  const { q, range } = here();
  const parts = new URLSearchParams();
  for (const [field, value] of Object.entries({ q, range, ...wanted })) if (value) parts.set(field, value);
  return `#${parts}`;
}

// What a filter leaves. A pool stays by its own name, that of a route to it, or that of one of its endpoints.
export function filtered(overview, place) {
  const text = place.q.toLowerCase();
  const has = (...names) => names.some((name) => String(name).toLowerCase().includes(text));
  const direct = new Set(), partly = new Map();
  for (const pool of overview.pools) {
    if (has(pool.name)) direct.add(pool.name);
    const found = pool.endpoints.filter((e) => has(e.address));
    if (found.length) partly.set(pool.name, found);
  }
  const named = overview.routes.filter((route) => has(route.name, route.path, route.host));
  const routes = overview.routes.filter((r) => place.route ? r.name === place.route
    : place.pool ? r.pools.includes(place.pool) : named.includes(r) || r.pools.some((p) => direct.has(p) || partly.has(p)));
  const led = new Set([...named, ...(place.route ? routes : [])].flatMap((route) => route.pools));
  const pools = [];
  for (const pool of overview.pools) {
    if (place.pool ? pool.name !== place.pool : place.route ? !routes.some((r) => r.pools.includes(pool.name)) : false) continue;
    if (direct.has(pool.name) || led.has(pool.name)) pools.push(pool);
    else if (partly.has(pool.name)) pools.push({ ...pool, endpoints: partly.get(pool.name) });
  }
  const there = new Set(pools.map((pool) => pool.name));
  const models = overview.models.filter((m) => place.model ? m.name === place.model && m.pool === place.pool
    : place.pool || place.route ? there.has(m.pool) : there.has(m.pool) || has(m.name, m.pool));
  return { routes, pools, models };
}
