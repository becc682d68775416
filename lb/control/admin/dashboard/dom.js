// Elements from data. Text only ever becomes text: nothing here reads HTML, so names of any kind are shown as they are.
const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const h = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
export const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
export const byId = (id) => document.getElementById(id);

// New children for an element that is drawn again and again: what had the focus has it again, by its data-key.
export function redraw(element, ...children) {
  const focused = element.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  const scrolled = [...element.querySelectorAll(".scroll")].map((box) => box.scrollLeft);
  element.replaceChildren(...children.flat(Infinity).filter((child) => child));
  [...element.querySelectorAll(".scroll")].forEach((box, i) => { box.scrollLeft = scrolled[i] || 0; });
  if (focused !== undefined) element.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

// A table: heads are [text, "n" for numbers], rows are arrays of cells (text, element, or {text, class, title}).
// On narrow screens each row is a card, and each cell has its head before it.
export function table(heads, rows, attributes = {}) {
  const cell = (value, i) => {
    const plain = value === null || typeof value !== "object" || value instanceof Node ? { text: value } : value;
    return h("td", { class: [heads[i][1], plain.class].filter(Boolean).join(" ") || null, title: plain.title, "data-label": heads[i][0] }, plain.text ?? "–");
  };
  return h("div", { class: "scroll" }, h("table", attributes,
    h("thead", {}, h("tr", {}, heads.map(([text, kind]) => h("th", { class: kind || null, scope: "col" }, text)))),
    h("tbody", {}, rows.map((row) => h("tr", row.attributes || {}, (row.cells || row).map(cell))))));
}

export const panel = (title, note, ...parts) => h("section", { class: `panel${title === "Last transitions" ? " broad" : ""}` }, h("h2", {}, title, " ", h("small", {}, note || "")), parts);
