// What changes at the relay, in its own words.

import { $, el, say, time } from "./words.js";
import { listen } from "./api.js";

const MOST = 200;

const TONE = {
  "link-down": "bad", "link-troubled": "some", "reload-refused": "bad", "not-admitted": "bad", "peer-gone": "some", missed: "some",
  "link-up": "ok", "link-recovered": "ok", "policy-changed": "accent", draining: "some",
};

/** Shows events as they come, and calls `heard` after each. */
export function followEvents(heard) {
  const list = $("event-list");
  const empty = el("li", { class: "quiet" }, "Nothing has changed since this page was opened.");
  list.append(empty);
  listen(event => {
    empty.remove();
    list.prepend(el("li", { "data-kind": event.kind },
      el("i", { class: `dot ${TONE[event.kind] ?? "idle"}` }),
      el("time", { datetime: new Date(event.unix_ms).toISOString() }, time(event.unix_ms)), el("span", {}, event.words)));
    while (list.childElementCount > MOST) list.lastChild.remove();
    heard(event);
  }, connected => say($("listening"), connected ? "live" : "not connected"));
}
