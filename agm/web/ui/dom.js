// Elements, and how numbers and times are written.
//
// Whatever is shown becomes a text node: nothing that a client, an upstream or a plugin says can become markup.

const SVG = "http://www.w3.org/2000/svg";

function build(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node.addEventListener(name, value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** An element; attributes that are functions listen to the event of their name. */
export const el = (name, attributes, ...children) => build(document.createElement(name), attributes, children);

/** An element of an SVG. */
export const svg = (name, attributes, ...children) =>
  build(document.createElementNS(SVG, name), attributes, children);

/** A table that becomes a list of cards where there is little room. */
export function table(caption, columns, rows, empty) {
  if (rows.length === 0 && empty) return el("p", { class: "empty" }, empty);
  const head = columns.map((column) =>
    el("th", { scope: "col", role: "columnheader", class: column.number && "number" }, column.name),
  );
  const body = rows.map((cells) =>
    el(
      "tr",
      { role: "row" },
      cells.map((cell, i) =>
        el(
          i === 0 ? "th" : "td",
          {
            role: i === 0 ? "rowheader" : "cell",
            scope: i === 0 && "row",
            "data-label": columns[i].name,
            class: columns[i].number && "number",
          },
          el("div", null, cell),
        ),
      ),
    ),
  );
  return el(
    "table",
    { class: "stack", role: "table" },
    el("caption", { class: "unseen" }, caption),
    el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, head)),
    el("tbody", { role: "rowgroup" }, body),
  );
}

/** Names and values, those that are null left out. */
export function facts(pairs) {
  const shown = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return el(
    "dl",
    { class: "facts" },
    shown.map(([name, value]) => el("div", null, el("dt", null, name), el("dd", null, value))),
  );
}

export const tag = (text, kind) => el("span", { class: `tag ${kind ?? ""}` }, text);
export const code = (text) => el("code", null, text);
/** How a person reads the states that the gateway tells programs. */
const STATES = { resting: "cooling down", "probe due": "half-open" };
export const stateName = (state) => STATES[state] ?? state;


const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

/** A count: exact up to five digits. */
export const count = (n) => (n === null || n === undefined ? "–" : n < 100000 ? whole.format(n) : short.format(n));

/** A count, with its digits. */
export const exact = (n) => (n === null || n === undefined ? "–" : whole.format(n));

/** A number of bytes. */
export function bytes(n) {
  if (n === null || n === undefined) return "–";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let i = 0;
  while (n >= 999.5 && i < units.length - 1) {
    n /= 1000;
    i += 1;
  }
  return `${i === 0 || n >= 99.5 ? Math.round(n) : n.toFixed(1)} ${units[i]}`;
}

/** How long something took, in seconds. */
export function took(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.9995) return `${Math.max(Math.round(seconds * 1000), seconds > 0 ? 1 : 0)} ms`;
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 2 : 1)} s`;
  return span(seconds);
}

/** A time that is left or has gone by, in seconds, rounded up. */
export function span(seconds) {
  const left = Math.max(Math.ceil(seconds), 0);
  const two = (n) => String(n).padStart(2, "0");
  if (left < 60) return `${left} s`;
  if (left < 3600) return `${Math.floor(left / 60)} min ${two(left % 60)} s`;
  if (left < 86400) return `${Math.floor(left / 3600)} h ${two(Math.floor((left % 3600) / 60))} min`;
  return `${Math.floor(left / 86400)} d ${Math.floor((left % 86400) / 3600)} h`;
}

/** The time of day of seconds since the epoch. */
export const clock = (at) => new Date(at * 1000).toLocaleTimeString("en-GB");

/** The gateway's time, as this machine's clock tells it; see `sync`. */
let ahead = 0;
export const now = () => Date.now() / 1000 - ahead;
export const sync = (at) => {
  ahead = Date.now() / 1000 - at;
};

/** Seconds of a clock that nobody sets, for what runs on the page. */
export const elapsed = () => performance.now() / 1000;

/** A text that counts down so many seconds. */
export const countdown = (left) => el("time", { class: "left", "data-until": elapsed() + left }, span(left));

/** A text that says that something was so many seconds ago, and goes on. */
export const ago = (seconds) => el("time", { class: "ago", "data-since": elapsed() - seconds }, `${span(Math.max(seconds, 1))} ago`);

/** Let all of those run. */
export function tick(root = document) {
  const at = elapsed();
  for (const node of root.querySelectorAll("time[data-until]")) {
    const left = Number(node.dataset.until) - at;
    write(node, left > 0 ? span(left) : "due");
  }
  for (const node of root.querySelectorAll("time[data-since]")) {
    write(node, `${span(Math.max(at - Number(node.dataset.since), 1))} ago`);
  }
}

/** Set an element's text, if it is another. */
export function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
