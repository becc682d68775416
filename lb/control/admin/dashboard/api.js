// Questions to the admin server. The token, where one is needed, stays in this tab; it goes along as a header, which pages
// of other sites cannot send.
const token = sessionStorage.getItem("token") || "";

export class TokenError extends Error {}

async function ask(path, options = {}) {
  const headers = { ...(token ? { Authorization: `Bearer ${token}` } : {}), ...(options.headers || {}) };
  const answer = await fetch(path, { ...options, headers, cache: "no-store" });
  if (answer.status === 401) throw new TokenError(token ? "this token is not accepted" : "a token is needed");
  const found = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(found.error || `${path}: ${answer.status}`), { answer: found });
  return found;
}

export const get = (path, query = {}) => {
  const parts = new URLSearchParams(Object.entries(query).filter(([, value]) => value !== "" && value !== undefined));
  return ask(parts.size ? `${path}?${parts}` : path);
};
export const post = (path, body) => ask(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
export function keepToken(value) { sessionStorage.setItem("token", value.trim()); location.reload(); }
