// SPDX-License-Identifier: Apache-2.0
// What people do with OpenAI's client, done to a Caravan server.
// usage: node client.js URL KEY
"use strict";
const assert = require("node:assert/strict");
const { OpenAI } = require("openai");

const [url, apiKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0, timeout: 60000 });
const model = "tiny";
const messages = [
  { role: "system", content: "Be brief." },
  { role: "user", content: "Hello there" },
];
// Greedy and of a known length.
const fixed = { model, max_tokens: 24, temperature: 0, ignore_eos: true };

const complete = (more) => client.completions.create({ ...fixed, prompt: "Hello there", ...more });
const chat = (more) => client.chat.completions.create({ ...fixed, messages, ...more });

// A piece in the middle of a text that first occurs there; plain characters alone.
function pieceOf(text) {
  for (let at = Math.floor(text.length / 2); at + 3 <= text.length; at++) {
    const piece = text.slice(at, at + 3);
    if (/^[ -~]+$/.test(piece) && text.indexOf(piece) === at) return piece;
  }
  throw new Error(`no piece of ${JSON.stringify(text)} can be a stop string`);
}

async function fails(promise, type, status, param, words) {
  const error = await promise.then(
    () => assert.fail(`expected HTTP status ${status}`),
    (reason) => reason,
  );
  assert.ok(error instanceof type, String(error));
  assert.equal(error.status, status);
  assert.equal(error.param, param);
  assert.match(error.message, words);
}

