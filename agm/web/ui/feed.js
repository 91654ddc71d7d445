// What the gateway tells: the stream of /_agm/events, and questions to it.
//
// EventSource cannot send a key in a header, so the stream is read by hand.

const KEY = "agm-key";
const ROOT = new URL("../", document.baseURI);
/** Milliseconds without a word after which the stream is taken for dead; a change comes every second. */
const SILENCE = 15000;

let key = "";
try {
  key = sessionStorage.getItem(KEY) ?? "";
} catch {
  // storage is switched off: the key lasts as long as the page
}

export const hasKey = () => key !== "";

export function useKey(value) {
  key = value;
  try {
    if (value) sessionStorage.setItem(KEY, value);
    else sessionStorage.removeItem(KEY);
  } catch {
    // as above
  }
}

function request(path, options = {}) {
  const headers = { ...options.headers };
  if (key) headers["x-goog-api-key"] = key;
  return fetch(new URL(path, ROOT), { ...options, headers, cache: "no-store", credentials: "omit" });
}

/** The error of an answer, in its own words. */
async function refusal(answer) {
  try {
    return (await answer.json()).error.message;
  } catch {
    return `The gateway answered ${answer.status}.`;
  }
}

/** GET a JSON document; or an Error that says why not. */
export async function look(path) {
  const answer = await request(path);
  if (!answer.ok) throw new Error(await refusal(answer));
  return answer.json();
}

/** POST a JSON document; the answer's, or an Error that says why not. */
export async function ask(path, document) {
  const answer = await request(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: document,
  });
  if (!answer.ok) throw new Error(await refusal(answer));
  return answer.json();
}

/** Ask for a change; the document of the answer, or an Error that says why it was refused. */
export async function change(method, path, wish) {
  const options = { method, headers: { "Content-Type": "application/json" } };
  if (wish !== undefined) options.body = JSON.stringify(wish);
  const answer = await request(path, options);
  if (!answer.ok) throw new Error(await refusal(answer));
  return answer.json();
}

/**
 * Watch the gateway until the page is closed.
 *
 * `on.event(name, document)` gets every event, `on.state(state, text)` how the connection is: live, waiting or lost.
 * `on.locked(why)` returns a promise that is kept once there is another key.
 */
export async function watch(on) {
  let pause = 500;
  for (;;) {
    const ending = new AbortController();
    let silence = 0;
    const heard = () => {
      clearTimeout(silence);
      silence = setTimeout(() => ending.abort(), SILENCE);
    };
    try {
      heard();
      const answer = await request("_agm/events", { signal: ending.signal });
      if (answer.status === 401 || answer.status === 403) {
        clearTimeout(silence);
        on.state("lost", "locked");
        await on.locked(await refusal(answer));
        continue;
      }
      if (!answer.ok) throw new Error(await refusal(answer));
      for await (const [name, data] of events(answer.body, heard)) {
        pause = 500;
        on.state("live", "live");
        on.event(name, JSON.parse(data));
      }
    } catch {
      // the gateway is away, or stopping: what matters is that it is asked again
    } finally {
      clearTimeout(silence);
      ending.abort();
    }
    on.state("lost", "not connected");
    await new Promise((resolve) => setTimeout(resolve, pause));
    pause = Math.min(pause * 2, 8000);
  }
}

async function* events(body, heard) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    heard();
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const fields = Object.fromEntries(block.split("\n").map((line) => [line.split(":", 1)[0], line.replace(/^\w+: ?/, "")]));
      yield [fields.event, fields.data];
    }
  }
}
