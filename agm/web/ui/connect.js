// Connect: what to paste where, with the address of this gateway and a model of its own.

import { copier } from "./copy.js";
import { el } from "./dom.js";

/**
 * The address that programs should use, with the path that a proxy puts before the page's own, and 127.0.0.1 rather than
 * localhost, which may be another address.
 */
export function address(location) {
  const before = location.pathname.replace(/\/(ui\/.*)?$/, "");
  if (location.hostname !== "localhost") return location.origin + before;
  return `${location.protocol}//127.0.0.1${location.port ? `:${location.port}` : ""}${before}`;
}

/** Whether a client key is asked for where the page comes from: this machine itself, or a proxy before the gateway. */
export function asksForKey(location, gateway) {
  const here = /^(localhost|127\..*|\[::1\])$/.test(location.hostname);
  return (here ? gateway.auth_mode : (gateway.auth_forwarded ?? gateway.auth_mode)) !== "off";
}

/** A word for a shell. */
const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
/** A string of Python or JavaScript: JSON's are both. */
const string = (text) => JSON.stringify(text);
/** A model in a path, as the SDKs write it. */
const path = (model) => encodeURIComponent(model).replaceAll("%2F", "/");

/** The snippets, in the order in which they are shown; `key` is a client key, or a word in its place. */
export function snippets({ base, model, key }) {
  const hello = `{"contents": [{"role": "user", "parts": [{"text": "Say hello"}]}]}`;
  const call = (method) => quoted(`${base}/v1beta/models/${path(model)}:${method}`);
  const header = `-H ${quoted(`x-goog-api-key: ${key}`)} -H 'Content-Type: application/json'`;
  return [
    {
      id: "curl",
      name: "curl",
      text: `curl -s \\\n  ${call("generateContent")} \\\n  ${header} \\\n  -d '${hello}'\n`,
    },
    {
      id: "curl-stream",
      name: "curl, as a stream",
      text: `curl -sN \\\n  ${call("streamGenerateContent?alt=sse")} \\\n  ${header} \\\n  -d '${hello}'\n`,
    },
    {
      id: "google-genai",
      name: "Python, google-genai",
      install: "pip install google-genai",
      text: `from google import genai

client = genai.Client(
    api_key=${string(key)},
    http_options={"base_url": ${string(base)}},
)
asked = {"model": ${string(model)}, "contents": "Say hello"}
print(client.models.generate_content(**asked).text)
for chunk in client.models.generate_content_stream(**asked):
    print(chunk.text, end="")
`,
    },
    {
      id: "google-generativeai",
      name: "Python, google-generativeai",
      install: "pip install google-generativeai",
      text: `import google.generativeai as genai

genai.configure(
    api_key=${string(key)},
    transport="rest",
    client_options={"api_endpoint": ${string(base)}},
)
model = genai.GenerativeModel(${string(model)})
print(model.generate_content("Say hello").text)
`,
    },
    {
      id: "javascript",
      name: "JavaScript, @google/genai",
      install: "npm install @google/genai",
      text: `import { GoogleGenAI } from "@google/genai";

const ai = new GoogleGenAI({
  apiKey: ${string(key)},
  httpOptions: { baseUrl: ${string(base)} },
});
const answer = await ai.models.generateContent({
  model: ${string(model)},
  contents: "Say hello",
});
console.log(answer.text);
`,
    },
    {
      id: "gemini-cli",
      name: "gemini-cli",
      install: "npm install -g @google/gemini-cli",
      note: 'In a trusted folder, with "security": {"auth": {"selectedType": "gemini-api-key"}} in ~/.gemini/settings.json.',
      text: `GOOGLE_GEMINI_BASE_URL=${quoted(base)} GEMINI_API_KEY=${quoted(key)} \\\n  gemini -m ${quoted(model)} -p "Say hello"\n`,
    },
    {
      id: "openai",
      name: "Python, openai",
      install: "pip install openai",
      note: "For OpenAI's own API. Every model name that it asks for must be one of Gemini's, an alias, or [dialects] default_model's to serve.",
      text: `from openai import OpenAI

client = OpenAI(
    api_key=${string(key)},
    base_url=${string(`${base}/v1`)},
)
asked = {"model": ${string(model)}, "messages": [{"role": "user", "content": "Say hello"}]}
print(client.chat.completions.create(**asked).choices[0].message.content)
for chunk in client.chat.completions.create(**asked, stream=True):
    print(chunk.choices[0].delta.content or "", end="")
`,
    },
    {
      id: "openai-environment",
      name: "Environment variables for OpenAI's clients",
      note: "For OpenAI's SDKs, and what is built on them: LangChain, LlamaIndex, aider (OPENAI_API_BASE), open-webui (OPENAI_API_BASE_URL). Cline, Continue, Zed and n8n have a field for the base URL.",
      text: `export OPENAI_BASE_URL=${quoted(`${base}/v1`)}\nexport OPENAI_API_BASE=${quoted(`${base}/v1`)}\nexport OPENAI_API_KEY=${quoted(key)}\n`,
    },
    {
      id: "codex",
      name: "Codex",
      install: "npm install -g @openai/codex",
      note: "In ~/.codex/config.toml; it reads the key from a variable.",
      text: `# export AGM_KEY=${quoted(key)}
model = ${string(model)}
model_provider = "agm"
web_search = "disabled"

[model_providers.agm]
name = "agm"
base_url = ${string(`${base}/v1`)}
env_key = "AGM_KEY"
wire_api = "responses"
`,
    },
    {
      id: "anthropic",
      name: "Python, anthropic",
      install: "pip install anthropic",
      note: "For Anthropic's own API; LangChain, Cline, Continue and Zed have a field for the base URL. Model names are as with OpenAI's.",
      text: `from anthropic import Anthropic

client = Anthropic(
    api_key=${string(key)},
    base_url=${string(base)},
)
asked = {"model": ${string(model)}, "max_tokens": 1000, "messages": [{"role": "user", "content": "Say hello"}]}
print(client.messages.create(**asked).content[0].text)
with client.messages.stream(**asked) as stream:
    for text in stream.text_stream:
        print(text, end="")
`,
    },
    {
      id: "claude-code",
      name: "Claude Code",
      install: "npm install -g @anthropic-ai/claude-code",
      note: "The last variable is the model for its small tasks.",
      text: `export ANTHROPIC_BASE_URL=${quoted(base)}\nexport ANTHROPIC_AUTH_TOKEN=${quoted(key)}\nexport ANTHROPIC_MODEL=${quoted(model)}\nexport ANTHROPIC_DEFAULT_HAIKU_MODEL=${quoted(model)}\nclaude\n`,
    },
    {
      id: "environment",
      name: "Environment variables",
      note: "For google-genai, @google/genai and gemini-cli. Clients whose base URL includes the version need /v1beta at the end.",
      text: `export GOOGLE_GEMINI_BASE_URL=${quoted(base)}\nexport GEMINI_API_KEY=${quoted(key)}\n`,
    },
  ];
}

