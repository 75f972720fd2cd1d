// A chart of the last fifteen minutes: one or two lines, gaps where there is nothing, its figures in words beside it.

import { el, svg } from "./words.js";

const SPAN = 900;
const WIDTH = 300;
const HEIGHT = 64;

/** `series` are `{ name, of }`, where `of` gives a point's value or null; `written` writes a value; `least` is the top of an empty chart. */
export function chart(title, points, step, series, written, least) {
  const values = series.map(({ of }) => points.map(of));
  const known = values.flat().filter(value => value !== null);
  const most = Math.max(...known, 0);
  const top = ceiling(Math.max(most, least));
  const last = values.map(line => line.at(-1) ?? null);
  const now = series.map(({ name }, i) => `${name} ${written(last[i])}`.trim());
  const label = `${title}, last 15 minutes: now ${now.join(", ")}; most ${written(most)}`;
  return el("figure", { class: "chart" },
    el("figcaption", {}, el("b", {}, title), ...series.map(({ name }, i) =>
      el("span", { class: `series s${i}` }, name ? `${name} ` : "now ", el("strong", {}, written(last[i]))))),
    el("div", { class: "plot" },
      el("span", { class: "top", "aria-hidden": "true" }, written(top)),
      svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": label },
        [0.25, 0.5, 0.75].map(part => svg("line", { class: "rule", x1: 0, x2: WIDTH, y1: HEIGHT * part, y2: HEIGHT * part })),
        [5, 10].map(minutes => WIDTH * (1 - minutes * 60 / SPAN)).map(x => svg("line", { class: "rule", x1: x, x2: x, y1: 0, y2: HEIGHT })),
        values.map((line, i) => svg("path", { class: `line s${i}`, d: path(points, line, step, top) })))),
    el("div", { class: "axis", "aria-hidden": "true" }, el("span", {}, "−15 min"), el("span", {}, "−10"), el("span", {}, "−5"), el("span", {}, "now")));
}

function path(points, line, step, top) {
  let path = "";
  let before = null;
  points.forEach((point, i) => {
    const value = line[i];
    if (value === null) return;
    const x = WIDTH * (1 - point.ago_s / SPAN);
    const y = HEIGHT - 1 - (HEIGHT - 2) * Math.min(value / top, 1);
    const joined = before !== null && before - point.ago_s < 2.5 * step;
    // A lone point is a dot: a line of no length with round ends.
    path += `${joined ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}${joined ? "" : "h0"}`;
    before = point.ago_s;
  });
  return path;
}

/** The next 1, 2 or 5 of a power of ten. */
function ceiling(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map(digit => digit * power).find(round => round >= value * 0.999999);
}
