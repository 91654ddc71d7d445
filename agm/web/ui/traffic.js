// Traffic: plots, requests in flight, and the latest requests with their attempts.

import { bytes, clock, code, count, el, elapsed, exact, facts, span, table, tag, took, write } from "./dom.js";
import { look } from "./feed.js";
import { plot } from "./plots.js";

/** How many requests are shown; the gateway keeps as many. */
const SHOWN = 200;

const sum = (values) => values.reduce((a, b) => a + b, 0);

export function traffic({ explain }) {
  const inFlight = plot({
    title: "In flight",
    show: count,
    headline: (t) => `${count(t.open.at(-1))} now`,
    series: [
      { name: "requests", column: "open", kind: "steps", class: "b" },
      { name: "streams", column: "streams", kind: "steps", class: "a" },
    ],
  });
  const durations = plot({
    title: "Duration",
    show: (n) => (n ? took(n) : "–"),
    headline: (t) => `at most ${took(Math.max(...t.p95))}`,
    series: [
      { name: "p50", column: "p50", kind: "steps", class: "b" },
      { name: "p95", column: "p95", kind: "steps", class: "a" },
    ],
  });
  durations.node.hidden = true; // only the request log tells it
  const plots = [
    plot({
      title: "Requests",
      show: count,
      headline: (t) => `${count(sum(t.requests))} in ${t.short ?? "5 min"}`,
      series: [{ name: "requests", column: "requests", kind: "bars", class: "a" }],
    }),
    inFlight,
    durations,
    plot({
      title: "Tokens",
      show: count,
      headline: (t) => `${count(sum(t.prompt_tokens) + sum(t.output_tokens))} in ${t.short ?? "5 min"}`,
      series: [
        { name: "prompt", column: "prompt_tokens", on: "output_tokens", kind: "bars", class: "b" },
        { name: "output", column: "output_tokens", kind: "bars", class: "a" },
      ],
    }),
    plot({
      title: "Errors",
      show: count,
      headline: (t) => `${count(sum(t.errors))} in ${t.short ?? "5 min"}`,
      series: [{ name: "errors", column: "errors", kind: "bars", class: "bad" }],
    }),
  ];
  const totals = el("div", { class: "totals" });
  const ranges = makeRanges(() => state && redraw());
  const pause = el("button", { type: "button", class: "quiet", "aria-pressed": "false" }, "pause");
  const chip = el("button", { type: "button", class: "chip", hidden: true });
  const linked = el("div", { class: "linked" });
  /** What was told last. */
  let state = null;
  const filter = el("input", { type: "search", id: "filter", placeholder: "model, account, key, status …", autocomplete: "off", spellcheck: "false" });
  const only = el("input", { type: "checkbox", id: "only" });
  const list = el("table", { class: "requests", id: "requests", role: "table" });
  const nothing = el("p", { class: "empty" });
  const head = [
    ["Time", ""],
    ["Model", ""],
    ["Key", "wide"],
    ["Account", "mid"],
    ["Status", ""],
    ["First byte", "number wide"],
    ["Duration", "number"],
    ["Tokens", "number mid"],
    ["Sent", "number wide"],
  ].map(([name, kind]) => el("th", { scope: "col", role: "columnheader", class: kind }, name));
  list.append(
    el("caption", { class: "unseen" }, "Requests in flight, and the latest that ended"),
    el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, head)),
  );
  const node = el(
    "div",
    null,
    ranges.bar,
    el("div", { class: "plots" }, plots.map((one) => one.node)),
    totals,
    ranges.latency,
    linked,
    el(
      "div",
      { class: "title-row" },
      el("h2", null, "Requests"),
      el("label", { class: "inline" }, "Filter ", filter),
      el("label", { class: "inline" }, only, " errors only"),
      pause,
      chip,
    ),
    list,
    nothing,
  );
  /** From an id to its tbody and what it shows. */
  const rows = new Map();

  const wanted = (one) => {
    const text = filter.value.trim().toLowerCase();
    if (only.checked && (one.outcome === undefined || one.outcome === "ok")) return false;
    if (!text) return true;
    const said = [one.id, one.asked, one.served, one.client_key, one.account, one.status, one.outcome, one.reason, one.method, one.client];
    const tried = one.attempts.flatMap((a) => [a.account, a.reason, a.status]);
    return [...said, ...tried].some((word) => word !== null && String(word ?? "").toLowerCase().includes(text));
  };
  const sift = () => {
    let shown = 0;
    for (const row of rows.values()) {
      row.body.hidden = !wanted(row.one);
      shown += row.body.hidden ? 0 : 1;
    }
    nothing.hidden = shown > 0;
    write(nothing, rows.size > 0 ? "No request matches." : "No requests yet. Connect has a command to paste into a terminal.");
  };
  // The list stands still while somebody points at it or is in it, so that nothing moves away below a finger
  const held = () => pause.getAttribute("aria-pressed") === "true" || list.matches(":hover") || list.contains(document.activeElement);
  const letGo = () => setTimeout(() => state && !held() && fillList());
  list.addEventListener("pointerleave", letGo);
  list.addEventListener("focusout", letGo);
  pause.addEventListener("click", () => {
    const on = pause.getAttribute("aria-pressed") !== "true";
    pause.setAttribute("aria-pressed", String(on));
    write(pause, on ? "go on" : "pause");
    if (!on) fillList();
  });
  chip.addEventListener("mousedown", (event) => event.preventDefault()); // else the focus leaves the list, and the chip goes before the click
  chip.addEventListener("click", () => {
    fillList();
    pause.focus(); // the chip goes
  });

  const redraw = () => {
    const told = ranges.told() ?? state.traffic;
    const live = told === state.traffic;
    inFlight.node.hidden = !live;
    durations.node.hidden = live;
    for (const one of plots) if (!one.node.hidden) one.update(told);
  };

  function fillList() {
    const wantedOrder = [...state.open, ...state.requests.slice(0, SHOWN)];
    const known = new Set(wantedOrder.map((one) => one.id));
    for (const [id, row] of rows) {
      if (known.has(id)) continue;
      row.body.remove();
      rows.delete(id);
    }
    let before = list.tHead;
    for (const one of wantedOrder) {
      let row = rows.get(one.id);
      if (!row) {
        row = makeRow(explain);
        rows.set(one.id, row);
      }
      if (row.one === undefined || row.one.outcome === undefined) row.show(one);
      if (before.nextSibling !== row.body) before.after(row.body);
      before = row.body;
    }
    chip.hidden = true;
    sift();
  }

  /** Show what has become of the rows that are there, and count those that are not. */
  function holdList() {
    let more = 0;
    for (const one of [...state.open, ...state.requests.slice(0, SHOWN)]) {
      const row = rows.get(one.id);
      if (!row) more += wanted(one) ? 1 : 0;
      else if (row.one.outcome === undefined) row.show(one);
    }
    chip.hidden = more === 0;
    write(chip, `${more} new`);
  }

  filter.addEventListener("input", sift);
  only.addEventListener("change", sift);

  return {
    node,
    update(told, changed) {
      state = told;
      redraw();
      totals.replaceChildren(describeTotals(state));
      ranges.look();
      if (!changed.has("requests") && !changed.has("open")) return;
      if (rows.size > 0 && held()) holdList();
      else fillList();
    },
    /** Show the request that a link names: in the list, or what the request log has of it. */
    async open(id) {
      linked.replaceChildren();
      if (id === null) return;
      const row = rows.get(id);
      if (row) {
        row.unfold();
        row.body.scrollIntoView({ block: "center" });
        return;
      }
      const close = el("button", { type: "button", class: "quiet", click: () => (location.hash = "#/traffic") }, "close");
      const title = el("div", { class: "title-row" }, el("h2", null, "Request ", code(id)), close);
      try {
        const one = await look(`_agm/log/requests/${encodeURIComponent(id)}`);
        linked.replaceChildren(title, el("p", { class: "hint" }, `${new Date(one.at * 1000).toLocaleString("en-GB")}, from the request log`), statusOf(one), describe(one, explain));
      } catch (error) {
        linked.replaceChildren(title, el("p", { class: "note" }, error.message));
      }
    },
    tick() {
      for (const row of rows.values()) if (row.one.outcome === undefined) row.run();
    },
  };
}

