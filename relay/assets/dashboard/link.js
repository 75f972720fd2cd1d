// The panel of a link: both directions as they are, its last fifteen minutes, and the controls of what this relay sends.

import * as api from "./api.js";
import { el, ms, rate, share, span } from "./words.js";
import { chart } from "./chart.js";
import { grade, lossWords, pairs } from "./map.js";
import { policyForm } from "./policy.js";

/** A panel that is kept while its link is chosen; `update` is called with every overview. */
export function linkPanel(link, overview) {
  const table = el("div");
  const charts = el("div", { class: "charts" });
  const [ends, name] = [link.slice(0, 2), link[2]];
  const here = ends.includes(overview.name);
  const other = here ? ends.find(end => end !== overview.name) + (name ? `~${name}` : "") : null;
  const policy = here ? policyForm(overview.name, other) : null;
  const note = here ? null : el("p", { class: "quiet" },
    `Its history and its controls are at the relays that send on it: open the dashboard of ${ends[0]} or of ${ends[1]}. ` +
    "What is shown here is what they tell the overlay, seconds old.");
  let asked = -Infinity;

  async function update(overview) {
    const now = pairs(overview).get(link.join(" "));
    table.replaceChildren(now ? directions(now.ways) : el("p", { class: "quiet" }, "No such link is known now."));
    if (!here) return;
    const theirs = now?.ways.find(way => way.to === other && way.gone_s === null);
    await Promise.all([policy.update(theirs), drawPast(overview.name, other)]);
  }

  async function drawPast(from, to) {
    if (performance.now() - asked < 4000) return;
    asked = performance.now();
    const past = await api.history(from, to);
    charts.replaceChildren(...pastCharts(past));
  }

  return { title: ends.join(" ⇄ ") + (name ? `, ${name}` : ""), body: [table, here ? el("h3", {}, "The last fifteen minutes") : null, charts, policy?.element, note], update };
}

const ROWS = [
  ["Media", way => rate(way.rate)],
  ["Lost on the wire", lossWords],
  ["Brought by repair", way => share(way.saved)],
  ["Left after repair", way => share(way.residual)],
  ["Repair sent, of media", way => share(way.overhead)],
  ["One-way delay", way => `${ms(way.delay_ms)} ± itself${way.late ? ", later than usual" : ""}`],
];

function directions(ways) {
  const head = way => el("th", { scope: "col", class: grade(way) }, `${way.from} → ${way.to}`);
  const state = way => el("td", {}, way.gone_s === null ? "up" : el("strong", { class: "gone" }, `gone for ${span(way.gone_s)}`));
  const cell = (way, of) => el("td", {}, way.gone_s === null ? of(way) : "–");
  return el("div", { class: "scroll" }, el("table", {},
    el("thead", {}, el("tr", {}, el("td"), ways.map(head))),
    el("tbody", {}, el("tr", {}, el("th", { scope: "row" }, "State"), ways.map(state)),
      ROWS.map(([title, of]) => el("tr", {}, el("th", { scope: "row" }, title), ways.map(way => cell(way, of)))))));
}

function pastCharts({ from, to, step_s, points }) {
  const both = (sent, received) => [{ name: `→ ${to}`, of: point => point[sent] }, { name: `→ ${from}`, of: point => point[received] }];
  return [
    chart("Lost on the wire", points, step_s, both("loss_sent", "loss_received"), share, 0.01),
    chart("Left after repair", points, step_s, both("residual_sent", "residual_received"), share, 0.0001),
    chart("Round trip", points, step_s, [{ name: "", of: point => point.rtt_ms }], value => value === null ? "–" : ms(value), 10),
    chart("Repair sent, of media", points, step_s, [{ name: `→ ${to}`, of: point => point.overhead_sent }], share, 0.01),
  ];
}
