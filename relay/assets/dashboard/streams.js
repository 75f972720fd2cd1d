// The list of streams, and the panel of the chosen one: its way, and what its receivers had.

import * as api from "./api.js";
import { $, count, el, many, ms, say, set, share, span, whole } from "./words.js";
import { agesFigure } from "./ages.js";
import { changed, choose, state } from "./state.js";

const rows = new Map();

export function drawStreams(overview) {
  const list = $("stream-list");
  if (overview.streams.length === 0) {
    rows.clear();
    list.replaceChildren(el("p", { class: "quiet" }, "No stream is published anywhere in the overlay."));
    return;
  }
  if (rows.size === 0) list.replaceChildren();
  const wanted = new Set(overview.streams.map(stream => stream.name));
  for (const [name, row] of rows) if (!wanted.has(name)) { row.remove(); rows.delete(name); }
  for (const stream of overview.streams) {
    if (!rows.has(stream.name)) rows.set(stream.name, newRow(stream.name));
    const row = rows.get(stream.name);
    if (!row.isConnected) list.append(row);
    const ends = stream.egresses.length > 0 ? stream.egresses.join(", ") : "nobody watches";
    say(row.lastChild, `${stream.ingress} → ${ends} · ${ms(stream.deadline_ms)}${stream.carried ? "" : " · not through this relay"}`);
    set(row, { "aria-pressed": state.chosen?.stream === stream.name, class: `row${stream.carried ? "" : " elsewhere"}` });
  }
}

const newRow = name => el("button", { type: "button", "data-stream": name, onclick: () => choose({ stream: name }) },
  el("b", {}, name), el("span", {}));

export function streamPanel(name) {
  const body = el("div");

  async function update(overview) {
    const stream = overview.streams.find(stream => stream.name === name);
    if (!stream) return body.replaceChildren(el("p", { class: "quiet" }, "It is published nowhere now."));
    if (!stream.carried) {
      state.stream = null;
      return body.replaceChildren(el("p", { class: "quiet" },
        `It does not pass through this relay. It enters at ${stream.ingress}: the dashboard there shows its way.`));
    }
    const { report, sinks } = await api.stream(name);
    if (state.chosen?.stream !== name) return;
    state.stream = report;
    body.replaceChildren(...detail(report, sinks, overview.name));
    changed();
  }

  return { title: name, body: [body], update };
}

function detail(report, sinks, here) {
  const edges = report.graph.length;
  const way = report.label === null
    ? `This relay is not its ingress: the map shows what is installed (${many(edges, "edge")}), not what of it is in force.`
    : `In force: ${report.spread.join(", ")}. Solid on the map where packets travel, dotted where they could from the next packet on.`;
  const counters = report.counters;
  const facts = [
    ["Enters at", report.ingress + (report.publisher ? `, from ${report.publisher}` : "")],
    ["Deadline", ms(report.deadline_ms)],
    ["Carries", report.sealed ? "sealed payloads" : report.content === "ts" ? "MPEG transport stream" : "datagrams"],
    ["Transport stream here", ts(report.ts)],
    ["Packets here", count(counters.unique)],
    ["Copies thrown away", count(counters.duplicates)],
    ["Saved by another way", count(counters.recovered_other_way)],
    ["Asked for again", count(counters.pulls)],
    ["Too late here", count(counters.late)],
    ["Sinks here", count(report.subscribers)],
  ];
  return [
    el("p", {}, way),
    el("dl", { class: "facts" }, facts.map(([title, value]) => el("div", {}, el("dt", {}, title), el("dd", {}, value)))),
    el("h3", {}, `Receivers at ${here}`),
    sinks.length > 0 ? receivers(sinks) : el("p", { class: "quiet" }, "No sink here has reported of it. Sinks at other relays are told of there."),
    ...ages(sinks, report.deadline_ms),
  ];
}

const TS_FAULTS = [
  ["sync_errors", "sync"], ["pat_errors", "PAT"], ["continuity_errors", "continuity"], ["pmt_errors", "PMT"],
  ["transport_errors", "marked broken"], ["pcr_repetition_errors", "PCR gaps"], ["pcr_discontinuities", "PCR jumps"],
];

/** How the transport stream in a stream is, in a few words. */
function ts({ state, health }) {
  if (state !== "checked") return { sealed: "sealed", not_ts: "none", off: "not looked at" }[state] ?? state;
  if (!health) return "not seen yet";
  const faults = TS_FAULTS.filter(([key]) => health[key] > 0).map(([key, what]) => `${count(health[key])} ${what}`);
  const clock = health.pcr_interval_ms === null ? "" : `, PCR within ${ms(health.pcr_interval_ms)}`;
  return (faults.join(", ") || "no errors") + clock;
}

/** How old packets were when they came to each receiver that tells it. */
function ages(sinks, deadline) {
  const figures = sinks.map(sink => agesFigure(sink, deadline)).filter(Boolean);
  if (figures.length === 0) return [];
  return [
    el("h3", {}, "Age on arrival"),
    el("div", { class: "charts" }, figures),
    el("p", { class: "quiet" }, `From the source to the receiver; the upright line is the deadline of ${ms(deadline)}. What is left to it is the margin.`),
  ];
}

function receivers(sinks) {
  const share_ = ({ on_time_share, due }) => el("td", { class: on_time_share === null || on_time_share >= 1 ? "" : on_time_share >= 0.9999 ? "slight" : "bad", title: many(due, "packet") + " due" }, whole(on_time_share));
  const rows = sinks.map(sink => el("tr", {}, el("th", { scope: "row" }, sink.sink), share_(sink.minute), share_(sink.hour), share_(sink.day),
    el("td", { class: "words" }, missed(sink))));
  const heads = ["Sink", "Minute", "Hour", "Day", "Missed today"].map(text => el("th", { scope: "col" }, text));
  return el("div", { class: "scroll" }, el("table", { class: "sla" },
    el("caption", {}, "Share on time"), el("thead", {}, el("tr", {}, heads)), el("tbody", {}, rows)));
}

/** What a sink missed, and on which hop. */
function missed({ day, reported_ago_s }) {
  const silent = reported_ago_s > 10 ? `silent for ${span(reported_ago_s)}; ` : "";
  if (day.due === day.on_time) return `${silent}nothing`;
  const hops = day.hops.map(hop => `${hop.from} → ${hop.to}: ${count(hop.packets)}`);
  if (day.unknown > 0) hops.push(`not known where: ${count(day.unknown)}`);
  return `${silent}${many(day.due - day.on_time, "packet")} (${share((day.due - day.on_time) / day.due)}); ${hops.join("; ")}`;
}