const RANGES = [
  ["5 min", 300],
  ["1 h", 3600],
  ["24 h", 86400],
  ["7 d", 604800],
];

/** The choice of a range, and what the request log says of it: plots of the longer ones, and how long requests took. */
function makeRanges(changed) {
  const latency = el("details", { class: "latency" });
  let [short, seconds] = RANGES[0];
  let found = null;
  let next = 0;
  let asking = 0;
  const buttons = RANGES.map(([name, length]) => {
    const button = el("button", { type: "button", class: "quiet", "aria-pressed": String(length === seconds) }, name);
    button.addEventListener("click", () => {
      [short, seconds, found, next] = [name, length, null, 0];
      for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
      ask();
    });
    return button;
  });
  const trouble = el("span", { class: "muted", role: "status" });
  const bar = el("div", { class: "ranges", role: "group", "aria-label": "Range" }, buttons, trouble);

  async function ask() {
    next = elapsed() + (seconds > 3600 ? 60 : 10);
    const mine = (asking += 1);
    try {
      const told = await look(`_agm/log/history?seconds=${seconds}&steps=120`);
      if (mine !== asking) return;
      for (const name of ["p50", "p95"]) told[name] = told[name].map((value) => value ?? 0);
      found = { ...told, short, over: short };
      write(trouble, "");
    } catch (error) {
      if (mine !== asking) return;
      found = null;
      write(trouble, seconds === RANGES[0][1] ? "" : error.message);
    }
    latency.hidden = found === null;
    if (found) draw();
    changed();
  }

  function draw() {
    const rows = (list) =>
      list.map((one) => [
        one.name === null ? el("span", { class: "muted" }, "without a key") : el("b", null, one.name),
        exact(one.requests),
        one.errors ? exact(one.errors) : muted("0"),
        `${took(one.p50)} / ${took(one.p95)}`,
        `${took(one.first_byte_p50)} / ${took(one.first_byte_p95)}`,
      ]);
    const columns = (name) => [
      { name },
      { name: "Requests", number: true },
      { name: "Errors", number: true },
      { name: "Duration p50 / p95", number: true },
      { name: "First byte p50 / p95", number: true },
    ];
    const open = latency.open;
    latency.replaceChildren(
      el("summary", null, `Latency per account and key, ${short}`),
      table("How long accounts took", columns("Account"), rows(found.accounts), "No request was answered by an account."),
      table("How long client keys waited", columns("Client key"), rows(found.keys), "No request."),
    );
    latency.open = open;
  }
  latency.hidden = true;
  return {
    bar,
    latency,
    /** What the plots are to show instead of the last five minutes; null where it is these. */
    told: () => (seconds === RANGES[0][1] ? null : found),
    look() {
      if (elapsed() >= next) ask();
    },
  };
}

