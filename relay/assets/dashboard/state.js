// What is shown: the newest overview, and what the operator has chosen. The choice stands in the address, so that it can be sent to a colleague.

const followers = [];

export const state = {
  /** The newest answer of /api/v1/overlay. */
  overview: null,
  /** `{ link: [a, b] }`, or `[a, b, name]` where the link has a name, `{ stream: name }` or null. */
  chosen: null,
  /** The newest answer about the chosen stream, for the map. */
  stream: null,
};

/** Calls `follower` after every change. */
export const follow = follower => followers.push(follower);

export const changed = () => followers.forEach(follower => follower(state));

/** The two ends of a link in the order by which a pair is known, and the link's name where it has one. */
const known = ([a, b, ...name]) => [...(a < b ? [a, b] : [b, a]), ...name];

/** The link of which `way` is a direction. */
export const linkOf = way => known([way.from, ...way.to.split("~")]);

export const isChosen = link => state.chosen?.link?.join(" ") === link.join(" ");

export function choose(choice) {
  const hash = choice?.link ? `#link=${choice.link.join(",")}` : choice?.stream ? `#stream=${choice.stream}` : "#";
  if (location.hash !== hash) history.replaceState(null, "", hash);
  read();
}

function read() {
  const [kind, value] = location.hash.slice(1).split("=");
  const link = (value ?? "").split(",");
  const before = JSON.stringify(state.chosen);
  if (kind === "link" && (link.length === 2 || link.length === 3)) state.chosen = { link: known(link) };
  else if (kind === "stream" && value) state.chosen = { stream: decodeURIComponent(value) };
  else state.chosen = null;
  if (JSON.stringify(state.chosen) !== before) state.stream = null;
  changed();
}

addEventListener("hashchange", read);
addEventListener("DOMContentLoaded", read);
