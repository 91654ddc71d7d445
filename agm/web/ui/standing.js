// Accounts, models, client keys and plugins: tables of what the gateway tells.

import { ago, code, count, countdown, el, exact, now, span, stateName, table, tag } from "./dom.js";
import * as edit from "./edit.js";
import { action, actions } from "./edit.js";

/** How many rows of a table are shown; a pool may have thousands of accounts. */
const ROWS = 300;
const RESTS = 6;

const view = (parts, draw) => () => {
  const node = el("div");
  return {
    node,
    update(state, changed) {
      if (node.hasChildNodes() && !parts.some((part) => changed.has(part))) return;
      const focused = node.contains(document.activeElement) ? nameOf(document.activeElement) : null;
      node.replaceChildren(...draw(state).filter(Boolean));
      if (focused) [...node.querySelectorAll("button, a")].find((one) => nameOf(one) === focused)?.focus({ preventScroll: true });
    },
  };
};

/** What a control is called: the focus goes to the one that takes its place. */
const nameOf = (control) => control.getAttribute("aria-label") ?? control.textContent;

/** A heading with a button beside it, where the gateway can be changed. */
const titled = (title, state, text, open) =>
  state.gateway.editable
    ? el("div", { class: "title-row" }, el("h2", null, title), action(text, open))
    : el("h2", null, title);

const more = (list) => list.length > ROWS && el("p", { class: "hint" }, `The first ${ROWS} of ${exact(list.length)}.`);

export const accounts = view(["accounts", "endpoints", "gateway"], (state) => [
  titled("Accounts", state, "New account", () => edit.newAccount()),
  table(
    "Accounts and their states",
    [{ name: "Account" }, { name: "State" }, { name: "In flight", number: true }, { name: "Attempts", number: true }, { name: "Quotas" }, { name: "Last failure" }],
    state.accounts.slice(0, ROWS).map((one) => [
      [
        el("b", null, one.name),
        el("p", { class: "line muted nowrap" }, one.kind, one.project ? `, ${one.project}` : "", one.priority ? `, priority ${one.priority}` : ""),
        state.gateway.editable && actions(
          action("disable", () => edit.switchAccount(one.name, false), `Disable ${one.name}`),
          action("reset", () => edit.resetAccount(one), `Reset ${one.name}`),
          action("secret", () => edit.rotateAccount(one), `Another secret for ${one.name}`),
          action("remove", () => edit.removeAccount(one), `Remove ${one.name}`),
        ),
      ],
      standing(one),
      one.max_concurrency === null ? exact(one.in_flight) : `${exact(one.in_flight)} of ${exact(one.max_concurrency)}`,
      [exact(one.attempts), one.failed ? el("p", { class: "line muted" }, `${exact(one.failed)} failed`) : null],
      one.quotas.length === 0
        ? el("span", { class: "muted" }, "–")
        : one.quotas.map((q) => el("p", { class: "line" }, `${q.model}: ${(100 * q.remaining).toFixed(0)} % left, `, countdown(q.seconds_left))),
      one.last_failure === null
        ? el("span", { class: "muted" }, "none")
        : [
            tag(one.last_failure.status ?? "no answer", "warn"),
            " ",
            code(one.last_failure.reason),
            el("span", { class: "muted" }, ` ${one.last_failure.model}, `, ago(one.last_failure.seconds_ago)),
          ],
    ]),
    "No accounts yet. The command agm account add NAME adds one.",
  ),
  more(state.accounts),
  state.gateway.switched_off?.length > 0 &&
    el(
      "p",
      { class: "off" },
      "Disabled in the file: ",
      state.gateway.switched_off.map((name) => [el("b", null, name), " ", state.gateway.editable && action("enable", () => edit.switchAccount(name, true), `Enable ${name}`), " "]),
    ),
  el("h2", null, "Endpoints"),
  table(
    "Endpoints and their breakers",
    [{ name: "Endpoint" }, { name: "Accounts", number: true }, { name: "Breaker" }],
    state.endpoints.slice(0, ROWS).map((one) => [
      code(one.endpoint),
      exact(one.accounts),
      [
        tag(stateName(one.breaker), { closed: "good", open: "bad" }[one.breaker] ?? "warn"),
        one.breaker === "open" ? [" tried again in ", countdown(one.seconds_left)] : null,
      ],
    ]),
    "Without accounts there are no endpoints.",
  ),
  el("p", { class: "hint" }, "A breaker opens when an endpoint fails for everyone; then it is half-open, and one request probes it before it closes."),
]);

function standing(one) {
  if (one.disabled !== null) {
    return [tag("disabled", "bad"), ` needs manual action: ${one.disabled}`, advice(one.held)];
  }
  const full = one.max_concurrency !== null && one.in_flight >= one.max_concurrency;
  const rests = one.models.slice(0, RESTS).map((rest) =>
    el(
      "p",
      { class: "line" },
      tag(stateName(rest.state), rest.state === "disabled" ? "bad" : "warn"),
      " ",
      rest.model === "*" ? "all models" : rest.model,
      rest.seconds_left === null ? "" : rest.seconds_left > 0 ? [" for ", countdown(rest.seconds_left)] : "",
      el("span", { class: "muted" }, ` ${rest.reason}`),
      advice(rest),
    ),
  );
  const hidden = one.models.length - RESTS;
  return [
    full ? tag("full", "warn") : one.held ? null : tag(rests.length ? "ready for other models" : "ready", "good"),
    rests,
    hidden > 0 ? el("p", { class: "line muted" }, `and ${exact(hidden)} more models`) : null,
  ];
}

