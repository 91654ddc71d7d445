// Every public method of @google/genai: node methods.mjs URL KEY prints {methods, rows, outcomes} as JSON.
//
// A row says what a call comes to: "works", "sdk" (the SDK refuses it for the Developer API), "one-account" (it
// names two resources, which a gateway has put into different accounts) or "internal" (the SDK's own machinery, which TypeScript hides and JavaScript does not).

import { GoogleGenAI, RawReferenceImage } from "@google/genai";

const [url, apiKey] = process.argv.slice(2);
const httpOptions = { baseUrl: url, timeout: 30000, retryOptions: { attempts: 1 } };
const ai = new GoogleGenAI({ apiKey, httpOptions });
console.warn = console.log = () => {}; // what is experimental says so

const MODEL = "gemini-2.5-flash";
let number = 0;
const run = Date.now().toString(36); // the emulator of a session has seen other runs
const named = (word) => `${word}-${run}-${++number}`;
const image = { imageBytes: "eA==", mimeType: "image/png" };
const blob = () => new Blob(["some words"], { type: "text/plain" });
const file = () => ai.files.upload({ file: blob(), config: { mimeType: "text/plain" } });
const cache = () => ai.caches.create({ model: MODEL, config: { contents: "words ".repeat(20) } });
const batch = () => ai.batches.create({ model: MODEL, src: [{ contents: [{ parts: [{ text: "hi" }] }] }] });
const store = () => ai.fileSearchStores.create({ config: { displayName: named("store") } });
const interaction = (more = {}) => ai.interactions.create({ model: MODEL, input: "hi", ...more });
const agent = () => ai.agents.create({ id: named("js-agent"), base_agent: "antigravity-preview" });
const trigger = () =>
  ai.triggers.create({ interaction: { agent: "a", input: "x" }, schedule: "0 0 * * *", time_zone: "UTC" });
const environment = () => ai.environments.create({ sources: [{ type: "inline", content: "x", target: "a.py" }] });
const credential = () => ai.credentials.create({ id: named("js-cred"), type: "bearer_token", token: "canary-x" });
const voice = () => ai.voices.create({ voice: { type: "prompted", prompted: { input: "warm" } } });
const webhook = () => ai.webhooks.create({ uri: "https://example.com/x", subscribed_events: ["interaction.completed"] });
const tuning = () =>
  ai.tunings.tune({ baseModel: "models/x", trainingDataset: { examples: [{ textInput: "a", output: "b" }] } });
const filling = async () =>
  ai.fileSearchStores.uploadToFileSearchStore({ fileSearchStoreName: (await store()).name, file: blob() });
const stored = async () => (await ai.operations.get({ operation: await filling() })).response.documentName;
const generated = async () => {
  const line = JSON.stringify({ key: "a", request: { contents: [{ parts: [{ text: "hi" }] }] } });
  const source = await ai.files.upload({ file: new Blob([line]), config: { mimeType: "application/jsonl" } });
  let made = await ai.batches.create({ model: MODEL, src: source.name });
  for (let look = 0; look < 2; look++) made = await ai.batches.get({ name: made.name });
  return made.dest.fileName;
};
const all = async (pager) => {
  for await (const each of await pager) void each;
};

const works = (call) => ({ comes: "works", call });
const sdk = (call) => ({ comes: "sdk", call });
const oneAccount = (call) => ({ comes: "one-account", call });
const internal = { comes: "internal" };

