// Where relays are drawn: where they stand on Earth where that is known, else where springs along the links bring them. The same overlay
// always looks the same.

const MARGIN = { top: 34, bottom: 46 };
const ROUNDS = 300;

/**
 * Positions in pixels by name, and the grid of degrees behind them where there is one.
 * `relays` have `name` and `location`, `links` are pairs of names.
 */
export function layout(relays, links, width, height) {
  const margin = { ...MARGIN, side: width < 500 ? 30 : 56 };
  const room = { width: width - 2 * margin.side, height: height - MARGIN.top - MARGIN.bottom };
  const placed = relays.filter(relay => relay.location);
  const earth = placed.length >= 2 ? project(placed, room) : null;
  const at = springs(relays.map(relay => relay.name), links, room, earth?.at ?? new Map());
  apart(at, room);
  for (const point of at.values()) {
    point.x += margin.side;
    point.y += margin.top;
  }
  return { at, grid: earth ? earth.grid(margin, width, height) : [] };
}

/** An equirectangular map of just the region in question. */
function project(placed, room) {
  const west = westmost(placed.map(relay => relay.location.longitude));
  const east = longitude => (longitude - west + 360) % 360;
  const longitudes = placed.map(relay => east(relay.location.longitude));
  const latitudes = placed.map(relay => relay.location.latitude);
  const middle = { x: range(longitudes).middle, y: range(latitudes).middle };
  const squeeze = Math.max(Math.cos(middle.y * Math.PI / 180), 0.2);
  const spans = { x: Math.max(range(longitudes).span, 1) * squeeze, y: Math.max(range(latitudes).span, 1) };
  const scale = Math.min(room.width / spans.x, room.height / spans.y);
  const x = longitude => room.width / 2 + (longitude - middle.x) * squeeze * scale;
  const y = latitude => room.height / 2 - (latitude - middle.y) * scale;
  const at = new Map(placed.map(relay => [relay.name, { x: x(east(relay.location.longitude)), y: y(relay.location.latitude) }]));
  const grid = (margin, width, height) => {
    const step = [1, 2, 5, 10, 20, 30, 60].find(step => step * scale >= 70) ?? 60;
    const lines = [];
    const of = (value, positive, negative) => `${Math.abs(value)}°${value > 0 ? ` ${positive}` : value < 0 ? ` ${negative}` : ""}`;
    for (let latitude = -90 + (90 % step); latitude <= 90; latitude += step) {
      const line = y(latitude) + margin.top;
      if (line > 0 && line < height) lines.push({ y: line, label: of(latitude, "N", "S") });
    }
    const first = Math.ceil((west - 180) / step) * step;
    for (let longitude = first; longitude < first + 720; longitude += step) {
      const line = x(longitude - west) + margin.side;
      const wrapped = ((longitude + 540) % 360) - 180;
      if (line > 0 && line < width - 30) lines.push({ x: line, label: of(wrapped, "E", "W") });
    }
    return lines;
  };
  return { at, grid };
}

/** The longitude east of the widest gap: from there on, all of them lie close together even across the date line. */
function westmost(longitudes) {
  const sorted = [...longitudes].sort((a, b) => a - b);
  const gaps = sorted.map((longitude, i) => longitude - (i > 0 ? sorted[i - 1] : sorted[sorted.length - 1] - 360));
  return sorted[gaps.indexOf(Math.max(...gaps))];
}

function range(values) {
  const [least, most] = [Math.min(...values), Math.max(...values)];
  return { span: most - least, middle: (least + most) / 2 };
}

/** Fruchterman and Reingold's springs, from a ring; those that are `fixed` stay where they are. */
function springs(names, links, room, fixed) {
  const sorted = [...names].sort();
  const ring = (i, n) => ({
    x: room.width * (0.5 - 0.5 * Math.cos(2 * Math.PI * i / n)),
    y: room.height * (0.5 - 0.5 * Math.sin(2 * Math.PI * i / n)),
  });
  const at = new Map(sorted.map((name, i) => [name, fixed.get(name) ?? ring(i, sorted.length)]));
  const free = sorted.filter(name => !fixed.has(name));
  if (free.length === 0 || sorted.length < 2) return at;
  const known = links.filter(([a, b]) => at.has(a) && at.has(b));
  const ideal = 0.75 * Math.sqrt(room.width * room.height / sorted.length);
  for (let round = 0; round < ROUNDS; round++) {
    const force = new Map(free.map(name => [name, { x: 0, y: 0 }]));
    const push = (name, dx, dy, by) => {
      const sum = force.get(name);
      if (sum) { sum.x += dx * by; sum.y += dy * by; }
    };
    for (let i = 0; i < sorted.length; i++) {
      for (let j = 0; j < i; j++) {
        const [dx, dy, far] = between(at.get(sorted[i]), at.get(sorted[j]));
        const by = ideal * ideal / (far * far);
        push(sorted[i], dx, dy, by);
        push(sorted[j], dx, dy, -by);
      }
    }
    for (const [a, b] of known) {
      const [dx, dy, far] = between(at.get(a), at.get(b));
      push(a, dx, dy, -far / ideal);
      push(b, dx, dy, far / ideal);
    }
    const most = Math.max(room.width, room.height) * 0.1 * (1 - round / ROUNDS);
    for (const [name, { x, y }] of force) {
      const size = Math.hypot(x, y) || 1;
      const point = at.get(name);
      point.x = clamp(point.x + x / size * Math.min(size, most), 0, room.width);
      point.y = clamp(point.y + y / size * Math.min(size, most), 0, room.height);
    }
  }
  if (fixed.size === 0) stretch(at, room);
  return at;
}

/** Fills the room, at the same scale for both axes as far as it goes. */
function stretch(at, room) {
  const points = [...at.values()];
  for (const [axis, size] of [["x", room.width], ["y", room.height]]) {
    const { span, middle } = range(points.map(point => point[axis]));
    const scale = span > 1 ? Math.min(size / span, 1.6) : 1;
    for (const point of points) point[axis] = size / 2 + (point[axis] - middle) * scale;
  }
}

/** Relays in one town must not hide each other. */
function apart(at, room) {
  const points = [...at.values()];
  for (let round = 0; round < 20; round++) {
    for (let i = 0; i < points.length; i++) {
      for (let j = 0; j < i; j++) {
        const [dx, dy, far] = between(points[i], points[j]);
        if (far >= 44) continue;
        const by = (44 - far) / 2 / far;
        for (const [point, sign] of [[points[i], by], [points[j], -by]]) {
          point.x = clamp(point.x + dx * sign, 0, room.width);
          point.y = clamp(point.y + dy * sign, 0, room.height);
        }
      }
    }
  }
}

function between(a, b) {
  const [dx, dy] = [a.x - b.x, a.y - b.y];
  const far = Math.hypot(dx, dy);
  return far > 0.01 ? [dx, dy, far] : [0.01, 0.01, 0.015];
}

const clamp = (value, least, most) => Math.min(Math.max(value, least), most);