// Google's message, its link, and the fix.
function advice(rest) {
  if (!rest?.fix) return null;
  const link = rest.link && URL.canParse(rest.link) && new URL(rest.link).protocol === "https:" ? rest.link : null;
  return el(
    "span",
    { class: "advice" },
    rest.message ? el("span", {}, `Google says: ${rest.message}`) : null,
    link ? el("a", { href: link, rel: "noopener noreferrer", target: "_blank" }, "Open Google's page") : null,
    el("span", {}, `Fix: ${rest.fix}`),
  );
}

export const models = view(["models", "aliases", "gateway"], (state) => [
  el("h2", null, "Models"),
  table(
    "Models that clients can use",
    [{ name: "Model" }, { name: "Tokens in", number: true }, { name: "Tokens out", number: true }, { name: "Methods" }],
    state.models.slice(0, ROWS).map((one) => [
      [
        el("b", null, one.name),
        one.alias_of ? el("span", { class: "muted" }, ` → ${one.alias_of}`) : null,
        one.display_name && one.display_name !== one.name ? el("span", { class: "muted" }, ` ${one.display_name}`) : null,
      ],
      exact(one.input_limit),
      exact(one.output_limit),
      el("span", { class: "muted" }, one.methods.join(", ") || "–"),
    ]),
    "No model is configured, and no account has reported any.",
  ),
  more(state.models),
  titled("Aliases", state, "New alias", () => edit.setAlias(null)),
  table(
    "Aliases, in the order of the configuration",
    [{ name: "Alias" }, { name: "Served by" }],
    state.aliases.slice(0, ROWS).map((one) => [
      code(one.pattern),
      [
        code(one.model),
        state.gateway.editable && actions(
          action("change", () => edit.setAlias(one), `Change ${one.pattern}`),
          action("remove", () => edit.removeAlias(one), `Remove ${one.pattern}`),
        ),
      ],
    ]),
    "No aliases. [models.aliases] in the configuration adds them.",
  ),
  el("p", { class: "hint" }, "An exact name takes precedence over a pattern, and a more specific pattern over another."),
]);

export const keys = view(["keys", "gateway"], (state) => [
  titled("Client keys", state, "New client key", () => edit.newKey()),
  table(
    "Client keys, and their usage since the start",
    [{ name: "Key" }, { name: "Models" }, { name: "Requests", number: true }, { name: "Errors", number: true }, { name: "Tokens", number: true }, { name: "Last used" }],
    state.keys.slice(0, ROWS).map((one) => [
      [
        one.name === null ? el("span", { class: "muted" }, "without a key") : el("b", null, one.name),
        one.admin ? [" ", tag("admin", "run")] : null,
        state.gateway.editable && state.gateway.key_names?.includes(one.name) && actions(
          action("change", () => edit.changeKey(one), `Change ${one.name}`),
          action("rotate", () => edit.rotateKey(one), `Rotate ${one.name}`),
          action("revoke", () => edit.revokeKey(one), `Revoke ${one.name}`),
        ),
      ],
      [one.models.length ? one.models.join(", ") : "every model", limits(one)],
      [exact(one.requests), one.today ? el("p", { class: "line muted" }, `${exact(one.today.requests)} today`) : null],
      one.errors ? exact(one.errors) : el("span", { class: "muted" }, "0"),
      `${count(one.prompt_tokens)} + ${count(one.output_tokens)}`,
      one.last_used === null ? el("span", { class: "muted" }, "never") : ago(now() - one.last_used),
    ]),
    state.gateway.auth_mode === "off"
      ? "No key is required, and there are no requests yet."
      : "No client key is configured, so every request is refused. The command agm key create NAME makes one.",
  ),
  more(state.keys),
  el("p", { class: "hint" }, "Tokens of prompts + tokens of answers. A key itself is shown once, when it is created, and never here."),
]);

function limits(one) {
  const told = [];
  for (const [what, unit] of [["requests", "requests"], ["tokens", "tokens"]]) {
    for (const per of ["minute", "day"]) {
      const limit = one[`${what}_per_${per}`];
      if (limit !== null && limit !== undefined) told.push(`${exact(limit)} ${unit} a ${per}`);
    }
  }
  if (one.expires) told.push(one.expires > now() ? `for another ${span(one.expires - now())}` : "expired");
  return told.length ? el("p", { class: "line muted" }, told.join(", ")) : null;
}

export const plugins = view(["plugins"], ({ plugins: found }) => [
  el("h2", null, "Plugins"),
  table(
    "Plugins, in the order in which they are called",
    [{ name: "Plugin" }, { name: "From" }, { name: "Hooks" }, { name: "Failures", number: true }],
    found.plugins.map((one) => [
      [el("b", null, one.name), one.version ? el("span", { class: "muted" }, ` ${one.version}`) : null],
      [tag(one.origin), one.where !== one.name ? el("span", { class: "muted" }, ` ${one.where}`) : null],
      one.hooks.map((hook) => [code(hook), " "]),
      one.failures ? tag(exact(one.failures), "bad") : el("span", { class: "muted" }, "0"),
    ]),
  ),
  found.failures.length > 0 && el("h2", null, "Failures"),
  found.failures.length > 0 &&
    table(
      "Plugin hook errors",
      [{ name: "Hook" }, { name: "Plugin" }, { name: "Times", number: true }],
      found.failures.map((one) => [code(one.hook), one.plugin, exact(one.count)]),
    ),
  el("h2", null, "Hooks"),
  table(
    "Hooks, in the order of a request",
    [{ name: "Hook" }, { name: "Plugins, in order" }],
    found.hooks.map((one) => [code(one.hook), one.plugins.length ? one.plugins.join(", ") : el("span", { class: "muted" }, "none")]),
  ),
]);
