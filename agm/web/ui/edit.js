// Changing keys, accounts and aliases: a dialog a change, and what the gateway says of it.

import { code, el } from "./dom.js";
import { change } from "./feed.js";
import { copier } from "./copy.js";

/** A button that opens a dialog. */
export const action = (text, open, what) =>
  el("button", { type: "button", class: "quiet", "aria-label": what ?? false, click: open }, text);

/** Buttons in a row. */
export const actions = (...buttons) => el("div", { class: "actions" }, buttons);

const field = (label, input, hint) =>
  el("label", { class: input.type === "checkbox" ? "inline" : "field" }, input.type === "checkbox" ? [input, ` ${label}`] : [label, input], hint ? el("span", { class: "hint" }, hint) : null);
const text = (name, more) => el("input", { name, autocomplete: "off", spellcheck: "false", ...more });
const number = (name, value) => text(name, { type: "number", min: "1", step: "1", inputmode: "numeric", value: value ?? null });
const check = (name, on) => el("input", { type: "checkbox", name, checked: on });

/**
 * A dialog with a form; `send(values)` returns the promise of the gateway's answer, which `done` may show.
 *
 * It stays open with what the gateway says where it refuses.
 */
function dialog(title, fields, button, send, { done, danger } = {}) {
  const trouble = el("p", { class: "error", role: "alert", hidden: true });
  const close = () => box.close();
  const submit = el("button", { type: "submit", class: danger ? "danger" : "" }, button);
  const form = el(
    "form",
    { method: "dialog" },
    el("h2", { id: "dialog-title" }, title),
    fields,
    trouble,
    el("p", { class: "actions" }, submit, el("button", { type: "button", class: "quiet", click: close }, "Cancel")),
  );
  const box = el("dialog", { class: "edit", "aria-labelledby": "dialog-title" }, form);
  box.addEventListener("close", () => box.remove());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    submit.disabled = true;
    trouble.hidden = true;
    try {
      const answer = await send(form.elements);
      const shown = [done?.(answer), ...(answer.warnings ?? []).map((one) => el("p", { class: "note" }, one))].flat().filter(Boolean);
      if (shown.length === 0) close();
      else {
        const end = el("button", { type: "button", click: close }, "Done");
        form.replaceChildren(el("h2", { id: "dialog-title" }, title), ...shown, el("p", { class: "actions" }, end));
        end.focus();
      }
    } catch (error) {
      trouble.textContent = error.message;
      trouble.hidden = false;
    } finally {
      submit.disabled = false;
    }
  });
  document.body.append(box);
  box.showModal();
}

const path = (...parts) => ["_agm", ...parts.map(encodeURIComponent)].join("/");
const list = (value) => value.split(/[\s,]+/).filter(Boolean);
const amount = (value) => (value === "" ? null : Number(value));

// Client keys

const LIMITS = [
  ["requests_per_minute", "Requests a minute"],
  ["requests_per_day", "Requests a day"],
  ["tokens_per_minute", "Tokens a minute"],
  ["tokens_per_day", "Tokens a day"],
];

function keyFields(one) {
  const expires = one?.expires ? new Date(one.expires * 1000 - 1000).toISOString().slice(0, 10) : null;
  return [
    field("Models, as patterns", text("models", { value: one?.models.join(" ") ?? null, placeholder: "every model" })),
    el("div", { class: "row" }, LIMITS.map(([name, label]) => field(label, number(name, one?.[name])))),
    field("Expires after this day (UTC)", text("expires", { type: "date", value: expires })),
    field("admin: may see and change this gateway", check("admin", one?.admin)),
  ];
}

function keyWish(from) {
  const day = from.expires.value;
  return {
    models: list(from.models.value),
    ...Object.fromEntries(LIMITS.map(([name]) => [name, amount(from[name].value)])),
    expires: day ? Date.parse(`${day}T00:00:00Z`) / 1000 + 86400 : null,
    admin: from.admin.checked,
  };
}

const once = (answer) => [
  el("p", null, "The key, which is shown this once:"),
  el("p", { class: "secret" }, code(answer.key), " ", copier(() => answer.key, "the key")),
];

export const newKey = () =>
  dialog(
    "New client key",
    [field("Name", text("name", { required: true, autofocus: true })), keyFields(null)],
    "Create",
    (from) => change("POST", "_agm/keys", { name: from.name.value.trim(), ...keyWish(from) }),
    { done: once },
  );

