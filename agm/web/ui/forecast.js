// What comes next, below the accounts: when those are back that cannot serve, and when at this pace the others are out.

import { clock, code, el, elapsed, table } from "./dom.js";
import { look } from "./feed.js";

/** Seconds between two looks while the view is shown. */
const EVERY = 10;

export function forecast() {
  const node = el("div");
  let next = 0;
  return {
    node,
    async update() {
      if (elapsed() < next) return;
      next = elapsed() + EVERY;
      try {
        node.replaceChildren(...draw(await look("_agm/forecast")));
      } catch {
        // the next look may do better; what is shown holds until then
      }
    },
  };
}

function draw(told) {
  const ends = [
    ...told.budgets.map((it) => [code(it.of), `$${it.spent.toFixed(2)} of $${it.limit.toFixed(2)} a ${it.per}`, end(it)]),
    ...told.client_keys.map((it) => [code(`key:${it.name}`), `${it.used} of ${it.value} ${it.limit.replace("_per_day", " a day")}`, end(it)]),
  ];
  return [
    el("h2", null, "Forecast"),
    table(
      "What comes next, by model",
      [{ name: "Model" }, { name: "At the pace of today" }],
      told.models.map((it) => [code(it.model), it.text]),
      "Nothing was asked for today.",
    ),
    ends.length && table("Budgets and daily limits", [{ name: "Of" }, { name: "Used" }, { name: "At this pace" }], ends, ""),
  ].filter(Boolean);
}

const day = (at) => `${new Date(at * 1000).toLocaleDateString("en-CA")} ${clock(at).slice(0, 5)}`;

function end(it) {
  const anew = `anew ${day(it.begins_at)}`;
  if (it.out_in === null) return `no end in sight; ${anew}`;
  return it.out_in <= 0 ? `used up; ${anew}` : `used up ${day(it.out_at)}; ${anew}`;
}
