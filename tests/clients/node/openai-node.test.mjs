// The `openai` package for Node: what a program that uses it sees when only its base URL has changed.
import assert from 'node:assert/strict';
import test from 'node:test';

import OpenAI from 'openai';
import { zodResponseFormat } from 'openai/helpers/zod';
import { z } from 'zod';

import { all, ANSWER, LIVE, SCRIPTED } from './gateway.mjs';

const live = new OpenAI({ baseURL: LIVE.api, apiKey: LIVE.key });
const scripted = new OpenAI({ baseURL: SCRIPTED.api, apiKey: SCRIPTED.key });

const says = (content) => [{ role: 'user', content }];
const sum = says('How much is 3 + 4?');
const weather = {
  type: 'function',
  function: {
    name: 'weather',
    parameters: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] },
  },
};

test('plain', async () => {
  const completion = await live.chat.completions.create({ model: LIVE.model, messages: sum, max_tokens: 16 });

  assert.ok(completion.choices[0].message.content);
  assert.ok(completion.usage.completion_tokens > 0);
  assert.equal(completion.usage.completion_tokens, completion.apportion.actual.tokens);
});

test('stream', async () => {
  const stream = await live.chat.completions.create({
    model: LIVE.model,
    messages: sum,
    max_tokens: 16,
    stream: true,
    stream_options: { include_usage: true },
    apportion: { strategy: 'single' },
  });
  const chunks = await all(stream);

  assert.ok(chunks.filter((chunk) => chunk.choices[0]?.delta.content).length > 1);
  assert.equal(chunks.at(-1).usage.completion_tokens, chunks.at(-1).apportion.actual.tokens);
});

test('the stream helper puts the answer together', async () => {
  const stream = scripted.chat.completions.stream({ model: SCRIPTED.model, messages: sum });
  let told = '';
  stream.on('content', (delta) => (told += delta));
  const final = await stream.finalChatCompletion();

  assert.equal(told, ANSWER);
  assert.equal(final.choices[0].message.content, ANSWER);
  assert.equal(final.choices[0].finish_reason, 'stop');
});

for (const strategy of ['single', 'majority_vote@3']) {
  test(`tools round trip, ${strategy}`, async () => {
    const options = { model: SCRIPTED.model, tools: [weather], apportion: { strategy } };
    const { message, finish_reason } = (await scripted.chat.completions.create({ messages: sum, ...options })).choices[0];

    assert.equal(finish_reason, 'tool_calls');
    assert.equal(message.tool_calls[0].function.name, 'weather');
    assert.deepEqual(JSON.parse(message.tool_calls[0].function.arguments), { city: 'Paris' });
    const result = { role: 'tool', tool_call_id: message.tool_calls[0].id, content: 'sunny' };
    const second = await scripted.chat.completions.create({ messages: [...sum, message, result], ...options });
    assert.equal(second.choices[0].message.content, ANSWER);
  });

  test(`tool calls in a stream, ${strategy}`, async () => {
    const stream = scripted.chat.completions.stream({
      model: SCRIPTED.model,
      messages: sum,
      tools: [weather],
      apportion: { strategy },
    });
    const [call] = (await stream.finalMessage()).tool_calls;

    assert.equal(call.function.name, 'weather');
    assert.deepEqual(JSON.parse(call.function.arguments), { city: 'Paris' });
  });
}

test('runTools calls the function and gets the answer', async () => {
  const called = [];
  const runner = scripted.chat.completions.runTools({
    model: SCRIPTED.model,
    messages: sum,
    tools: [
      { type: 'function', function: { ...weather.function, parse: JSON.parse, function: (args) => called.push(args) && 'sunny' } },
    ],
  });

  assert.equal(await runner.finalContent(), ANSWER);
  assert.deepEqual(called, [{ city: 'Paris' }]);
});

test('structured output is parsed', async () => {
  const completion = await scripted.chat.completions.parse({
    model: SCRIPTED.model,
    messages: sum,
    response_format: zodResponseFormat(z.object({ answer: z.int(), steps: z.array(z.string()) }), 'sum'),
  });

  assert.deepEqual(completion.choices[0].message.parsed, { answer: 7, steps: ['Paris'] });
});

test('structured output of the real model', async () => {
  const completion = await live.chat.completions.parse({
    model: LIVE.model,
    messages: sum,
    max_tokens: 60,
    response_format: zodResponseFormat(z.object({ answer: z.int() }), 'sum'),
  });

  assert.equal(typeof completion.choices[0].message.parsed.answer, 'number');
});

test('n answers and logprobs', async () => {
  const completion = await scripted.chat.completions.create({
    model: SCRIPTED.model,
    messages: sum,
    n: 2,
    logprobs: true,
    top_logprobs: 1,
  });

  assert.deepEqual(completion.choices.map((choice) => choice.message.content), [ANSWER, ANSWER]);
  assert.equal(completion.choices[0].logprobs.content.map((entry) => entry.token).join(''), ANSWER);
});

