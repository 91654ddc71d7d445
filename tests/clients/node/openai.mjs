// npm's openai, unmodified, at the base URL of the first argument: prints what came of each feature as JSON.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: process.argv[3], maxRetries: 0 });
const model = "gemini-2.5-flash";
const messages = [{ role: "user", content: "Say hello" }];
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const found = {};

found.whole = (await client.chat.completions.create({ model, messages })).choices[0].message.content;
let said = "";
for await (const chunk of await client.chat.completions.create({ model, messages, stream: true }))
  said += chunk.choices[0]?.delta?.content ?? "";
found.streamed = said;

const runner = client.chat.completions.runTools({
  model,
  stream: true,
  messages: [{ role: "user", content: "get weather" }],
  tools: [{ type: "function", function: { name: "get_weather", parse: JSON.parse, parameters, function: () => "rain" } }],
});
found.tools = await runner.finalContent();

const events = [];
for await (const event of client.responses.stream({ model, input: "Say hello" })) events.push(event.type);
found.events = events;
found.vector = (await client.embeddings.create({ model: "gemini-embedding-001", input: "x", dimensions: 8 })).data[0].embedding.length;
found.models = (await client.models.list()).data.length;

found.errors = {};
for (const status of [400, 403, 404, 500, 503]) {
  try {
    await client.chat.completions.create({ model: `emu-${status}`, messages });
  } catch (error) {
    found.errors[status] = error.constructor.name;
  }
}
try {
  for await (const chunk of await client.chat.completions.create({ model: "emu-cut", messages, stream: true })) void chunk;
} catch (error) {
  found.errors.cut = error instanceof OpenAI.APIError;
}
console.log(JSON.stringify(found));