export const changeKey = (one) =>
  dialog(`Client key ${one.name}`, keyFields(one), "Save", (from) => change("PATCH", path("keys", one.name), keyWish(from)));

export const rotateKey = (one) =>
  dialog(
    `Rotate ${one.name}`,
    el("p", null, "Another key takes the place of this one at once, with the same limits. Whoever uses the old one is refused."),
    "Rotate",
    () => change("POST", path("keys", one.name, "rotate"), {}),
    { done: once, danger: true },
  );

export const revokeKey = (one) =>
  dialog(
    `Revoke ${one.name}`,
    el("p", null, "The key is taken out of the configuration. Whoever uses it is refused from now on."),
    "Revoke",
    () => change("DELETE", path("keys", one.name)),
    { danger: true },
  );

// Accounts

const secret = () => [
  field("API key", text("api_key", { type: "password", autofocus: true })),
  field("or login, JSON", el("textarea", { name: "login", rows: "3", spellcheck: "false" }), "What is in a service account's file, or in gcloud's application_default_credentials.json."),
];

function secretWish(from) {
  const wish = {};
  if (from.api_key.value.trim()) wish.api_key = from.api_key.value.trim();
  if (from.login.value.trim()) {
    try {
      wish.login = JSON.parse(from.login.value);
    } catch {
      throw new Error("The login is not JSON.");
    }
  }
  return wish;
}

const KINDS = ["api-key", "vertex", "code-assist"];

export const newAccount = () =>
  dialog(
    "New account",
    [
      el(
        "div",
        { class: "row" },
        field("Name", text("name", { required: true, pattern: "[A-Za-z0-9._\\-]+" })),
        field("Kind", el("select", { name: "kind" }, KINDS.map((kind) => el("option", null, kind)))),
      ),
      secret(),
      el("div", { class: "row" }, field("Project", text("project")), field("Location", text("location", { placeholder: "global" }))),
      field("Models, as patterns", text("models", { placeholder: "every model" })),
      field("It is licensed for Code Assist, if it is a code-assist account", check("licence")),
    ],
    "Add",
    (from) =>
      change("POST", "_agm/accounts", {
        name: from.name.value.trim(),
        kind: from.kind.value,
        ...secretWish(from),
        ...(from.project.value.trim() ? { project: from.project.value.trim() } : {}),
        ...(from.location.value.trim() ? { location: from.location.value.trim() } : {}),
        ...(list(from.models.value).length ? { models: list(from.models.value) } : {}),
        i_have_a_licence: from.licence.checked,
      }),
  );

export const rotateAccount = (one) =>
  dialog(`Another secret for ${one.name}`, secret(), "Save", (from) => change("POST", path("accounts", one.name, "rotate"), secretWish(from)));

export const switchAccount = (name, enabled) =>
  dialog(
    `${enabled ? "Enable" : "Disable"} ${name}`,
    el("p", null, enabled ? "It serves requests again." : "It serves no request from now on; those in flight end as they would. It stays in the file."),
    enabled ? "Enable" : "Disable",
    () => change("PATCH", path("accounts", name), { enabled }),
    { danger: !enabled },
  );

export const resetAccount = (one) =>
  dialog(`Reset ${one.name}`, el("p", null, "Its cooldowns and errors are cleared, for all models."), "Reset", () =>
    change("POST", path("accounts", one.name, "reset"), {}),
  );

export const removeAccount = (one) =>
  dialog(
    `Remove ${one.name}`,
    el("p", null, "It is taken out of the configuration, with its secret if agm keeps that."),
    "Remove",
    () => change("DELETE", path("accounts", one.name)),
    { danger: true },
  );

// Aliases

export const setAlias = (one) =>
  dialog(
    one ? `Alias ${one.pattern}` : "New alias",
    [
      one ? null : field("Alias; * stands for anything", text("pattern", { required: true, autofocus: true })),
      field("Served by", text("model", { required: true, value: one?.model ?? null })),
    ],
    "Save",
    (from) => change("PUT", path("aliases", one?.pattern ?? from.pattern.value.trim()), { model: from.model.value.trim() }),
  );

export const removeAlias = (one) =>
  dialog(`Remove ${one.pattern}`, el("p", null, "Clients that use this name get what the name itself leads to."), "Remove", () =>
    change("DELETE", path("aliases", one.pattern)),
    { danger: true },
  );
