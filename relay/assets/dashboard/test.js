// The line test: what a stream from this relay to another would get. Started here, and told as it goes.

import * as api from "./api.js";
import { $, count, el, many, ms, say, share, whole } from "./words.js";

const STAGES = {
  starting: "asking the other end", running: "under way", finishing: "waiting for the last packets", done: "done", stopped: "stopped", failed: "failed",
};

let fields = null;
let stop = null;
let names = "";
let test = null;

/** Called with every overview. */
export async function lineTest(overview) {
  if (!fields) make();
  offer(overview);
  const runs = overview.streams.some(({ name }) => name.startsWith("line-test/") && name.endsWith(`/${overview.name}`));
  // Asked only where there is one: a page that asks for what is not there has its browser complain.
  if (runs || (test && !over())) show(await api.lineTest());
}

const over = () => ["done", "stopped", "failed"].includes(test.stage);

function make() {
  const field = (id, label, input) => {
    input.id = `test-${id}`;
    return el("div", { class: "field" }, el("label", { for: input.id }, label), input);
  };
  fields = {
    to: el("select", {}),
    rate: el("input", { type: "text", value: "5 Mbit/s", autocomplete: "off", spellcheck: "false" }),
    duration_s: el("input", { type: "number", value: 10, min: 1, max: 600, step: "any" }),
    deadline_ms: el("input", { type: "number", value: 200, min: 1, max: 10000, step: "any" }),
  };
  stop = el("button", { type: "button", disabled: true, onclick: () => order(api.stopTest) }, "Stop");
  $("test-form").append(
    el("div", { class: "fields" },
      field("to", "To", fields.to), field("rate", "Rate", fields.rate),
      field("duration", "Seconds", fields.duration_s), field("deadline", "Deadline, ms", fields.deadline_ms)),
    el("div", { class: "act" }, el("button", { type: "submit", class: "primary" }, "Test"), stop, el("output", { class: "said", id: "test-said" })));
  $("test-form").addEventListener("submit", event => {
    event.preventDefault();
    order(() => api.startTest({
      to: fields.to.value, rate: fields.rate.value, duration_s: Number(fields.duration_s.value), deadline_ms: Number(fields.deadline_ms.value),
    }));
  });
}

function offer(overview) {
  const others = overview.relays.map(({ name }) => name).filter(name => name !== overview.name);
  if (names === others.join(" ")) return;
  names = others.join(" ");
  const chosen = fields.to.value;
  fields.to.replaceChildren(...others.map(name => el("option", { value: name, selected: name === chosen }, name)));
}

async function order(act) {
  try {
    show(await act());
  } catch (error) {
    say($("test-said"), error.message);
    $("test-said").className = "said wrong";
  }
}

function show(now) {
  test = now;
  const tone = test.stage === "failed" ? "said wrong" : "said done";
  const far = over() ? "" : `, ${Math.round(test.elapsed_s)} of ${test.duration_s} s`;
  say($("test-said"), `${test.from} → ${test.to}: ${STAGES[test.stage] ?? test.stage}${far}${test.reason ? `: ${test.reason}` : ""}`);
  $("test-said").className = tone;
  stop.disabled = over();
  $("test-result").replaceChildren(...result());
}

function result() {
  if (test.sent === 0) return [];
  const facts = [
    ["Sent", many(test.sent, "packet") + (test.not_sent > 0 ? `; ${count(test.not_sent)} not: this machine was too slow` : "")],
    [`In time (${ms(test.deadline_ms)})`, count(test.received)],
    ["Missing", count(test.missing)],
    ["Delay, half / 99 %", `${ms(test.delay.p50_ms)} / ${ms(test.delay.p99_ms)}`],
    ["Slowest", ms(test.delay.most_ms)],
    ["Jitter", ms(test.delay.jitter_ms)],
    ["Transmissions per packet", test.transmissions_per_packet.toFixed(2)],
  ];
  const lost = test.lost.map(({ from, to, packets }) => `${from} → ${to}: ${count(packets)}`);
  if (test.lost_unknown > 0) lost.push(`not known where: ${count(test.lost_unknown)}`);
  const heads = (...texts) => el("thead", {}, el("tr", {}, texts.map(text => el("th", { scope: "col" }, text))));
  // Deadlines that make no difference are left out, but for the one asked for, which is the last.
  const telling = test.delivered.filter(({ packets }, i, all) => i === all.length - 1 || packets !== (all[i - 1]?.packets ?? 0));
  const delivered = telling.map(({ deadline_ms, packets, share }) =>
    el("tr", {}, el("th", { scope: "row" }, ms(deadline_ms)), el("td", {}, count(packets)), el("td", {}, whole(share))));
  const hops = test.hops.map(hop => el("tr", {}, el("th", { scope: "row" }, `${hop.from} → ${hop.to}${hop.used ? "" : " (ready)"}`),
    el("td", {}, ms(hop.delay_ms)), el("td", {}, share(hop.lost)), el("td", {}, share(hop.left)), el("td", {}, share(hop.overhead))));
  return [
    el("dl", { class: "facts" }, facts.map(([title, value]) => el("div", {}, el("dt", {}, title), el("dd", {}, value)))),
    lost.length > 0 ? el("p", { class: "effect" }, `Lost on ${lost.join("; ")}`) : null,
    el("div", { class: "scroll" }, el("table", { class: "delivered" }, el("caption", {}, "What would have been delivered"), heads("By", "Packets", "Share"), el("tbody", {}, delivered))),
    el("div", { class: "scroll" }, el("table", {}, el("caption", {}, "Links on the way, over the last ten seconds"),
      heads("Link", "Delay", "Lost", "Left", "Repair"), el("tbody", {}, hops))),
  ].filter(Boolean);
}