test('the response with its headers', async () => {
  const { data, response, request_id } = await live.chat.completions
    .create({ model: LIVE.model, messages: sum, max_tokens: 4 })
    .withResponse();

  assert.equal(response.headers.get('x-apportion-strategy'), data.apportion.strategy);
  assert.equal(request_id, data.id);
});

test('models', async () => {
  const models = await all(live.models.list());

  assert.ok(models.map((model) => model.id).includes(LIVE.model));
});

test('errors are the package\'s own', async () => {
  const refused = (body) => scripted.chat.completions.create({ model: SCRIPTED.model, messages: sum, ...body });

  await assert.rejects(refused({ temperature: 7 }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.param, 'temperature');
    assert.equal(error.type, 'invalid_request_error');
    return true;
  });
  await assert.rejects(refused({ model: 'gpt-99' }), OpenAI.NotFoundError);
  await assert.rejects(refused({ messages: says('refuse with 422') }), OpenAI.UnprocessableEntityError);
});

test('a wrong key is refused', async () => {
  const client = new OpenAI({ baseURL: SCRIPTED.api, apiKey: 'sk-wrong' });

  await assert.rejects(
    client.chat.completions.create({ model: SCRIPTED.model, messages: sum }),
    (error) => error instanceof OpenAI.AuthenticationError && error.code === 'invalid_api_key',
  );
});

test('an overloaded engine is asked again', async () => {
  const before = await SCRIPTED.asked();
  const completion = await scripted.chat.completions.create({
    model: SCRIPTED.model,
    messages: says('busy at first openai-node'),
  });

  assert.equal(completion.choices[0].message.content, ANSWER);
  assert.equal((await SCRIPTED.asked()) - before, 2);
});

test('what would only spend again is asked once', async () => {
  const before = await SCRIPTED.asked();
  await assert.rejects(
    scripted.chat.completions.create({
      model: SCRIPTED.model,
      messages: says('say nothing'),
      apportion: { strategy: 'single', deadline_ms: 200 },
    }),
    (error) => error instanceof OpenAI.InternalServerError && error.code === 'deadline_exceeded',
  );

  assert.equal((await SCRIPTED.asked()) - before, 1);
});

test('options in the body, in headers and behind the model\'s name', async () => {
  const ask = async (body, options) =>
    (await scripted.chat.completions.create({ model: SCRIPTED.model, messages: sum, ...body }, options)).apportion;

  assert.equal((await ask({ apportion: { strategy: 'majority_vote@3' } })).strategy, 'majority_vote@3');
  assert.equal((await ask({}, { headers: { 'x-apportion-strategy': 'best_of_n@2' } })).strategy, 'best_of_n@2');
  assert.equal((await ask({ model: `${SCRIPTED.model}:quality` })).profile, 'quality');
});

test('options in the base URL', async () => {
  const client = new OpenAI({ baseURL: `${SCRIPTED.url}/best_of_n@2/v1`, apiKey: SCRIPTED.key });
  const completion = await client.chat.completions.create({ model: SCRIPTED.model, messages: sum });

  assert.equal(completion.apportion.strategy, 'best_of_n@2');
});

test('the package\'s timeout is the deadline', async () => {
  const completion = await scripted.chat.completions.create({ model: SCRIPTED.model, messages: sum }, { timeout: 7000 });

  assert.equal(completion.apportion.budget.deadline_ms, 7000);
});

// The Responses API

const input = 'How much is 3 + 4?';

test('a response', async () => {
  const response = await scripted.responses.create({ model: SCRIPTED.model, input });

  assert.equal(response.output_text, ANSWER);
  assert.equal(response.usage.output_tokens, response.apportion.actual.tokens);
});

test('a streamed response', async () => {
  const stream = scripted.responses.stream({ model: SCRIPTED.model, input });
  let told = '';
  stream.on('response.output_text.delta', (event) => (told += event.delta));
  const final = await stream.finalResponse();

  assert.equal(told, ANSWER);
  assert.equal(final.output_text, ANSWER);
});

test('a tool of a response', async () => {
  const tools = [{ type: 'function', ...weather.function }];
  const { output } = await scripted.responses.create({ model: SCRIPTED.model, input, tools });
  const call = output.find((item) => item.type === 'function_call');

  assert.deepEqual([call.name, JSON.parse(call.arguments)], ['weather', { city: 'Paris' }]);
  const result = { type: 'function_call_output', call_id: call.call_id, output: 'sunny' };
  const second = await scripted.responses.create({
    model: SCRIPTED.model,
    input: [{ role: 'user', content: input }, ...output, result],
    tools,
  });
  assert.equal(second.output_text, ANSWER);
});
