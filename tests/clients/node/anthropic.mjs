// npm's @anthropic-ai/sdk, unmodified, at the base URL of the first argument: prints what came of each feature as JSON.
import Anthropic from "@anthropic-ai/sdk";
import { betaTool } from "@anthropic-ai/sdk/helpers/beta/json-schema";

const client = new Anthropic({ baseURL: process.argv[2], apiKey: process.argv[3], maxRetries: 0 });
const asked = { model: "gemini-2.5-flash", max_tokens: 1000, messages: [{ role: "user", content: "Say hello" }] };
const found = {};

found.whole = (await client.messages.create(asked)).content[0].text;
const stream = client.messages.stream(asked);
const events = [];
for await (const event of stream) if (events.at(-1) !== event.type) events.push(event.type);
found.streamed = (await stream.finalMessage()).content[0].text;
found.events = events;

const inputSchema = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const runner = client.beta.messages.toolRunner({
  ...asked,
  model: "gemini-3-pro-preview",
  max_tokens: 4000,
  thinking: { type: "adaptive" },
  stream: true,
  messages: [{ role: "user", content: "get weather and get time" }],
  tools: ["get_weather", "get_time"].map((name) =>
    betaTool({ name, description: name, inputSchema, run: async ({ city }) => `${name} of ${city}` }),
  ),
});
found.tools = (await runner.runUntilDone()).content.filter((block) => block.type === "text")[0].text;

found.tokens = (await client.messages.countTokens({ model: asked.model, messages: asked.messages })).input_tokens;
found.models = (await client.models.list()).data.length;

found.errors = {};
for (const status of [400, 403, 404, 500, 503]) {
  try {
    await client.messages.create({ ...asked, model: `emu-${status}` });
  } catch (error) {
    found.errors[status] = error.constructor.name;
  }
}
try {
  for await (const event of await client.messages.create({ ...asked, model: "emu-cut", stream: true })) void event;
} catch (error) {
  found.errors.cut = error instanceof Anthropic.APIError;
}
console.log(JSON.stringify(found));
