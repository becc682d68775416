// Drain, maintenance and weight of an endpoint. A change says what it does, and is made after a second click.
import { post } from "./api.js";
import { byId, h } from "./dom.js";
import { count, plural } from "./format.js";
import { serves } from "./state.js";

const EFFECT = {
  enabled: "It gets requests again.",
  drain: "It gets no new requests but those of its sessions and sequences; running requests finish.",
  maintenance: "It gets no requests at all; running requests finish.",
};

export function operate(pool, endpoint, changed) {
  const dialog = byId("dialog");
  const last = serves(endpoint) && pool.endpoints.filter(serves).length === 1;
  const close = () => dialog.close();
  const title = h("h2", { id: "dialog-title" }, endpoint.address);
  const facts = h("p", { class: "dim" }, `Pool ${pool.name} · ${endpoint.health} · ${endpoint.admin} · weight ${endpoint.weight} · ${plural(endpoint.in_flight, "request")} in flight`);

  function confirm(update, text) {
    const problem = h("p", { class: "bad", role: "alert" });
    const danger = last && (update.admin === "drain" || update.admin === "maintenance" || update.weight === 0);
    const yes = h("button", { class: danger ? "danger" : "primary", type: "button", id: "confirm", onclick: async () => {
      yes.disabled = true;
      try {
        await post("/api/v1/endpoint", { pool: pool.name, address: endpoint.address, ...update });
        close();
        changed();
      } catch (error) {
        problem.textContent = error.message;
        yes.disabled = false;
      }
    } }, "Yes, do it");
    dialog.replaceChildren(title, facts, h("p", {}, text), danger ? h("p", { class: "bad" }, `▲ It is the last endpoint of pool ${pool.name} that takes requests.`) : "", problem,
      h("p", { class: "buttons" }, yes, h("button", { type: "button", onclick: close }, "Cancel")));
    yes.focus();
  }

  const weight = h("input", { type: "number", min: 0, max: 1000, step: 1, value: endpoint.weight, id: "weight", required: true });
  dialog.replaceChildren(title, facts,
    h("p", { class: "buttons" }, Object.keys(EFFECT).map((state) => h("button", { type: "button", disabled: state === endpoint.admin, "data-state": state, onclick: () => confirm({ admin: state }, `Set ${endpoint.address} to “${state}”? ${EFFECT[state]}`) }, state))),
    h("form", { class: "buttons", onsubmit: (event) => {
      event.preventDefault();
      confirm({ weight: Number(weight.value) }, `Change the weight of ${endpoint.address} from ${count(endpoint.weight)} to ${count(Number(weight.value))}? Of all weights of its priority, its part is the part of the requests that it gets.`);
    } }, h("label", {}, "Weight ", weight), h("button", {}, "Set"), h("button", { type: "button", onclick: () => confirm({ weight: "default" }, `Set the weight of ${endpoint.address} back to that of the configuration?`) }, "Default")),
    h("p", { class: "dim" }, "A change holds until it is changed back, over reloads and not over a restart."),
    h("p", { class: "buttons" }, h("button", { type: "button", onclick: close }, "Close")));
  dialog.showModal();
}
