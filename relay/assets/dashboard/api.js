// The operations port, as the dashboard asks it.

import { request } from "./token.js";

const PATIENCE = 5000;

// Before the events are listened to anew.
const PAUSE = 2000;

/** Asks; an answer that is none of success becomes an error with the relay's own words. */
export async function ask(path, options = {}) {
  const answer = await request(path, { patience: PATIENCE, ...options });
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

/** Listens to events for as long as the page is there. An EventSource could not bring the token. */
export async function listen(heard, state) {
  for (;;) {
    try {
      const answer = await request("api/v1/events");
      if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
      state(true);
      for await (const data of messages(answer.body)) heard(JSON.parse(data));
    } catch {
      // What is wrong is told by the questions that the page asks.
    }
    state(false);
    await new Promise(done => setTimeout(done, PAUSE));
  }
}

/** The data of server-sent events, each of one line. */
async function* messages(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) if (line.startsWith("data: ")) yield line.slice(6);
  }
}
