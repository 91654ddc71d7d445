// Small plots: of the last five minutes, a second a step; or of what the request log has, in longer ones.

import { el, svg, write } from "./dom.js";

const HEIGHT = 56;

/**
 * A plot of one or two series.
 *
 * `series` are {name, column, on, kind: "bars" | "steps", class}, `on` another column that it stands on; `show` writes a number; `headline(traffic)` is what stands
 * beside the title.
 */
export function plot({ title, series, show, headline }) {
  const paths = series.map((one) => svg("path", { class: `${one.kind} ${one.class}`, "vector-effect": "non-scaling-stroke" }));
  const cursor = svg("path", { class: "cursor", "vector-effect": "non-scaling-stroke" });
  const picture = svg("svg", { preserveAspectRatio: "none", role: "img" }, paths, cursor);
  const value = el("output", { class: "value" });
  const top = el("span", { class: "top" });
  const read = el("p", { class: "read" });
  const values = series.map(() => el("b"));
  const names = series.map((one, n) => el("span", { class: `key ${one.class}` }, values[n], ` ${one.name}`));
  const node = el(
    "figure",
    { class: "plot" },
    el("figcaption", null, el("span", { class: "title" }, title), value),
    el("div", { class: "canvas" }, top, picture),
    el("div", { class: "under" }, read, el("p", { class: "keys" }, names)),
  );
  let traffic = null;
  let at = null;

  const label = () => {
    if (!traffic) return;
    const length = traffic.requests.length;
    const step = traffic.step ?? 1;
    const i = at === null ? length - (step === 1 ? 2 : 1) : at; // this second has only begun
    const back = length - 1 - i;
    const latest = step === 1 ? "this second" : `last ${long(step)}`;
    write(read, back === 0 ? latest : at === null ? "last second" : `${step === 1 ? `${back} s` : long(back * step)} ago`);
    series.forEach((one, n) => write(values[n], show(traffic[one.column][i])));
  };
  picture.addEventListener("pointermove", (event) => {
    if (!traffic) return;
    const box = picture.getBoundingClientRect();
    const length = traffic.requests.length;
    at = Math.min(Math.max(Math.floor(((event.clientX - box.left) / box.width) * length), 0), length - 1);
    cursor.setAttribute("d", `M${at + 0.5} 0V${HEIGHT}`);
    label();
  });
  picture.addEventListener("pointerleave", () => {
    at = null;
    cursor.setAttribute("d", "");
    label();
  });

  return {
    node,
    update(next) {
      traffic = next;
      const length = traffic.requests.length;
      const drawn = series.map((one) => (one.on ? traffic[one.column].map((n, i) => n + traffic[one.on][i]) : traffic[one.column]));
      const highest = Math.max(1, ...drawn.map((values) => Math.max(...values)));
      picture.setAttribute("viewBox", `0 0 ${length} ${HEIGHT}`);
      series.forEach((one, n) => paths[n].setAttribute("d", draw[one.kind](drawn[n], highest)));
      write(top, show(highest));
      write(value, headline(traffic));
      label();
      const sums = series.map((one) => `${one.name}: ${show(traffic[one.column].at(-2))}, at most ${show(Math.max(...traffic[one.column]))}`);
      const over = traffic.over ? `${traffic.over}, per ${long(traffic.step)}` : "five minutes, per second";
      picture.setAttribute("aria-label", `${title} in the last ${over}. ${sums.join("; ")}.`);
    },
  };
}

/** A stretch of time in a word or two. */
const long = (seconds) => (seconds < 60 ? `${Math.round(seconds)} s` : seconds < 7200 ? `${Math.round(seconds / 60)} min` : seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} d`);

const y = (value, highest) => (HEIGHT - 1 - (value / highest) * (HEIGHT - 4)).toFixed(1);

const draw = {
  bars: (values, highest) =>
    values.map((value, i) => (value > 0 ? `M${i} ${HEIGHT}V${y(value, highest)}h1V${HEIGHT}z` : "")).join(""),
  steps: (values, highest) => {
    let path = `M0 ${y(values[0], highest)}`;
    values.forEach((value, i) => {
      path += `${i > 0 && value !== values[i - 1] ? `V${y(value, highest)}` : ""}H${i + 1}`;
    });
    return path;
  },
};
