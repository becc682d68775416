// Inferences by model, as the daemon counts them: those with a problem first, then by any column.
import { h, table } from "./dom.js";
import { percent, plural, rate, short, time } from "./format.js";
import { link } from "./place.js";
import { SIGNS, errorShare, failing } from "./state.js";

const MOST = 20;
const COLUMNS = {
  "requests/s": [(now) => now.rate, rate],
  p50: [(now) => now.p50, time],
  p95: [(now) => now.p95, time],
  p99: [(now) => now.p99, time],
  errors: [(now) => errorShare(now), percent],
  "429/s": [(now) => now["429"], rate],
  "refused/s": [(now) => now.refused, rate],
};
let order = "requests/s", unfolded = false;

const stateOf = (m) => m.problem ? "bad" : failing(m.now) || (m.now?.rate ? "good" : "idle");

export function models(overview, shown, place, again) {
  if (!shown.models.length) return [];
  const value = (m) => COLUMNS[order][0](m.now || {}) || 0;
  const rows = [...shown.models].sort((a, b) => Boolean(b.problem) - Boolean(a.problem) || value(b) - value(a));
  const listed = unfolded || place.model ? rows : rows.slice(0, MOST), left = overview.models_left_out;
  return [
    h("h2", {}, "Models ", h("small", {}, "as the daemon counts inferences, those with a problem first")),
    h("p", { class: "choices", role: "group", "aria-label": "Sort models by" }, h("span", { class: "dim small" }, "by"), Object.keys(COLUMNS).map((name) => h("button", { "aria-pressed": String(name === order), "data-key": `models ${name}`, onclick: () => { order = name; again(); } }, name))),
    table([["model"], ["pool"], ...Object.keys(COLUMNS).map((name) => [name, "n"])], listed.map((m) => ({
      attributes: { class: stateOf(m) },
      cells: [
        { text: h("span", {}, h("span", { class: "sign" }, SIGNS[stateOf(m)]), " ", h("a", { href: link({ pool: m.pool, model: m.name }), "data-key": `model ${m.pool} ${m.name}` }, short(m.name, 40))), title: m.name },
        { text: short(m.pool || "–", 24), title: m.pool },
        ...Object.values(COLUMNS).map(([of, format]) => m.now ? format(of(m.now)) : "–"),
      ],
    })), { class: "cards labelled" }),
    rows.length > listed.length ? h("button", { class: "quiet", "data-key": "models more", onclick: () => { unfolded = true; again(); } }, `Show ${rows.length - listed.length} more`) : null,
    left ? h("p", { class: "dim" }, `${plural(left, "further model")}, less busy: `, h("code", {}, "tidegate top --by model"), " has all.") : null,
  ];
}