function describeTotals({ totals, gateway, uptime }) {
  return facts([
    ["Since the start", `${exact(totals.requests)} requests, ${exact(totals.errors)} errors`],
    ["Tokens", `${exact(totals.prompt_tokens)} prompt, ${exact(totals.output_tokens)} output`],
    ["Sent", bytes(totals.sent)],
    ["Uptime", span(uptime)],
    ["Client keys", gateway.auth_mode === "off" ? "off" : gateway.auth_mode],
    ["Strategy", `${gateway.strategy}, at most ${gateway.max_attempts} attempts`],
  ]);
}

let serial = 0;

/** A request's row, and the one below it with its attempts once somebody opens it. */
function makeRow(explain) {
  serial += 1;
  const detail = el("td", { role: "cell", "aria-colspan": "9", colspan: "9", id: `detail-${serial}` });
  const below = el("tr", { role: "row", class: "detail", hidden: true }, detail);
  const button = el("button", { type: "button", class: "fold", "aria-expanded": "false", "aria-controls": `detail-${serial}` });
  const cells = ["", "", "wide", "mid", "", "number wide", "number", "number mid", "number wide"].map((kind, i) =>
    el(i === 0 ? "th" : "td", { role: i === 0 ? "rowheader" : "cell", scope: i === 0 && "row", class: kind }),
  );
  cells[0].append(button);
  const summary = el("tr", { role: "row", class: "summary" }, cells);
  const body = el("tbody", { role: "rowgroup" }, summary, below);
  const row = {
    body,
    one: undefined,
    told: 0,
    show(one) {
      const ended = one.outcome !== undefined;
      row.one = one;
      row.told = elapsed();
      body.className = `is-${ended ? one.outcome : "open"}${below.hidden ? "" : " unfolded"}`;
      write(button, clock(one.at));
      fill(cells[1], modelOf(one));
      fill(cells[2], one.client_key ?? muted("none"));
      fill(cells[3], one.account ?? muted("–"));
      fill(cells[4], statusOf(one));
      write(cells[5], took(one.first_byte));
      write(cells[6], took(one.seconds));
      write(cells[7], ended && one.prompt_tokens !== null ? `${count(one.prompt_tokens)} + ${count(one.output_tokens)}` : "–");
      write(cells[8], bytes(one.sent));
      if (!below.hidden) detail.replaceChildren(describe(one, explain));
    },
    run() {
      write(cells[6], took(row.one.seconds + elapsed() - row.told));
    },
  };
  row.unfold = () => below.hidden && toggle();
  const toggle = () => {
    below.hidden = !below.hidden;
    button.setAttribute("aria-expanded", String(!below.hidden));
    body.classList.toggle("unfolded", !below.hidden);
    if (!below.hidden) detail.replaceChildren(describe(row.one, explain));
  };
  button.addEventListener("click", (event) => {
    event.stopPropagation();
    toggle();
  });
  summary.addEventListener("click", () => {
    if (String(getSelection())) return; // somebody selects a text to copy it
    toggle();
  });
  return row;
}

