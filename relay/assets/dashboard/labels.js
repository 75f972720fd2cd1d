// The figures beside links: each where there is room for it, and none where there is not.

import { say, set } from "./words.js";

const LINE = 13;
const LETTER = 6.3;
const GAP = 11;

/** `figures` are `{ label, words, a, b, rank }` of every link; those of a higher rank are placed first, those below zero not at all. */
export function setLabels(figures, relays, { width, height }) {
  const centre = { x: mean(relays.map(({ x }) => x)), y: mean(relays.map(({ y }) => y)) };
  const taken = relays.flatMap(({ x, y }) => [box(x, y, 26, 26), box(x, y + 23, 40, 16)]);
  for (const { label, words, a, b, rank } of [...figures].sort((one, other) => other.rank - one.rank)) {
    const size = { w: Math.max(...words.map(line => line.length)) * LETTER, h: words.length * LINE };
    const within = ({ x, y, w, h }) => x > w / 2 && x < width - w / 2 && y > h / 2 && y < height - h / 2;
    const clear = place => !taken.some(other => overlap(place, other)) && !figures.some(line => crosses(place, line));
    const free = rank < 0 ? undefined : candidates(a, b, size, centre).find(place => within(place) && clear(place));
    set(label, { visibility: free ? null : "hidden" });
    if (!free) continue;
    taken.push(free);
    [...label.children].forEach((line, index) => {
      say(line, words[index] ?? "");
      set(line, { x: free.x.toFixed(1), y: (free.y - free.h / 2 + LINE * (index + 0.8)).toFixed(1), "text-anchor": "middle" });
    });
  }
}

/** Beside the line, first on its outer side, at the middle and towards either end. */
function candidates(a, b, { w, h }, centre) {
  const far = Math.hypot(b.x - a.x, b.y - a.y) || 1;
  const [nx, ny] = [-(b.y - a.y) / far, (b.x - a.x) / far];
  const off = GAP + Math.abs(nx) * w / 2 + Math.abs(ny) * h / 2;
  const outer = (a.x - centre.x) * nx + (a.y - centre.y) * ny >= 0 ? 1 : -1;
  return [0.5, 0.38, 0.62, 0.27, 0.73].flatMap(along => [outer, -outer].map(side =>
    box(a.x + (b.x - a.x) * along + nx * off * side, a.y + (b.y - a.y) * along + ny * off * side, w, h)));
}

const mean = values => values.reduce((sum, value) => sum + value, 0) / values.length;

const box = (x, y, w, h) => ({ x, y, w, h });

/** Whether a line passes through a box, by clipping it (Liang and Barsky). */
function crosses({ x, y, w, h }, { a, b }) {
  let [enter, leave] = [0, 1];
  for (const [from, to, middle, half] of [[a.x, b.x, x, w / 2 + 3], [a.y, b.y, y, h / 2 + 3]]) {
    const [way, low, high] = [to - from, middle - half - from, middle + half - from];
    if (Math.abs(way) < 1e-6) {
      if (low > 0 || high < 0) return false;
      continue;
    }
    const [first, last] = [low / way, high / way].sort((one, other) => one - other);
    enter = Math.max(enter, first);
    leave = Math.min(leave, last);
  }
  return enter < leave;
}

const overlap = (one, other) =>
  Math.abs(one.x - other.x) < (one.w + other.w) / 2 && Math.abs(one.y - other.y) < (one.h + other.h) / 2;