const rows = {
  "chats.create": works(() => ai.chats.create({ model: MODEL })),
  "models.generateContent": works(() => ai.models.generateContent({ model: MODEL, contents: "hi" })),
  "models.generateContentStream": works(() => all(ai.models.generateContentStream({ model: MODEL, contents: "hi" }))),
  "models.countTokens": works(() => ai.models.countTokens({ model: MODEL, contents: "hi" })),
  "models.embedContent": works(() => ai.models.embedContent({ model: "gemini-embedding-001", contents: "hi" })),
  "models.get": works(() => ai.models.get({ model: MODEL })),
  "models.list": works(() => all(ai.models.list())),
  "models.update": works(async () => ai.models.update({ model: (await tuning()).name, config: { displayName: "x" } })),
  "models.delete": works(async () => ai.models.delete({ model: (await tuning()).name })),
  "models.computeTokens": sdk(() => ai.models.computeTokens({ model: MODEL, contents: "hi" })),
  "models.generateImages": sdk(() => ai.models.generateImages({ model: "imagen-4.0-generate-001", prompt: "x" })),
  "models.generateVideos": sdk(() => ai.models.generateVideos({ model: "veo-3.0-generate-001", prompt: "x" })),
  "models.editImage": sdk(() => {
    const reference = new RawReferenceImage();
    reference.referenceImage = image;
    return ai.models.editImage({ model: "imagen-3.0-capability-001", prompt: "x", referenceImages: [reference] });
  }),
  "models.upscaleImage": sdk(() =>
    ai.models.upscaleImage({ model: "imagen-4.0-generate-001", image, upscaleFactor: "x2" }),
  ),
  "models.recontextImage": sdk(() => ai.models.recontextImage({ model: "x", source: { prompt: "x" } })),
  "models.segmentImage": sdk(() => ai.models.segmentImage({ model: "x", source: { prompt: "x", image } })),
  "files.upload": works(file),
  "files.list": works(() => all(ai.files.list())),
  "files.get": works(async () => ai.files.get({ name: (await file()).name })),
  "files.delete": works(async () => ai.files.delete({ name: (await file()).name })),
  "files.download": works(async () => ai.files.download({ file: await generated(), downloadPath: "/dev/null" })),
  "files.registerFiles": sdk(() => ai.files.registerFiles({ auth: undefined, uris: ["gs://bucket/file"] })),
  "caches.create": works(cache),
  "caches.list": works(() => all(ai.caches.list())),
  "caches.get": works(async () => ai.caches.get({ name: (await cache()).name })),
  "caches.update": works(async () => ai.caches.update({ name: (await cache()).name, config: { ttl: "600s" } })),
  "caches.delete": works(async () => ai.caches.delete({ name: (await cache()).name })),
  "batches.create": works(batch),
  "batches.createEmbeddings": works(() =>
    ai.batches.createEmbeddings({
      model: "gemini-embedding-001",
      src: { inlinedRequests: { contents: [{ parts: [{ text: "hi" }] }] } },
    }),
  ),
  "batches.list": works(() => all(ai.batches.list())),
  "batches.get": works(async () => ai.batches.get({ name: (await batch()).name })),
  "batches.cancel": works(async () => ai.batches.cancel({ name: (await batch()).name })),
  "batches.delete": works(async () => ai.batches.delete({ name: (await batch()).name })),
  "fileSearchStores.create": works(store),
  "fileSearchStores.list": works(() => all(ai.fileSearchStores.list())),
  "fileSearchStores.get": works(async () => ai.fileSearchStores.get({ name: (await store()).name })),
  "fileSearchStores.delete": works(async () => ai.fileSearchStores.delete({ name: (await store()).name })),
  "fileSearchStores.importFile": oneAccount(async () =>
    ai.fileSearchStores.importFile({ fileSearchStoreName: (await store()).name, fileName: (await file()).name }),
  ),
  "fileSearchStores.uploadToFileSearchStore": works(async () =>
    ai.fileSearchStores.uploadToFileSearchStore({ fileSearchStoreName: (await store()).name, file: blob() }),
  ),
  "fileSearchStores.downloadMedia": works(async () =>
    ai.fileSearchStores.downloadMedia((await stored()).replace("/documents/", "/media/")),
  ),
  "fileSearchStores.documents.list": works(async () =>
    all(ai.fileSearchStores.documents.list({ parent: (await store()).name })),
  ),
  "fileSearchStores.documents.get": works(async () =>
    ai.fileSearchStores.documents.get({ name: await stored() }),
  ),
  "fileSearchStores.documents.delete": works(async () =>
    ai.fileSearchStores.documents.delete({ name: await stored(), config: { force: true } }),
  ),
  "operations.get": works(async () => ai.operations.get({ operation: await filling() })),
  "operations.getVideosOperation": sdk(() => ai.operations.getVideosOperation({ operation: { name: "x" } })),
  "tunings.tune": works(tuning),
  "tunings.get": works(async () => ai.tunings.get({ name: (await tuning()).name })),
  "tunings.list": sdk(() => all(ai.tunings.list())),
  "tunings.cancel": works(async () => ai.tunings.cancel({ name: (await tuning()).name })),
  "tunings.validateReward": sdk(() => ai.tunings.validateReward({ parent: "projects/p/locations/l" })),
  "authTokens.create": works(() => ai.authTokens.create({ config: { uses: 1 } })),
  "live.connect": works(async () =>
    (await ai.live.connect({ model: "gemini-2.0-flash-live-001", callbacks: { onmessage() {} } })).close(),
  ),
  "live.music.connect": works(async () =>
    (await ai.live.music.connect({ model: "models/lyria-realtime-exp", callbacks: { onmessage() {} } })).close(),
  ),
  "interactions.create": works(async () => all(interaction({ stream: true }))),
  "interactions.get": works(async () => ai.interactions.get((await interaction()).id)),
  "interactions.cancel": works(async () => ai.interactions.cancel((await interaction({ background: true })).id)),
  "interactions.delete": works(async () => ai.interactions.delete((await interaction()).id)),
  "agents.create": works(agent),
  "agents.list": works(() => ai.agents.list()),
  "agents.get": works(async () => ai.agents.get((await agent()).id)),
  "agents.delete": works(async () => ai.agents.delete((await agent()).id)),
  "triggers.create": works(trigger),
  "triggers.list": works(() => ai.triggers.list()),
  "triggers.get": works(async () => ai.triggers.get((await trigger()).id)),
  "triggers.update": works(async () => ai.triggers.update((await trigger()).id, { display_name: "x" })),
  "triggers.delete": works(async () => ai.triggers.delete((await trigger()).id)),
  "triggers.run": works(async () => ai.triggers.run((await trigger()).id)),
  "triggers.listExecutions": works(async () => ai.triggers.listExecutions((await trigger()).id)),
  "environments.create": works(environment),
  "environments.list": works(() => ai.environments.list()),
  "environments.get": works(async () => ai.environments.get((await environment()).id)),
  "environments.delete": works(async () => ai.environments.delete((await environment()).id)),
  "environments.files.upload": works(async () =>
    ai.environments.files.upload({ environment: (await environment()).id, path: "a.txt", file: blob() }),
  ),
  "environments.files.list": works(async () =>
    ai.environments.files.list({ environment: (await environment()).id, path: "src" }),
  ),
  "environments.files.download": works(async () => {
    const place = { environment: (await environment()).id, path: "a.txt" };
    await ai.environments.files.upload({ ...place, file: blob() });
    return ai.environments.files.download(place);
  }),
  "credentials.create": works(credential),
  "credentials.list": works(() => ai.credentials.list()),
  "credentials.get": works(async () => ai.credentials.get((await credential()).id)),
  "credentials.update": works(async () =>
    ai.credentials.update((await credential()).id, { type: "bearer_token", token: "canary-y" }),
  ),
  "credentials.delete": works(async () => ai.credentials.delete((await credential()).id)),
  "voices.create": works(voice),
  "voices.list": works(() => ai.voices.list()),
  "voices.get": works(async () => ai.voices.get((await voice()).id)),
  "voices.delete": works(async () => ai.voices.delete((await voice()).id)),
  "decisions.create": works(() =>
    ai.decisions.create({ model: MODEL, input: "x", questions: { q: { type: "noul", instructions: "?" } } }),
  ),
  "webhooks.create": works(webhook),
  "webhooks.list": works(() => ai.webhooks.list()),
  "webhooks.get": works(async () => ai.webhooks.get((await webhook()).id)),
  "webhooks.update": works(async () => ai.webhooks.update((await webhook()).id, { uri: "https://example.com/y" })),
  "webhooks.delete": works(async () => ai.webhooks.delete((await webhook()).id)),
  "webhooks.ping": works(async () => ai.webhooks.ping((await webhook()).id)),
  "webhooks.rotateSigningSecret": works(async () => ai.webhooks.rotateSigningSecret((await webhook()).id)),
  ...Object.fromEntries(
    [
      "batches.createInlinedGenerateContentRequest",
      "batches.formatDestination",
      "batches.getBigqueryUri",
      "batches.getGcsUri",
      "environments.files.resolveClient",
      "getNextGenClient",
      "live.isCallableTool",
      "models.generateContentStreamWithContinuation",
      "models.generateContentWithContinuation",
      "models.initAfcToolsMap",
      "models.maybeMoveToResponseJsonSchema",
      "models.processAfcStream",
      "models.processParamsMaybeAddMcpUsage",
    ].map((name) => [name, internal]),
  ),
};