const muted = (text) => el("span", { class: "muted" }, text);

function fill(cell, content) {
  if (typeof content === "string") write(cell, content);
  else cell.replaceChildren(content);
}

function modelOf(one) {
  const name = one.asked || one.served || one.method;
  const kind = { sse: "stream", array: "stream, array", live: "session", unary: null }[one.framing] ?? null;
  const rest = one.method.endsWith("enerateContent") ? kind : one.method;
  return el(
    "span",
    { class: "model" },
    el("span", { class: "name" }, name),
    one.served && one.asked && one.served !== one.asked ? el("span", { class: "muted served" }, `→ ${one.served}`) : null,
    rest ? el("span", { class: "muted kind" }, rest) : null,
  );
}

function statusOf(one) {
  const tries = one.attempts.length > 1 ? el("span", { class: "muted tries" }, `${one.attempts.length} attempts`) : null;
  if (one.outcome === undefined) return el("span", null, tag(one.state === "answering" ? "answering" : "waiting", "run"), tries);
  const words = { ok: String(one.status), error: String(one.status), aborted: "aborted", cancelled: "client left" };
  const kinds = { ok: "good", error: "bad", aborted: "bad", cancelled: "warn" };
  const why = one.outcome === "ok" ? null : (one.reason ?? one.attempts.findLast((a) => a.fault !== null)?.reason);
  const reason = why ? el("span", { class: "muted reason", title: why }, why) : null;
  return el("span", null, tag(words[one.outcome] ?? one.outcome, kinds[one.outcome]), reason, tries);
}

