// Google's SDK for Node in Vertex AI's mode, and what the Developer API keeps; some of it as a person would.
//
// Usage: node kept.mjs BASE_URL KEY MODE, MODE one of developer, express, project.
// Prints a JSON object: for each scenario, {"value": what a person could see} or {"error": [name, status, message]}.

import { GenerateVideosOperation, GoogleGenAI } from "@google/genai";

const MODEL = "gemini-2.5-flash";
const [baseUrl, apiKey, mode] = process.argv.slice(2);
const httpOptions = { baseUrl, timeout: 30_000 };
const vertex = mode !== "developer";

/** What the SDK needs of google-auth-library, with the client key for a token. */
const googleAuthOptions = {
  authClient: {
    getRequestHeaders: async () => new Headers({ Authorization: `Bearer ${apiKey}` }),
    getAccessToken: async () => ({ token: apiKey }),
    request: async () => ({}),
  },
};
const ai = new GoogleGenAI(
  mode === "project"
    ? { vertexai: true, project: "mine", location: "us-central1", googleAuthOptions, httpOptions }
    : { vertexai: vertex, apiKey, httpOptions },
);

async function names(pager) {
  const found = [];
  for await (const one of await pager) found.push(one.name);
  return found;
}

const calls = {
  async generate() {
    return (await ai.models.generateContent({ model: MODEL, contents: "Hi" })).text;
  },
  async stream() {
    let text = "";
    for await (const chunk of await ai.models.generateContentStream({ model: MODEL, contents: "Hi" })) text += chunk.text ?? "";
    return text;
  },
  async count() {
    return (await ai.models.countTokens({ model: MODEL, contents: "Hi there" })).totalTokens;
  },
  async embed() {
    const config = { outputDimensionality: 5 };
    const answer = await ai.models.embedContent({ model: "gemini-embedding-001", contents: "x", config });
    return answer.embeddings.map((one) => one.values.length);
  },
};

const kept = {
  async store() {
    const store = await ai.fileSearchStores.create({ config: { displayName: "My docs" } });
    const file = new Blob(["text"], { type: "text/plain" });
    const uploaded = await ai.fileSearchStores.uploadToFileSearchStore({ fileSearchStoreName: store.name, file });
    const done = await ai.operations.get({ operation: uploaded });
    const documents = await names(ai.fileSearchStores.documents.list({ parent: store.name }));
    await ai.fileSearchStores.delete({ name: store.name, config: { force: true } });
    return [uploaded.done ?? false, done.done, documents.includes(done.response.documentName)];
  },
  async embeddings() {
    const src = { inlinedRequests: { contents: [{ parts: [{ text: "x" }] }] } };
    const made = await ai.batches.createEmbeddings({ model: "gemini-embedding-001", src });
    let batch;
    for (let look = 0; look < 2; look++) batch = await ai.batches.get({ name: made.name });
    return [batch.state, batch.dest.inlinedEmbedContentResponses.length];
  },
  async veo() {
    const url = `${baseUrl}/v1beta/models/veo-3.0-generate-001:predictLongRunning`;
    const headers = { "x-goog-api-key": apiKey, "content-type": "application/json" };
    const body = JSON.stringify({ instances: [{ prompt: "a cat" }] });
    let operation = new GenerateVideosOperation();
    operation.name = (await (await fetch(url, { method: "POST", headers, body })).json()).name;
    for (let look = 0; look < 2; look++) operation = await ai.operations.getVideosOperation({ operation });
    return [operation.done, operation.response.generatedVideos.length];
  },
};

const ofProject = {
  async cache() {
    const cache = await ai.caches.create({ model: MODEL, config: { contents: "x".repeat(100) } });
    const listed = (await names(ai.caches.list())).includes(cache.name);
    const used = await ai.models.generateContent({ model: MODEL, contents: "x", config: { cachedContent: cache.name } });
    await ai.caches.delete({ name: cache.name });
    return [listed, used.usageMetadata.cachedContentTokenCount];
  },
  async veo() {
    let operation = await ai.models.generateVideos({ model: "veo-3.0-generate-001", source: { prompt: "a cat" } });
    for (let look = 0; look < 2; look++) operation = await ai.operations.getVideosOperation({ operation });
    return [operation.done, Boolean(operation.response.generatedVideos[0].video.videoBytes)];
  },
  async compute() {
    return (await ai.models.computeTokens({ model: MODEL, contents: "Hi there" })).tokensInfo.length;
  },
};

const scenarios = { ...calls, ...(mode === "developer" ? kept : {}), ...(mode === "project" ? ofProject : {}) };
const outcomes = {};
for (const [name, scenario] of Object.entries(scenarios)) {
  try {
    outcomes[name] = { value: await scenario() };
  } catch (error) {
    outcomes[name] = { error: [error.name, error.status ?? null, error.message] };
  }
}
process.stdout.write(JSON.stringify(outcomes), () => process.exit(0));