// What leads to other objects than the SDK's resources, and what ends so in every one of them.
const ELSEWHERE = new Set(
  "apiClient auth httpOptions internal modelsModule parentClient sdk webSocketFactory".split(" "),
);
const MACHINERY = /Internal$|\.getClient$/;

function methodsOf(thing, path = "", seen = new Set()) {
  if (seen.has(thing)) return [];
  seen.add(thing);
  const names = new Set();
  for (let of = thing; of && of !== Object.prototype; of = Object.getPrototypeOf(of))
    for (const name of Object.getOwnPropertyNames(of)) names.add(name);
  const found = [];
  for (const name of [...names].sort()) {
    if (name === "constructor" || name.startsWith("_") || ELSEWHERE.has(name)) continue;
    const below = path ? `${path}.${name}` : name;
    const value = thing[name];
    if (typeof value === "function") found.push(below);
    else if (value && typeof value === "object") found.push(...methodsOf(value, below, seen));
  }
  return found.filter((name) => !MACHINERY.test(name));
}

// No call takes longer: what waits for an answer that never comes is said by its name.
const PATIENCE_MS = 8000;
const late = () => new Promise((_, reject) => setTimeout(() => reject(new Error("no answer")), PATIENCE_MS).unref());

const outcomes = {};
for (const [name, { comes, call }] of Object.entries(rows)) {
  if (comes === "internal") continue;
  try {
    await Promise.race([call(), late()]);
    outcomes[name] = null;
  } catch (e) {
    outcomes[name] = `${e.name}: ${e.message}`.slice(0, 300);
  }
}
const comes = Object.fromEntries(Object.entries(rows).map(([name, row]) => [name, row.comes]));
process.stdout.write(JSON.stringify({ methods: methodsOf(ai), comes, outcomes }), () => process.exit(0));