/** What became of a request, attempt by attempt. */
export function describe(one, explain) {
  const ended = one.outcome !== undefined;
  const whole = Math.max(one.seconds, ...one.attempts.map((a) => a.after + a.seconds), 0.001);
  const answered = one.attempts.find((a) => a.fault === null);
  const steps = one.attempts.map((a) =>
    el(
      "li",
      { class: a.fault === null ? "good" : "bad" },
      el(
        "p",
        { class: "what" },
        el("b", null, a.account),
        el("span", { class: "muted" }, ` ${a.endpoint} · ${a.model || "no model"} · ${a.chosen}${a.probe ? " · a probe" : ""}`),
      ),
      bar(a.after, a.after + a.seconds, whole, a.fault === null ? "wait" : "fail"),
      el(
        "p",
        { class: "came" },
        a.fault === null
          ? [tag(a.status ?? "ok", "good"), ` first byte after ${took(a.seconds)}`]
          : [
              tag(a.status ?? "no answer", "bad"),
              " ",
              code(a.reason),
              ` after ${took(a.seconds)}`,
              a.delay !== null ? `, retry after ${span(a.delay)}` : "",
              a.message ? el("span", { class: "muted" }, ` · ${a.message}`) : null,
            ],
      ),
    ),
  );
  if (answered && ended) {
    const from = answered.after + answered.seconds;
    steps.push(
      el(
        "li",
        { class: one.outcome === "ok" ? "good" : "bad" },
        el("p", { class: "what" }, el("b", null, "Answer"), el("span", { class: "muted" }, ` ${bytes(one.sent)} to the client`)),
        bar(from, one.seconds, whole, one.outcome === "ok" ? "flow" : "fail"),
        el("p", { class: "came" }, tag(one.outcome, one.outcome === "ok" ? "good" : "bad"), ` ${took(Math.max(one.seconds - from, 0))}`),
      ),
    );
  }
  const failed = one.outcome === "error" || one.outcome === "aborted";
  return el(
    "div",
    { class: "about" },
    steps.length > 0
      ? el("ol", { class: "attempts", "aria-label": "Attempts" }, steps, el("li", { class: "scale" }, el("span", null, "0"), el("span", null, took(whole))))
      : el("p", { class: "muted" }, ended ? "There was no attempt." : "No attempt has ended yet."),
    ended
      ? el(
          "p",
          { class: "why" },
          one.outcome === "ok" ? "" : one.stopped,
          failed ? ` ${leftover(one)}` : "",
          one.message ? el("span", { class: "own" }, code(one.reason), ` ${one.message}`) : null,
        )
      : null,
    facts([
      ["Request", el("a", { href: `#/traffic/${encodeURIComponent(one.id)}`, title: "A link to this request" }, code(one.id))],
      ["Call", `${one.method}, ${one.framing}`],
      ["Served by", one.served !== one.asked ? one.served : null],
      ["Client", one.client],
      ["Client key", one.client_key ?? "none"],
      ["First byte", ended ? took(one.first_byte) : null],
      ["Duration", took(one.seconds)],
      ["Tokens", ended && one.prompt_tokens !== null ? `${exact(one.prompt_tokens)} prompt, ${exact(one.output_tokens)} output` : null],
      ["Sent", `${exact(one.sent)} bytes`],
      ["Finish reason", one.finish_reason],
    ]),
    one.asked ? el("p", null, el("button", { type: "button", class: "quiet", click: () => explain(one) }, "Explain a request like this")) : null,
  );
}

function leftover(one) {
  if (one.accounts_left === null) return "";
  if (one.accounts_left === 0) return "No other account was ready.";
  const accounts = one.accounts_left === 1 ? "1 other account was ready" : `${exact(one.accounts_left)} other accounts were ready`;
  const left = one.attempts_left === 0 ? "no further attempt was allowed" : `${one.attempts_left} more attempts were allowed`;
  return `${accounts}; ${left}.`;
}

/** A stretch of time on the whole of it. */
function bar(from, to, whole, kind) {
  const stretch = el("i", { class: kind });
  stretch.style.left = `${(100 * Math.min(from, whole)) / whole}%`;
  stretch.style.width = `${Math.max((100 * (Math.min(to, whole) - from)) / whole, 0.4)}%`;
  return el("div", { class: "track", "aria-hidden": "true" }, stretch);
}
