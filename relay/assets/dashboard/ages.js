// How old packets were when they came to a receiver, as bars, with the deadline among them and the same in words.

import { count, el, many, ms, svg, whole } from "./words.js";

const WIDTH = 300;
const HEIGHT = 64;

/** The classes of a span as far as any packet is in them; `past` are those after the deadline. Null where nothing is told. */
function classes({ ages }, deadline) {
  const all = ages.reduce((sum, age) => sum + age.packets, 0);
  if (all === 0) return null;
  const first = Math.max(0, ages.findIndex(age => age.packets > 0) - 1);
  const last = ages.findLastIndex(age => age.packets > 0);
  // Up to the class of the deadline: the room between the last packet and it is the margin.
  const bound = ages.findIndex(age => age.up_to_ms === null || age.up_to_ms >= deadline);
  const shown = ages.slice(first, Math.max(last, bound) + 1);
  let come = 0;
  return { all, bars: shown.map(({ up_to_ms, packets }) => {
    come += packets;
    return { up_to_ms, packets, come: come / all, past: up_to_ms === null || up_to_ms > deadline };
  }) };
}

const upTo = ({ up_to_ms }) => up_to_ms === null ? "older" : `up to ${ms(up_to_ms)}`;

/** The age by which so large a share had come. */
const by = (bars, share) => upTo(bars.find(bar => bar.come >= share) ?? bars.at(-1));

/** One figure for a receiver: the last minute, or the hour where the minute has nothing. */
export function agesFigure(sink, deadline) {
  const [span, name] = [[sink.minute, "minute"], [sink.hour, "hour"]].find(([span]) => span.ages.some(age => age.packets > 0)) ?? [null, null];
  const found = span && classes(span, deadline);
  if (!found) return null;
  const { all, bars } = found;
  const most = Math.max(...bars.map(bar => bar.packets));
  const wide = WIDTH / bars.length;
  const label = `Age of packets at ${sink.sink} over the last ${name}: half ${by(bars, 0.5)}, 99 % ${by(bars, 0.99)}, all ${by(bars, 1)}; deadline ${ms(deadline)}`;
  const bar = ({ packets, past }, i) => {
    // What is there at all shall be seen.
    const high = packets === 0 ? 0 : Math.max(1.5, HEIGHT * packets / most);
    return svg("rect", { class: past ? "bar past" : "bar", x: i * wide + 0.5, y: HEIGHT - high, width: Math.max(wide - 1, 0.5), height: high });
  };
  const titled = (item, i) => svg("g", {}, svg("title", {}, `${upTo(item)}: ${many(item.packets, "packet")}, ${whole(item.come)} come by then`), bar(item, i));
  const late = bars.findIndex(item => item.past);
  const line = late < 0 ? WIDTH : late * wide;
  return el("figure", { class: "chart ages", "data-ages": sink.sink },
    el("figcaption", {}, el("b", {}, sink.sink),
      el("span", {}, "half ", el("strong", {}, by(bars, 0.5))), el("span", {}, "99 % ", el("strong", {}, by(bars, 0.99))), el("span", {}, "all ", el("strong", {}, by(bars, 1)))),
    el("div", { class: "plot" },
      svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": label },
        bars.map(titled),
        svg("line", { class: "deadline", x1: line, x2: line, y1: 0, y2: HEIGHT }))),
    el("div", { class: "axis", "aria-hidden": "true" }, el("span", {}, upTo(bars[0])), el("span", {}, `${count(all)} in the last ${name}`), el("span", {}, upTo(bars.at(-1)))));
}
