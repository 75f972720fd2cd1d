// The overlay, drawn: a lane for each direction of each link, coloured by what stays lost and as wide as its load.

import { $, ms, rate, say, set, share, span, svg } from "./words.js";
import { choose, isChosen, linkOf, state } from "./state.js";
import { layout } from "./layout.js";
import { setLabels } from "./labels.js";

const root = $("map");
const layers = ["grid", "links", "labels", "relays"].map(name => svg("g", { class: name }));
root.append(...layers);
const [grid, linkLayer, labelLayer, relayLayer] = layers;
const links = new Map();
const relays = new Map();
let size = { width: 0, height: 0 };
let laid = { key: "" };

new ResizeObserver(([entry]) => {
  size = { width: Math.round(entry.contentRect.width), height: Math.round(entry.contentRect.height) };
  draw();
}).observe(root);

/** What relays tell each other among the media is no media: up to so many bits per second. */
const BARELY = 8000;

/** By what stays lost, and whether anything goes over it. */
export function grade(link) {
  if (link.gone_s !== null) return "gone";
  if (!(link.rate > BARELY)) return "idle";
  if (link.residual === null || link.residual < 1e-6) return "ok";
  return link.residual < 1e-4 ? "slight" : link.residual < 1e-2 ? "some" : "bad";
}

const isCounted = link => link.rate > BARELY && link.saved !== null;

/** Share of the media lost on the wire: what its receiving end counts, or the level that routes are chosen by. */
const wireLoss = link => isCounted(link) ? Math.min(link.saved + link.residual, 1) : link.loss;

/** The same in words. The lowest level that routes are chosen by is 2 %. */
export const lossWords = link => isCounted(link) ? share(wireLoss(link)) : link.loss > 0 ? `≥ ${share(link.loss)}` : "< 2 %";

const GRADES = ["idle", "ok", "slight", "some", "bad", "gone"];
const worse = (a, b) => {
  const by = GRADES.indexOf(grade(a)) - GRADES.indexOf(grade(b)) || wireLoss(a) - wireLoss(b) || (a.rate ?? 0) - (b.rate ?? 0);
  return by >= 0 ? a : b;
};

/** The links of the overlay, both directions together. Those that join the same two relays lie side by side: `beside` counts from the middle. */
export function pairs(overview) {
  const all = new Map();
  const parallel = new Map();
  for (const way of overview.links) {
    const link = linkOf(way);
    const [key, ends] = [link.join(" "), link.slice(0, 2)];
    if (!all.has(key)) {
      all.set(key, { link, ends, ways: [], beside: 0 });
      parallel.set(ends.join(" "), [...parallel.get(ends.join(" ")) ?? [], key]);
    }
    all.get(key).ways.push(way);
  }
  for (const keys of parallel.values()) keys.sort().forEach((key, nth) => { all.get(key).beside = nth - (keys.length - 1) / 2; });
  return all;
}

/** Pixels between the middles of two links that join the same relays. */
const APART = 26;

export function draw() {
  const overview = state.overview;
  if (!overview || size.width < 50) return;
  const all = pairs(overview);
  const names = new Map(overview.relays.map(relay => [relay.name, relay]));
  // A relay that is gone with its links is still drawn where they led.
  for (const { ends } of all.values()) for (const name of ends) if (!names.has(name)) names.set(name, { name, location: null, gone: true });
  const key = JSON.stringify([size, [...names.values()].map(relay => [relay.name, relay.location]), [...all.keys()].sort()]);
  if (key !== laid.key) {
    const joined = new Map([...all.values()].map(({ ends }) => [ends.join(" "), ends]));
    laid = { key, ...layout([...names.values()], [...joined.values()], size.width, size.height) };
    set(root, { viewBox: `0 0 ${size.width} ${size.height}` });
    drawGrid(laid.grid);
  }
  const ways = streamWays();
  sync(links, all, newLink, (drawn, link) => updateLink(drawn, link, ways));
  sync(relays, names, newRelay, (drawn, relay) => updateRelay(drawn, relay, overview));
  setLabels([...links.values()].map(({ figures }) => figures), [...laid.at.values()], size);
}

/** Keeps one drawing per key, so that the focus stays where it is. */
function sync(drawings, wanted, create, update) {
  for (const [key, drawing] of drawings) {
    if (!wanted.has(key)) {
      drawing.parts.forEach(part => part.remove());
      drawings.delete(key);
    }
  }
  for (const [key, thing] of wanted) {
    if (!drawings.has(key)) drawings.set(key, create(thing));
    update(drawings.get(key), thing);
  }
}

function drawGrid(lines) {
  grid.replaceChildren(...lines.flatMap(({ x, y, label }) => [
    svg("line", x === undefined ? { x1: 0, x2: size.width, y1: y, y2: y } : { x1: x, x2: x, y1: 0, y2: size.height }),
    svg("text", x === undefined ? { x: 6, y: y - 4 } : { x: x + 4, y: size.height - 6 }, label),
  ]));
}

/** The edges of the chosen stream: `lit` where packets travel, `ready` where they could from the next packet on. */
function streamWays() {
  const stream = state.stream;
  if (!state.chosen?.stream || !stream) return null;
  const inForce = stream.label === null ? null : stream.label & 0xffff;
  return new Map(stream.graph.map(edge =>
    [`${edge.from} ${edge.to}`, inForce === null || (inForce & edge.modules) ? "lit" : "ready"]));
}

