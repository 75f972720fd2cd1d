// The operations port, as the dashboard asks it.

const PATIENCE = 5000;

/** Asks; an answer that is none of success becomes an error with the relay's own words. */
export async function ask(path, options = {}) {
  const answer = await fetch(path, { signal: AbortSignal.timeout(PATIENCE), ...options });
  const body = await answer.json().catch(() => null);
  if (!answer.ok) throw new Error(body?.detail ?? `${answer.status} ${answer.statusText}`);
  return body;
}

const link = (from, to) => `api/v1/links/${encodeURIComponent(from)}/${encodeURIComponent(to)}`;

export const overlay = () => ask("api/v1/overlay");
export const repair = (from, to) => ask(link(from, to));
export const history = (from, to) => ask(`${link(from, to)}/history`);
export const stream = name => ask(`api/v1/streams/${name.split("/").map(encodeURIComponent).join("/")}`);

export const setRepair = (from, to, change) => ask(link(from, to), {
  method: "PUT",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(change),
});

export const lineTest = () => ask("api/v1/test");
export const stopTest = () => ask("api/v1/test", { method: "DELETE" });
export const startTest = wanted => ask("api/v1/test", {
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(wanted),
});

export const resetRepair = (from, to, persist) =>
  ask(`${link(from, to)}${persist ? "?persist=true" : ""}`, { method: "DELETE" });

const KINDS = [
  "peer-connected", "peer-gone", "link-up", "link-down", "link-troubled", "link-recovered", "stream-started", "stream-ended",
  "not-admitted", "subscribed", "unsubscribed", "policy-changed", "draining", "resumed", "reloaded", "reload-refused", "missed",
];

/** Listens to events for as long as the page is there. */
export function listen(heard, state) {
  const source = new EventSource("api/v1/events");
  source.onopen = () => state(true);
  source.onerror = () => state(false);
  for (const kind of KINDS) source.addEventListener(kind, message => heard(JSON.parse(message.data)));
}
