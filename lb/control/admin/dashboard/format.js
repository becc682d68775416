// Numbers with their units, and names that fit.
const digits = (value, n = 3) => Number(value.toPrecision(n)).toLocaleString("en", { maximumFractionDigits: 6 });
export const known = (value) => value !== null && value !== undefined && !Number.isNaN(value);

export const count = (value) => known(value) ? Math.round(value).toLocaleString("en") : "–";
export const rate = (value) => known(value) ? (value >= 100 ? count(value) : digits(value)) : "–";
export const percent = (part) => known(part) ? `${digits(100 * part)} %` : "–";
export const size = (bytes) => {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let i = 0;
  while (bytes >= 1024 && i < units.length - 1) { bytes /= 1024; i++; }
  return `${digits(bytes)} ${units[i]}`;
};
export function time(s) {
  if (!known(s)) return "–";
  if (s === 0) return "0 s";
  if (s < 1e-3) return `${digits(s * 1e6)} µs`;
  if (s < 1) return `${digits(s * 1e3)} ms`;
  return s < 120 ? `${digits(s)} s` : s < 7200 ? `${digits(s / 60)} min` : s < 172800 ? `${digits(s / 3600)} h` : `${digits(s / 86400)} d`;
}
export const clock = (seconds, whole = false) => new Date(seconds * 1000).toLocaleTimeString("sv", whole ? {} : { hour: "2-digit", minute: "2-digit" });
export const date = (seconds) => new Date(seconds * 1000).toLocaleString("sv");
export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

// The middle of a long name goes; its end tells it from others.
export function short(name, most = 30) {
  const text = String(name);
  if (text.length <= most) return text;
  const slash = text.lastIndexOf("/");
  if (slash > 0 && text.length - slash < most) return `…${text.slice(slash)}`;
  const head = Math.floor((most - 1) / 3);
  return `${text.slice(0, head)}…${text.slice(text.length - (most - 1 - head))}`;
}

const SEPARATORS = /[/.:_-]/;

// Names for a family: what all have in common in front, up to a separator, is left out where they are long, and then what
// they have in common behind. No two get the same name.
export function shortNames(names, most = 30) {
  const found = new Map(names.map((name) => [name, short(name, most)]));
  if (new Set(found.values()).size === found.size) return found;
  let common = names[0] || "";
  for (const name of names) while (!name.startsWith(common)) common = common.slice(0, -1);
  common = common.slice(0, Math.max(common.lastIndexOf("/"), common.lastIndexOf(".")) + 1);
  for (const name of names) found.set(name, common ? `…${name.slice(common.length)}` : name);
  return [...found.values()].some((name) => name.length > most) ? middles(names, most) : found;
}

// By what is different in the middle, with as much of the common beginning and end around it as there is room for.
function middles(names, most) {
  let front = names[0], back = names[0];
  for (const name of names) while (!name.startsWith(front)) front = front.slice(0, -1);
  while (front && !SEPARATORS.test(front.at(-1))) front = front.slice(0, -1);
  const rests = names.map((name) => name.slice(front.length));
  back = rests[0];
  for (const rest of rests) while (!rest.endsWith(back)) back = back.slice(1);
  while (back && !SEPARATORS.test(back[0])) back = back.slice(1);
  return new Map(names.map((name, i) => {
    const middle = rests[i].slice(0, rests[i].length - back.length);
    const room = Math.max(0, Math.floor((most - middle.length - 2) / 2));
    const head = front.length <= room ? front : `${front.slice(0, room)}…`;
    return [name, `${head}${middle}${back.length <= room ? back : `…${back.slice(back.length - room)}`}`];
  }));
}