export function connect() {
  const model = el("select", { id: "connect-model" });
  const where = el("output", { id: "connect-address" });
  const cards = el("div", { class: "snippets" });
  const hint = el("p", { class: "hint" });
  let gateway = null;

  function draw() {
    const asked = asksForKey(window.location, gateway);
    const base = address(window.location);
    where.textContent = base;
    hint.textContent = asked
      ? "This gateway asks for a client key: replace YOUR_KEY with yours. The command agm key create NAME makes one."
      : "This gateway asks for no key. SDKs need one all the same: any non-empty string.";
    cards.replaceChildren(...snippets({ base, model: model.value, key: asked ? "YOUR_KEY" : "any" }).map(card));
  }
  model.addEventListener("change", draw);
  return {
    node: el(
      "div",
      null,
      el("h2", null, "Connect"),
      el(
        "div",
        { class: "row" },
        el("label", { class: "field grow" }, "Model", model),
        el("div", { class: "field grow" }, el("label", { for: "connect-address" }, "Address"), where),
      ),
      hint,
      cards,
    ),
    update(state, changed) {
      if (!changed.has("models") && !changed.has("gateway")) return;
      gateway = state.gateway;
      const was = model.value;
      const able = state.models.filter((one) => one.methods.includes("generateContent")).map((one) => one.name);
      model.replaceChildren(...able.map((name) => el("option", { value: name }, name)));
      model.value = able.includes(was) ? was : (able.find((name) => /flash$/.test(name)) ?? able[0] ?? "");
      if (!able.length) model.replaceChildren(el("option", { value: "gemini-2.5-flash" }, "gemini-2.5-flash"));
      draw();
    },
  };
}

function card({ id, name, install, note, text }) {
  const button = copier(() => text, name);
  return el(
    "article",
    { class: "snippet", id: `snippet-${id}` },
    el("header", null, el("h3", null, name), button),
    install ? el("p", { class: "hint" }, el("code", null, install)) : null,
    note ? el("p", { class: "hint" }, note) : null,
    el("pre", { tabindex: "0" }, text),
  );
}
