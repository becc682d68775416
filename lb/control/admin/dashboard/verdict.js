// The overall verdict, and the problems behind it, critical ones first.
import { h } from "./dom.js";
import { plural, short, shortNames } from "./format.js";
import { link } from "./place.js";
import { SIGNS, serves } from "./state.js";

const WORDS = { failing: ["bad", "Failing"], degraded: ["warn", "Degraded"], well: ["good", "All well"] };
const MOST = 5;
let unfolded = false;

const target = (subject) => subject.pool ? link({ pool: subject.pool, endpoint: subject.endpoint, model: subject.model })
  : subject.route ? link({ route: subject.route }) : null;

function subjectOf(subject, poolNames) {
  const text = Object.entries(subject).map(([kind, name]) => h("span", { title: name }, `${kind.replace("_", " ")} `, h("b", {}, kind === "pool" && poolNames.get(name) || short(name))));
  const parts = text.flatMap((part, i) => i ? [", ", part] : [part]);
  const to = target(subject);
  return to ? h("a", { href: to }, parts) : h("span", {}, parts);
}

// Many of one kind in one pool are one row, which names the first.
function grouped(problems) {
  const groups = new Map();
  for (const problem of problems) {
    const key = JSON.stringify([problem.name, problem.severity, problem.subject.endpoint ? problem.subject.pool : problem.subject]);
    groups.set(key, [...(groups.get(key) || []), problem]);
  }
  return [...groups.values()].flatMap((group) => group.length < 4 || !group[0].subject.endpoint ? group
    : [{ ...group[0], subject: { pool: group[0].subject.pool }, text: `${plural(group.length, "endpoint")}: ${group.slice(0, 3).map((p) => short(p.subject.endpoint)).join(", ")} and others; the first: ${group[0].text}` }]);
}

const row = (problem, poolNames) => h("li", { class: problem.severity === "critical" ? "bad" : "warn", title: problem.text },
  h("span", { class: "sign", "aria-hidden": "true" }, SIGNS[problem.severity === "critical" ? "bad" : "warn"]),
  h("span", { class: "what" }, problem.name.replaceAll("_", " ")), " ", subjectOf(problem.subject, poolNames),
  h("span", { class: "dim text" }, ` ${problem.text}`));

export function verdict(overview, again) {
  const [style, word] = WORDS[overview.verdict];
  const { problems } = overview, all = problems.length + overview.problems_left_out, rows = grouped(problems);
  const critical = problems.filter((p) => p.severity === "critical").length;
  const endpoints = overview.pools.flatMap((pool) => pool.endpoints);
  const up = endpoints.filter(serves).length;
  const poolNames = shortNames(overview.pools.map((pool) => pool.name));
  const text = all ? `${plural(all, "problem")}${critical ? `, ${critical} critical` : ""}` : "no problem is known";
  return h("div", { class: `verdict ${style}` },
    h("p", { class: "word" }, h("span", { class: "sign", "aria-hidden": "true" }, SIGNS[style]), h("strong", {}, word), h("span", {}, ` ${text} · ${up} of ${plural(endpoints.length, "endpoint")} take${up === 1 ? "s" : ""} requests`)),
    all ? h("ul", {}, rows.slice(0, unfolded ? rows.length : MOST).map((problem) => row(problem, poolNames))) : null,
    rows.length > MOST ? h("button", { class: "quiet", "data-key": "problems", onclick: () => { unfolded = !unfolded; again(); } }, unfolded ? "Show fewer" : `Show ${rows.length - MOST} more`) : null,
    unfolded && overview.problems_left_out ? h("p", { class: "dim" }, `${overview.problems_left_out} more are not listed.`) : null);
}
