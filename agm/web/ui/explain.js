// Explain: what would happen to a request, asked of the code that decides for real.

import { code, el, facts, span, stateName, table, tag } from "./dom.js";
import { ask } from "./feed.js";

const METHODS = ["generateContent", "streamGenerateContent", "countTokens", "embedContent", "batchEmbedContents", "predict"];
const BODY = '{"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}';

export function explain() {
  const names = el("datalist", { id: "explain-models" });
  const model = el("input", { id: "explain-model", list: "explain-models", required: true, autocomplete: "off", spellcheck: "false" });
  const method = el("select", { id: "explain-method" }, METHODS.map((name) => el("option", null, name)));
  const key = el("select", { id: "explain-key" });
  const body = el("textarea", { id: "explain-body", rows: "4", spellcheck: "false" });
  body.value = BODY;
  const answer = el("div", { id: "explained", "aria-live": "polite" });
  const form = el(
    "form",
    { id: "explain-form" },
    el(
      "div",
      { class: "row" },
      el("label", { class: "field grow" }, "Model", model),
      el("label", { class: "field" }, "Method", method),
      el("label", { class: "field" }, "As client key", key),
    ),
    el("label", { class: "field" }, "Body, JSON", body),
    el("p", null, el("button", { type: "submit" }, "Explain")),
    names,
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      answer.replaceChildren(describe(await ask("_agm/explain", question())));
    } catch (error) {
      answer.replaceChildren(el("p", { class: "error", role: "alert" }, error.message));
    }
  });

  /** The question, with the body in it as it was written: it is what is explained, byte for byte. */
  function question() {
    const text = body.value.trim();
    if (text) {
      try {
        JSON.parse(text);
      } catch (error) {
        throw new Error(`The body is not JSON: ${error.message}`, { cause: error });
      }
    }
    const rest = JSON.stringify({ model: model.value.trim(), method: method.value, ...(key.value ? { key: key.value } : {}) });
    return text ? `${rest.slice(0, -1)},"body":${text}}` : rest;
  }

  const options = (select, values) => {
    const was = select.value;
    select.replaceChildren(...values);
    if ([...select.options].some((option) => option.value === was)) select.value = was;
  };
  return {
    node: el(
      "div",
      null,
      el("h2", null, "Explain"),
      el("p", { class: "hint" }, "What would happen to a request, and why. Nothing is sent, counted or recorded."),
      form,
      answer,
    ),
    update(state, changed) {
      if (changed.has("models")) names.replaceChildren(...state.models.map((one) => el("option", { value: one.name })));
      if (changed.has("models") && !model.value) model.value = state.models[0]?.name ?? "";
      if (changed.has("keys")) {
        const known = state.keys.filter((one) => one.name !== null);
        options(key, [el("option", { value: "" }, "none"), ...known.map((one) => el("option", { value: one.name }, one.name))]);
      }
    },
    /** Fill the form in with a request that was made. */
    about(one) {
      model.value = one.asked;
      if (METHODS.includes(one.method)) method.value = one.method;
      key.value = one.client_key ?? "";
      if (key.selectedIndex < 0) key.value = "";
      form.requestSubmit();
    },
  };
}

/** The explanation, in words first and as it came below. */
function describe(found) {
  const { model, account, upstream, error } = found;
  return el(
    "div",
    { class: "explained" },
    error
      ? el("p", { class: "verdict" }, tag(error.code, "bad"), " The client would get ", code(error.status), `: ${error.message}`)
      : el("p", { class: "verdict" }, tag("served", "good"), " by ", el("b", null, account.name), `: ${account.reason}`),
    facts([
      ["Model", model && (model.asked === model.served ? `${model.served}, ${model.reason}` : `${model.asked} → ${model.served}: ${model.reason}`)],
      ["Mapped by", model?.plugin],
      ["Account", account && `${account.name} (${account.kind})`],
      ["Chosen by", account?.plugin],
      ["Upstream", upstream && code(`${upstream.method} ${upstream.url}`)],
      ["Client key", found.client_key ?? (found.client_key_required ? "none, but one is required" : "none")],
      ["Edited by", found.edited_by?.join(", ")],
      ["Candidates", found.candidates?.join(", ")],
    ]),
    found.excluded?.length > 0 &&
      table(
        "Excluded accounts",
        [{ name: "Excluded" }, { name: "Reason" }, { name: "Retry after", number: true }],
        found.excluded.map((one) => [
          el("b", null, one.account),
          [tag(stateName(one.cause), "warn"), ` ${one.reason}`, one.plugin ? el("span", { class: "muted" }, ` (${one.plugin})`) : null],
          one.retry_after === null ? "–" : span(one.retry_after),
        ]),
      ),
    el("details", null, el("summary", null, "All details (JSON)"), el("pre", { tabindex: "0" }, JSON.stringify(found, null, 2))),
  );
}