const tests = {
  async "models"() {
    const list = await client.models.list();
    assert.deepEqual(list.data.map((m) => m.id), [model]);
    assert.equal((await client.models.retrieve(model)).owned_by, "caravan");
  },

  async "completion"() {
    const answer = await complete();
    assert.equal(answer.object, "text_completion");
    assert.equal(answer.choices[0].finish_reason, "length");
    assert.equal(answer.usage.completion_tokens, 24);
    assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + 24);
    assert.equal((await complete()).choices[0].text, answer.choices[0].text);
  },

  async "completion, streamed"() {
    const whole = (await complete()).choices[0].text;
    let text = "", finish = null, usage = null;
    const stream = await complete({ stream: true, stream_options: { include_usage: true } });
    for await (const chunk of stream) {
      text += chunk.choices[0]?.text ?? "";
      finish = chunk.choices[0]?.finish_reason ?? finish;
      usage = chunk.usage ?? usage;
    }
    assert.equal(text, whole);
    assert.equal(finish, "length");
    assert.equal(usage.completion_tokens, 24);
  },

  async "completion with logprobs"() {
    const { logprobs } = (await complete({ logprobs: 3 })).choices[0];
    assert.equal(logprobs.tokens.length, 24);
    assert.ok(logprobs.token_logprobs.every((p) => p <= 0));
    // Greedy: the best candidate is the token.
    logprobs.top_logprobs.forEach((top, i) => {
      assert.equal(Math.max(...Object.values(top)), logprobs.token_logprobs[i]);
    });
  },

  async "completion with stop"() {
    const whole = (await complete()).choices[0].text;
    const stop = pieceOf(whole);
    const { text, finish_reason } = (await complete({ stop: ["not this", stop] })).choices[0];
    assert.equal(text, whole.slice(0, whole.indexOf(stop)));
    assert.equal(finish_reason, "stop");
  },

  async "several prompts and choices"() {
    const answer = await complete({ prompt: ["a", "b"], n: 2 });
    assert.deepEqual(answer.choices.map((c) => c.index), [0, 1, 2, 3]);
    assert.equal(answer.choices[2].text, answer.choices[3].text);
  },

  async "chat"() {
    const answer = await chat();
    const { message, finish_reason, logprobs } = answer.choices[0];
    assert.equal(answer.object, "chat.completion");
    assert.equal(message.role, "assistant");
    assert.ok(message.content.length > 0);
    assert.equal(finish_reason, "length");
    assert.equal(logprobs, null);
    assert.equal(answer.usage.completion_tokens, 24);
    const parts = [messages[0], { role: "user", content: [{ type: "text", text: "Hello" },
                                                          { type: "text", text: " there" }] }];
    assert.equal((await chat({ messages: parts })).choices[0].message.content, message.content);
    const turn = await chat({ messages: [...messages, message, { role: "user", content: "So?" }] });
    assert.ok(turn.usage.prompt_tokens > answer.usage.prompt_tokens);
  },

  async "chat is ChatML"() {
    const prompt = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello there" +
      "<|im_end|>\n<|im_start|>assistant\n";
    const answer = await chat(), plain = await complete({ prompt });
    assert.equal(answer.choices[0].message.content, plain.choices[0].text);
    assert.equal(answer.usage.prompt_tokens, plain.usage.prompt_tokens);
  },

  async "chat, streamed"() {
    const whole = (await chat()).choices[0].message.content;
    const chunks = [];
    const stream = await chat({ stream: true, stream_options: { include_usage: true } });
    for await (const chunk of stream) chunks.push(chunk);
    const last = chunks.pop();
    assert.deepEqual(last.choices, []);
    assert.equal(last.usage.completion_tokens, 24);
    assert.ok(chunks.every((c) => c.object === "chat.completion.chunk" && c.usage === null));
    assert.equal(chunks[0].choices[0].delta.role, "assistant");
    assert.equal(chunks.map((c) => c.choices[0].delta.content ?? "").join(""), whole);
    assert.equal(chunks.at(-1).choices[0].finish_reason, "length");
  },

  async "the client's stream helper"() {
    const whole = (await chat()).choices[0].message.content;
    const runner = client.beta.chat.completions.stream({ ...fixed, messages });
    let text = "";
    runner.on("content", (delta) => (text += delta));
    assert.equal(await runner.finalContent(), whole);
    assert.equal(text, whole);
  },

  async "chat with logprobs"() {
    const { logprobs } = (await chat({ logprobs: true, top_logprobs: 2 })).choices[0];
    assert.equal(logprobs.content.length, 24);
    for (const token of logprobs.content) {
      assert.equal(token.top_logprobs.length, 2);
      assert.equal(token.top_logprobs[0].logprob, token.logprob);
      assert.ok(Array.isArray(token.bytes));
    }
  },

  async "chat with stop"() {
    const whole = (await chat()).choices[0].message.content;
    const stop = pieceOf(whole);
    const { message, finish_reason } = (await chat({ stop })).choices[0];
    assert.equal(message.content, whole.slice(0, whole.indexOf(stop)));
    assert.equal(finish_reason, "stop");
  },

  async "seeds"() {
    const draw = async (seed) =>
      (await chat({ temperature: 1.5, seed, n: 2 })).choices.map((c) => c.message.content);
    const first = await draw(7);
    assert.deepEqual(await draw(7), first);
    assert.notEqual(first[0], first[1]);
    assert.notDeepEqual(await draw(1234), first);
  },

  async "a stream that is left"() {
    for await (const chunk of await chat({ stream: true, max_tokens: 400 })) {
      if (chunk.choices[0].delta.content) break;
    }
    assert.equal((await chat({ max_tokens: 3 })).usage.completion_tokens, 3);
  },

  async "errors"() {
    const { BadRequestError, NotFoundError, AuthenticationError } = OpenAI;
    const tools = [{ type: "function", function: { name: "f", parameters: {} } }];
    const image = [{ type: "image_url", image_url: { url: "data:image/png;base64,AA==" } }];
    await fails(chat({ tools }), BadRequestError, 400, "tools", /tools is not supported/);
    await fails(chat({ response_format: { type: "json_object" } }), BadRequestError, 400,
                "response_format", /not supported/);
    await fails(chat({ messages: [{ role: "user", content: image }] }), BadRequestError, 400,
                "messages", /is an image/);
    await fails(chat({ messages: [] }), BadRequestError, 400, "messages", /empty/);
    await fails(chat({ temperature: -1 }), BadRequestError, 400, "temperature", /expected 0/);
    await fails(chat({ stream: true, top_logprobs: 1 }), BadRequestError, 400, "top_logprobs",
                /logprobs/);
    await fails(chat({ model: "gpt-4o" }), NotFoundError, 404, "model", /only 'tiny'/);
    await fails(complete({ prompt: [] }), BadRequestError, 400, "prompt", /prompt/);
    await fails(chat({ messages: [{ role: "user", content: "word ".repeat(9000) }] }),
                BadRequestError, 400, "messages", /context/);
    const stranger = new OpenAI({ baseURL: `${url}/v1`, apiKey: "wrong", maxRetries: 0 });
    await fails(stranger.models.list(), AuthenticationError, 401, null, /key/);
  },
};

async function main() {
  let failed = 0;
  for (const [name, test] of Object.entries(tests)) {
    try {
      await test();
      console.log(`passed  ${name}`);
    } catch (error) {
      failed++;
      console.log(`failed  ${name}: ${error.stack}`);
    }
  }
  console.log(`${Object.keys(tests).length} tests, ${failed} failed`);
  process.exitCode = failed ? 1 : 0;
}

main();
