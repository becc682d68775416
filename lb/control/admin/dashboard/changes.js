// The configuration: the last reload with what it changed, and the alerts that it asks for.
import { get, post } from "./api.js";
import { h, panel, table } from "./dom.js";
import { count, date, plural, short } from "./format.js";

const MOST = 12;
let asked = null, differences = null, unfolded = false;
let tested = null, testing = false;

// What the reload changed is asked for once, as it needs the file to be read twice.
async function look(at, again) {
  asked = at;
  differences = null;
  try {
    const found = await get("/api/v1/reload");
    if (asked !== at) return;
    differences = found ? found.differences : [];
  } catch { asked = null; }
  again();
}

const written = (value) => value === null ? "–" : typeof value === "string" ? value : JSON.stringify(value);
const cell = (value) => ({ text: short(written(value), 60), title: written(value).slice(0, 2000), class: "wrap" });

function changed(last) {
  if (differences === null) return h("p", { class: "dim" }, "What it changed is being read.");
  if (!differences.length) return h("p", { class: "dim" }, last.ok ? "The file says the same as before." : "");
  const rows = unfolded ? differences : differences.slice(0, MOST);
  return table([["setting"], [last.ok ? "before" : "in force"], [last.ok ? "now" : "refused"]], rows.map((d) => [{ text: d.setting, class: "wrap" }, cell(d.from), cell(d.to)]), { class: "cards changes labelled" });
}

export function reload({ last_reload: last, reloads, generation, config }, again) {
  if (last && asked !== last.at) look(last.at, again);
  const left = last && differences && !unfolded ? differences.length - MOST : 0;
  return panel("Configuration", `plan ${generation}`,
    h("p", { class: "wrap" }, h("code", {}, config), ` · ${plural(reloads.ok, "reload")} took effect, ${count(reloads.failed)} failed`),
    last ? h("p", { class: last.ok ? "good" : "bad" }, `Last reload ${last.ok ? "took effect" : "failed"}, ${date(last.at)}`, h("span", { class: "dim wrap" }, ` by ${last.by}`)) : h("p", { class: "dim" }, "It is that of the start."),
    last && !last.ok ? h("ul", { class: "bad" }, (last.problems.length ? last.problems : [last.error]).map((text) => h("li", {}, text))) : null,
    last && last.notes.length ? h("ul", {}, last.notes.map((text) => h("li", {}, `needs a restart: ${text}`))) : null,
    last ? changed(last) : null,
    left > 0 ? h("button", { class: "quiet", "data-key": "changes", onclick: () => { unfolded = true; again(); } }, `Show ${left} more`) : null);
}

async function test(again) {
  testing = true;
  tested = null;
  again();
  try {
    tested = { ok: true, text: await post("/api/v1/alerts/test", {}).then((found) => `${plural(found.receivers.length, "webhook")} took it.`) };
  } catch (error) {
    const failed = (error.answer?.receivers || []).filter((r) => r.status < 200 || r.status > 299);
    tested = { ok: false, text: failed.length ? failed.map((r) => `${r.receiver}: ${r.status ? `status ${r.status}` : "no answer"}`).join("; ") : error.message };
  }
  testing = false;
  again();
}

export function alerts(found, again) {
  if (!found) return null;
  const { delivered = 0, failed = 0, given_up = 0, dropped = 0 } = found.deliveries;
  return panel("Alerts", "by webhook",
    table([[""], ["", "n"]], [["problems that were told", count(found.firing)], ["messages that wait", count(found.waiting)], ["delivered", count(delivered)], ["attempts that failed", { text: count(failed), class: failed ? "n warn" : "n" }], ["given up or dropped", { text: count(given_up + dropped), class: given_up + dropped ? "n bad" : "n" }]]),
    h("p", { class: "buttons" }, h("button", { type: "button", id: "test-alert", "data-key": "test alert", disabled: testing, onclick: () => test(again) }, "Send a test alert"),
      tested ? h("span", { class: tested.ok ? "good" : "bad", role: "status", id: "tested" }, tested.text) : null));
}
