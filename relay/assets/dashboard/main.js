// The dashboard of a relay: asks for the overlay once a second while somebody looks, and draws it.

import * as api from "./api.js";
import { $, el, many, say, set, span } from "./words.js";
import { changed, choose, follow, state } from "./state.js";
import { draw, pairs } from "./map.js";
import { drawStreams, streamPanel } from "./streams.js";
import { followEvents } from "./events.js";
import { linkPanel } from "./link.js";
import { lineTest } from "./test.js";

const EVERY = 1000;

let panel = null;
let heard = performance.now();
let refreshing = null;
let again = false;

/** Asks once; what is asked meanwhile is asked once more at the end. */
function refresh() {
  if (refreshing) {
    again = true;
    return;
  }
  refreshing = look().finally(() => {
    refreshing = null;
    if (again) {
      again = false;
      refresh();
    }
  });
}

async function look() {
  try {
    state.overview = await api.overlay();
    heard = performance.now();
    changed();
    await Promise.all([panel?.update(state.overview), lineTest(state.overview)]);
    trouble("");
  } catch (error) {
    trouble(error.message);
  }
}

function trouble(words) {
  const silent = (performance.now() - heard) / 1000;
  const draining = state.overview?.draining;
  const [text, tone] = silent > 4 ? [`no answer for ${span(silent)}`, "bad"] : draining ? ["draining", "some"] : ["serving", "ok"];
  if (!state.overview && silent <= 4) return;
  say($("state"), text);
  set($("state"), { class: `pill ${tone}`, title: words || null });
}

follow(({ overview, chosen }) => {
  if (!overview) return;
  document.title = `${overview.name}: Anabranch relay`;
  say($("name"), overview.name);
  const all = [...pairs(overview).values()];
  const gone = all.filter(({ ways }) => ways.every(way => way.gone_s !== null)).length;
  say($("summary"), [
    many(overview.relays.length, "relay"), many(all.length - gone, "link") + (gone > 0 ? `, ${gone} gone` : ""),
    many(overview.streams.length, "stream"), many(overview.clients, "client") + " here", `up ${span(overview.uptime_s)}`,
  ].join(" · "));
  drawPanel(chosen, overview);
  draw();
  drawStreams(overview);
  drawNeighbours(overview.neighbours.filter(neighbour => !["up", "itself"].includes(neighbour.state)));
});

function drawPanel(chosen, overview) {
  const key = JSON.stringify(chosen);
  if (panel?.key === key || (!panel && !chosen)) return;
  const from = panel?.chosen;
  panel = chosen ? { key, chosen, ...(chosen.link ? linkPanel(chosen.link, overview) : streamPanel(chosen.stream)) } : null;
  $("nothing").hidden = panel !== null;
  [...$("panel").children].filter(child => child.id !== "nothing").forEach(child => child.remove());
  if (!panel) return focusOn(from);
  const title = el("h2", { tabindex: -1 }, panel.title);
  const close = el("button", { type: "button", class: "close", "aria-label": "Close", onclick: () => choose(null) }, "✕");
  $("panel").append(el("div", { class: "title" }, title, close), ...panel.body.filter(Boolean));
  title.focus({ preventScroll: matchMedia("(min-width: 60rem)").matches });
  refresh();
}

/** The focus goes back to what was open. */
function focusOn(chosen) {
  const mark = chosen?.link ? ["data-link", chosen.link.join(" ")] : ["data-stream", chosen?.stream];
  [...document.querySelectorAll(`[${mark[0]}]`)].find(element => element.getAttribute(mark[0]) === mark[1])?.focus();
}

function drawNeighbours(missing) {
  $("neighbours").hidden = missing.length === 0;
  $("neighbour-list").replaceChildren(...missing.map(({ name, address, link, state, last_error }) =>
    el("li", {}, el("b", {}, `${name ?? address ?? "?"}${link ? `~${link}` : ""}`), ` ${state}${last_error ? `: ${last_error}` : ""}`)));
}

addEventListener("keydown", event => {
  if (event.key === "Escape" && state.chosen) choose(null);
});
document.addEventListener("visibilitychange", () => document.hidden || refresh());
setInterval(() => document.hidden || refresh(), EVERY);
if (matchMedia("(max-width: 60rem)").matches) $("legend").open = false;
followEvents(refresh);
refresh();
