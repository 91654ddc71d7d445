// The page: what the gateway has told so far, and the view that shows it.

import { connect } from "./connect.js";
import { el, sync, tick, write } from "./dom.js";
import { explain } from "./explain.js";
import { hasKey, useKey, watch } from "./feed.js";
import { forecast } from "./forecast.js";
import { accounts, keys, models, plugins } from "./standing.js";
import { traffic } from "./traffic.js";

const KEPT = 200;
const $ = (id) => document.getElementById(id);

const explaining = explain();
const views = {
  traffic: traffic({
    explain(one) {
      location.hash = "#/explain";
      explaining.about(one);
    },
  }),
  accounts: accounts(),
  models: models(),
  keys: keys(),
  plugins: plugins(),
  explain: explaining,
  connect: connect(),
};
for (const [name, view] of Object.entries(views)) $(`view-${name}`).append(view.node);
const coming = forecast();
$("view-accounts").append(coming.node);

/** What is known, in the shape of /_agm/status. */
let state = null;
const EVERYTHING = new Set(["traffic", "open", "requests", "gateway", "accounts", "endpoints", "models", "aliases", "keys", "plugins"]);

function current() {
  const name = location.hash.replace(/^#\//, "").split("/")[0];
  return name in views ? name : "traffic";
}

function show() {
  const name = current();
  for (const each of Object.keys(views)) $(`view-${each}`).hidden = each !== name;
  for (const link of $("views").children) {
    if (link.hash === `#/${name}`) {
      link.setAttribute("aria-current", "page");
      link.scrollIntoView({ block: "nearest", inline: "nearest" });
    } else link.removeAttribute("aria-current");
  }
  document.title = name === "traffic" ? "agm" : `agm: ${name}`;
  if (state) views[name].update(state, EVERYTHING);
  if (state) follow();
  if (state && name === "accounts") coming.update();
}

/** Show the request that the address names. */
function follow() {
  const [name, id] = location.hash.replace(/^#\//, "").split("/");
  if (name === "traffic") views.traffic.open(id ? decodeURIComponent(id) : null);
}

window.addEventListener("hashchange", () => {
  show();
  if (!location.hash.slice(2).includes("/")) scrollTo(0, 0);
});

function learn(name, told) {
  sync(told.at);
  let changed = EVERYTHING;
  if (name === "status" || !state) {
    state = told;
    $("content").hidden = false;
    $("gate").hidden = true;
  } else {
    changed = new Set(Object.keys(told));
    const { traffic: counts, requests, untold, ...parts } = told;
    const new_ = new Set(requests.map((one) => one.id));
    Object.assign(state, parts);
    state.traffic = join(state.traffic, counts);
    state.requests = [...requests, ...state.requests.filter((one) => !new_.has(one.id))].slice(0, KEPT);
    if (!new_.size) changed.delete("requests");
  }
  views[current()].update(state, changed);
  if (changed === EVERYTHING) follow();
  if (current() === "accounts") coming.update();
  if (changed.has("gateway")) foot();
}

/** The counts of five minutes, with those of the last seconds put in their place. */
function join(old, last) {
  const length = old.requests.length;
  const joined = { second: last.second };
  for (const [name, values] of Object.entries(last)) {
    if (name === "second") continue;
    const whole = [...old[name], ...new Array(Math.max(last.second - old.second, 0)).fill(0)].slice(-length);
    whole.splice(length - values.length, values.length, ...values);
    joined[name] = whole;
  }
  return joined;
}

function foot() {
  const { version, pid, config, listeners } = state.gateway;
  const forget = el("button", { type: "button", class: "quiet" }, "forget the key");
  forget.addEventListener("click", () => {
    useKey("");
    location.reload();
  });
  $("foot").replaceChildren(
    el("span", null, `agm ${version}`),
    el("span", null, `process ${pid}`),
    el("span", null, listeners.join(", ") || location.origin),
    el("span", null, config ?? "no configuration file"),
    ...(hasKey() ? [forget] : []),
  );
}

function link(name, text) {
  const node = $("link");
  if (node.dataset.state !== name) node.dataset.state = name;
  write(node, text);
}

/** Ask for a key; the promise is kept once there is one. */
function locked(why) {
  useKey("");
  $("content").hidden = true;
  $("gate").hidden = false;
  write($("gate-why"), why);
  $("gate-key").focus();
  return new Promise((resolve) => {
    $("gate").addEventListener(
      "submit",
      (event) => {
        event.preventDefault();
        useKey($("gate-key").value.trim());
        $("gate-key").value = "";
        resolve();
      },
      { once: true },
    );
  });
}

// Colours: as the system, or as somebody chose

const THEMES = { auto: "as the system", light: "light", dark: "dark" };
function theme(wanted) {
  const root = document.documentElement;
  if (wanted === "auto") delete root.dataset.theme;
  else root.dataset.theme = wanted;
  write($("theme"), wanted);
  $("theme").setAttribute("aria-label", `Colours: ${THEMES[wanted]}`);
}
theme(document.documentElement.dataset.theme ?? "auto");
$("theme").addEventListener("click", () => {
  const order = Object.keys(THEMES);
  const next = order[(order.indexOf($("theme").textContent) + 1) % order.length];
  theme(next);
  try {
    if (next === "auto") localStorage.removeItem("agm-theme");
    else localStorage.setItem("agm-theme", next);
  } catch {
    // storage is switched off: it lasts as long as the page
  }
});

$("skip").addEventListener("click", () => $("main").focus());
setInterval(() => {
  tick();
  if (current() === "traffic") views.traffic.tick();
}, 1000);
show();
watch({ event: learn, state: link, locked });
