// Google's SDK for Node, pointed at a target as a person would.
//
// Usage: node scenarios.mjs BASE_URL KEY, and on standard input a JSON list of [scenario, argument].
// Prints a JSON list: for each, {"value": what a person could see} or {"error": [name, status, message]}.

import { FunctionCallingConfigMode, GoogleGenAI, Type } from "@google/genai";
import { text } from "node:stream/consumers";

const MODEL = "gemini-2.5-flash";
const [baseUrl, apiKey] = process.argv.slice(2);
const ai = new GoogleGenAI({ apiKey, httpOptions: { baseUrl, timeout: 30_000 } });

/** What can be seen of a response, but for what the kinds of upstream print differently. */
function seen(response) {
  const usage = response.usageMetadata ?? {};
  return {
    candidates: response.candidates,
    feedback: response.promptFeedback?.blockReason,
    model: response.modelVersion,
    tokens: [
      usage.promptTokenCount,
      usage.candidatesTokenCount,
      usage.thoughtsTokenCount,
      usage.totalTokenCount,
    ],
  };
}

async function collect(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(seen(chunk));
  return chunks;
}

const weather = {
  name: "weather_in",
  description: "The weather in a city.",
  parameters: {
    type: Type.OBJECT,
    properties: {
      city: { type: Type.STRING },
      unit: { type: Type.STRING, enum: ["celsius", "fahrenheit"] },
    },
    required: ["city", "unit"],
  },
};

/** A tool that the SDK calls by itself. */
function callableWeather(asked) {
  return {
    tool: async () => ({ functionDeclarations: [weather] }),
    callTool: async (calls) => {
      asked.push(...calls.map((call) => call.args));
      return calls.map((call) => ({
        functionResponse: { name: call.name, response: { sky: "clear" } },
      }));
    },
  };
}

const scenarios = {
  async generate(model = MODEL) {
    return seen(await ai.models.generateContent({ model, contents: "Why is the sky blue?" }));
  },

  async stream(model = MODEL) {
    const contents = "Tell me of Köln, 世界 and 🌍.";
    return collect(await ai.models.generateContentStream({ model, contents }));
  },

  async chat() {
    const chat = ai.chats.create({ model: MODEL, config: { systemInstruction: "Be brief." } });
    const first = seen(await chat.sendMessage({ message: "My name is Ada." }));
    return [first, ...(await collect(await chat.sendMessageStream({ message: "What is my name?" })))];
  },

  async functions_called_by_the_sdk() {
    const asked = [];
    const config = { tools: [callableWeather(asked)] };
    const contents = "What is the weather in Berlin?";
    const response = await ai.models.generateContent({ model: MODEL, contents, config });
    return [asked, seen(response), response.automaticFunctionCallingHistory];
  },

  async functions_called_by_hand() {
    const tools = [{ functionDeclarations: [weather] }];
    const toolConfig = { functionCallingConfig: { mode: FunctionCallingConfigMode.ANY } };
    const question = { role: "user", parts: [{ text: "How warm is it in Lima?" }] };
    const config = { tools, toolConfig };
    const first = await ai.models.generateContent({ model: MODEL, contents: [question], config });
    const call = first.functionCalls[0];
    const answer = {
      role: "user",
      parts: [{ functionResponse: { name: call.name, response: { degrees: 31 } } }],
    };
    const contents = [question, first.candidates[0].content, answer];
    const second = await ai.models.generateContent({ model: MODEL, contents, config: { tools } });
    return [call, seen(first), seen(second)];
  },

  async json() {
    const responseJsonSchema = {
      type: "object",
      properties: { title: { type: "string" }, size: { enum: ["small", "large"] } },
      required: ["title", "size"],
    };
    const config = { responseMimeType: "application/json", responseJsonSchema };
    const response = await ai.models.generateContent({ model: MODEL, contents: "A thing.", config });
    return [JSON.parse(response.text), seen(response)];
  },

  async image_in(bytes) {
    const data = Buffer.alloc(bytes, "x").toString("base64");
    const contents = [{ inlineData: { mimeType: "image/png", data } }, { text: "What is this?" }];
    return seen(await ai.models.generateContent({ model: MODEL, contents }));
  },

  async image_out() {
    const contents = "Draw a gradient.";
    return seen(await ai.models.generateContent({ model: "gemini-2.5-flash-image", contents }));
  },

  async thoughts() {
    const config = { thinkingConfig: { includeThoughts: true } };
    const contents = "Think hard.";
    return collect(await ai.models.generateContentStream({ model: "gemini-2.5-pro", contents, config }));
  },

  async count() {
    return (await ai.models.countTokens({ model: MODEL, contents: "How many?" })).totalTokens;
  },

  async embed() {
    const contents = ["A text.", "Another."];
    const config = { outputDimensionality: 64 };
    return (await ai.models.embedContent({ model: "gemini-embedding-001", contents, config })).embeddings;
  },

  async list(pageSize) {
    const names = [];
    for await (const model of await ai.models.list({ config: { pageSize } })) names.push(model.name);
    return names;
  },

  async get(model) {
    return (await ai.models.get({ model })).name;
  },

  /** The chunks that came before a stream failed, and how it failed. */
  async stream_until_it_fails(model) {
    let chunks = 0;
    try {
      for await (const _ of await ai.models.generateContentStream({ model, contents: "Go on." })) chunks += 1;
    } catch (error) {
      return [chunks, error.name, error.message];
    }
    return [chunks, null, null];
  },

  /** A Live session of one turn: all messages, and the code and the reason that it is closed with. */
  async live(model, config = { responseModalities: ["TEXT"] }) {
    const messages = [];
    let session;
    const closed = new Promise((resolve) => {
      const callbacks = {
        onmessage: (message) => {
          messages.push(message);
          if (message.serverContent?.turnComplete) session.close();
        },
        onerror: (error) => resolve([error.message]),
        onclose: (event) => resolve([event.code, event.reason]),
      };
      ai.live.connect({ model, config, callbacks }).then(
        (opened) => {
          session = opened;
          session.sendClientContent({ turns: "Say hello", turnComplete: true });
        },
        (error) => resolve([error.message]),
      );
    });
    return { closed: await closed, messages };
  },

  /** Takes one chunk of a stream, and leaves. */
  async leave(model) {
    const leaving = new AbortController();
    const config = { abortSignal: leaving.signal };
    const stream = await ai.models.generateContentStream({ model, contents: "Go on.", config });
    const first = seen((await stream.next()).value);
    leaving.abort();
    return first;
  },
};

const outcomes = [];
for (const [name, ...args] of JSON.parse(await text(process.stdin))) {
  try {
    outcomes.push({ value: await scenarios[name](...args) });
  } catch (error) {
    outcomes.push({ error: [error.name, error.status ?? null, error.message] });
  }
}
process.stdout.write(JSON.stringify(outcomes), () => process.exit(0));
