// Elements, and figures as people read them. Text only ever becomes a text node, so a name cannot become markup.

const SVG = "http://www.w3.org/2000/svg";

export const $ = id => document.getElementById(id);

function filled(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children.flat().filter(child => child !== null && child !== undefined));
  return element;
}

/** An HTML element. Attributes that begin with `on` are listeners. */
export const el = (name, attributes = {}, ...children) =>
  filled(document.createElement(name), attributes, children);

/** An SVG element. */
export const svg = (name, attributes = {}, ...children) =>
  filled(document.createElementNS(SVG, name), attributes, children);

/** Changes attributes, and touches none that is as it should be. */
export function set(element, attributes) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) element.removeAttribute(key);
    else if (element.getAttribute(key) !== String(value)) element.setAttribute(key, value === true ? "" : value);
  }
}

/** Changes the text, where it is another. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** A share as a percentage: never 0 % where it is not nothing. */
export function share(value) {
  if (value === null || value === undefined) return "–";
  const percent = value * 100;
  if (percent === 0) return "0 %";
  if (percent < 0.0001) return "< 0.0001 %";
  return `${Number(percent.toPrecision(2))} %`;
}

/** A share that should be all: never 100 % where it is not. */
export function whole(value) {
  if (value === null || value === undefined) return "–";
  return value >= 1 ? "100 %" : `${(Math.floor(value * 1e6) / 1e4).toFixed(4)} %`;
}

export function rate(bits) {
  if (bits === null || bits === undefined) return "–";
  if (bits >= 1e6) return `${Number((bits / 1e6).toPrecision(3))} Mbit/s`;
  return `${Math.round(bits / 1e3)} kbit/s`;
}

export const ms = value => `${value >= 100 ? Math.round(value) : Number(value.toPrecision(2))} ms`;

export const count = value => value.toLocaleString("en");

export const many = (number, one, more = `${one}s`) => `${count(number)} ${number === 1 ? one : more}`;

/** A span of time in its two largest units. */
export function span(seconds) {
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const at = units.findIndex(([, size]) => seconds >= size);
  if (at < 0) return "0 s";
  const [unit, size] = units[at];
  const first = `${Math.floor(seconds / size)} ${unit}`;
  const next = units[at + 1];
  const rest = next ? Math.floor((seconds % size) / next[1]) : 0;
  return rest > 0 ? `${first} ${rest} ${next[0]}` : first;
}

export const time = unixMs => new Date(unixMs).toLocaleTimeString("en-GB");
