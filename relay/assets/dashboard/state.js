// What is shown: the newest overview, and what the operator has chosen. The choice stands in the address, so that it can be sent to a colleague.

const followers = [];

export const state = {
  /** The newest answer of /api/v1/overlay. */
  overview: null,
  /** `{ link: [a, b] }`, `{ stream: name }` or null. */
  chosen: null,
  /** The newest answer about the chosen stream, for the map. */
  stream: null,
};

/** Calls `follower` after every change. */
export const follow = follower => followers.push(follower);

export const changed = () => followers.forEach(follower => follower(state));

/** The two ends of a link in the order by which a pair is known. */
export const pair = (a, b) => (a < b ? [a, b] : [b, a]);

export const isChosen = (a, b) => state.chosen?.link?.join(" ") === pair(a, b).join(" ");

export function choose(choice) {
  const hash = choice?.link ? `#link=${pair(...choice.link).join(",")}` : choice?.stream ? `#stream=${choice.stream}` : "#";
  if (location.hash !== hash) history.replaceState(null, "", hash);
  read();
}

function read() {
  const [kind, value] = location.hash.slice(1).split("=");
  const ends = (value ?? "").split(",");
  const before = JSON.stringify(state.chosen);
  if (kind === "link" && ends.length === 2) state.chosen = { link: pair(...ends) };
  else if (kind === "stream" && value) state.chosen = { stream: decodeURIComponent(value) };
  else state.chosen = null;
  if (JSON.stringify(state.chosen) !== before) state.stream = null;
  changed();
}

addEventListener("hashchange", read);
addEventListener("DOMContentLoaded", read);