function newLink({ link }) {
  const open = () => choose({ link });
  const lanes = [0, 1].map(() => ({ line: svg("path", { class: "lane" }), arrow: svg("path", { class: "arrow" }) }));
  const hit = svg("path", { class: "hit" });
  const group = svg("g", {
    class: "link", tabindex: 0, role: "button", "data-link": link.join(" "), onclick: open,
    onkeydown: event => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); open(); } },
  }, hit, lanes.flatMap(({ line, arrow }) => [line, arrow]));
  const label = svg("text", { class: "figures", "aria-hidden": "true" }, svg("tspan"), svg("tspan"));
  linkLayer.append(group);
  labelLayer.append(label);
  return { parts: [group, label], group, hit, lanes, label };
}

function updateLink(drawn, { link, ends, ways, beside }, streams) {
  const [one, other] = ends.map(name => laid.at.get(name));
  const far = Math.hypot(other.x - one.x, other.y - one.y) || 1;
  const [ux, uy] = [(other.x - one.x) / far, (other.y - one.y) / far];
  const [a, b] = [one, other].map(({ x, y }) => ({ x: x - uy * beside * APART, y: y + ux * beside * APART }));
  set(drawn.hit, { d: `M${point(a.x, a.y)}L${point(b.x, b.y)}` });
  drawn.lanes.forEach(({ line, arrow }, index) => {
    const way = ways.find(way => way.from === ends[index]);
    set(line, { class: way ? `lane ${grade(way)} ${lit(streams, way)}` : "lane none" });
    set(arrow, { class: way ? `arrow ${grade(way)} ${lit(streams, way)}` : "lane none" });
    if (!way) return;
    const width = laneWidth(way.rate ?? 0);
    // Traffic keeps to the right.
    const [start, vx, vy] = index === 0 ? [a, ux, uy] : [b, -ux, -uy];
    const side = width / 2 + 1.5;
    const [x, y] = [start.x - vy * side, start.y + vx * side];
    const on = along => [x + vx * along, y + vy * along];
    set(line, { d: `M${point(...on(13))}L${point(...on(far - 13))}`, "stroke-width": width.toFixed(1) });
    const [tip, half] = [on(far * 0.66 + 5), width / 2 + 3];
    const [bx, by] = on(far * 0.66 - 5);
    set(arrow, { d: `M${point(...tip)}L${point(bx - vy * half, by + vx * half)}L${point(bx + vy * half, by - vx * half)}Z` });
  });
  const worst = ways.reduce(worse);
  const chosen = isChosen(link);
  set(drawn.label, { class: `figures ${grade(worst)}` });
  const isDim = streams !== null && ways.every(way => lit(streams, way) === "dim");
  const rank = chosen ? 9 : isDim ? -1 : GRADES.indexOf(grade(worst));
  drawn.figures = { label: drawn.label, words: figures(worst, link[2]), a, b, rank };
  set(drawn.group, {
    class: `link${chosen ? " chosen" : ""}`, "aria-pressed": chosen, "data-grade": grade(worst),
    "aria-label": `Link ${ends.join(" to ")}${link[2] ? `, ${link[2]}` : ""}: ${ways.map(described).join("; ")}`,
  });
}

const point = (x, y) => `${x.toFixed(1)} ${y.toFixed(1)}`;

const lit = (streams, way) => streams ? streams.get(`${way.from} ${way.to}`) ?? "dim" : "";

const laneWidth = rate => Math.min(1.5 + 1.4 * Math.log2(1 + rate / 1e6), 10);

function figures(link, name) {
  const named = name ? `${name} · ` : "";
  if (link.gone_s !== null) return [named + (link.gone_s < 2 ? "gone just now" : `gone for ${span(link.gone_s)}`)];
  const first = wireLoss(link) === 0 ? null : isCounted(link) ? `${share(wireLoss(link))} → ${share(link.residual)}` : lossWords(link);
  const second = named + ms(link.delay_ms) + (link.overhead > 0.0005 ? ` · +${share(link.overhead)}` : "") + (link.late ? " late" : "");
  return first ? [first, second] : [second];
}

function described(link) {
  if (link.gone_s !== null) return `to ${link.to} gone for ${span(link.gone_s)}`;
  return `to ${link.to} ${rate(link.rate)}, ${lossWords(link)} lost on the wire, ${share(link.residual)} left after repair, ` +
    `repair ${share(link.overhead)}`;
}

function newRelay({ name }) {
  const group = svg("g", { class: "relay", "data-relay": name },
    svg("circle", { class: "ring", r: 13 }), svg("circle", { class: "body", r: 8 }), svg("text", { y: 27 }, name), svg("title"));
  relayLayer.append(group);
  return { parts: [group], group };
}

function updateRelay({ group }, relay, overview) {
  const { x, y } = laid.at.get(relay.name);
  const stream = state.chosen?.stream && overview.streams.find(stream => stream.name === state.chosen.stream);
  const marks = [
    relay.name === overview.name && "here", relay.draining && "draining", relay.gone && "gone",
    stream && stream.ingress === relay.name && "ingress", stream && stream.egresses.includes(relay.name) && "egress",
  ].filter(Boolean);
  set(group, { transform: `translate(${point(x, y)})`, class: ["relay", ...marks].join(" ") });
  say(group.lastChild, [relay.name, ...marks].join(", "));
}
