// The AI SDK: with @ai-sdk/openai-compatible, which is made for servers like this one, and with @ai-sdk/openai.
import assert from 'node:assert/strict';
import test from 'node:test';

import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { APICallError, generateText, isStepCount, Output, RetryError, streamText, tool } from 'ai';
import { z } from 'zod';

import { all, ANSWER, LIVE, SCRIPTED } from './gateway.mjs';

const compatible = (gateway, options) =>
  createOpenAICompatible({
    name: 'apportion',
    baseURL: gateway.api,
    apiKey: gateway.key,
    includeUsage: true,
    supportsStructuredOutputs: true,
    ...options,
  });
const openai = (gateway, options) => createOpenAI({ baseURL: gateway.api, apiKey: gateway.key, ...options });

// the same suite for the models of both packages; @ai-sdk/openai takes the Responses API by itself
const MODELS = {
  '@ai-sdk/openai-compatible': (gateway, options) => compatible(gateway, options)(gateway.model),
  '@ai-sdk/openai': (gateway, options) => openai(gateway, options)(gateway.model),
  '@ai-sdk/openai, chat': (gateway, options) => openai(gateway, options).chat(gateway.model),
};
const prompt = 'How much is 3 + 4?';
const include = { responseBody: true }; // `apportion` is in there
const weather = tool({
  description: 'The weather in a city.',
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => `sunny in ${city}`,
});

for (const [name, model] of Object.entries(MODELS)) {
  test(`${name}: plain`, async () => {
    const { text, usage, response } = await generateText({ model: model(LIVE), prompt, maxOutputTokens: 16, include });

    assert.ok(text);
    assert.ok(usage.outputTokens > 0);
    assert.equal(usage.outputTokens, response.body.apportion.actual.tokens);
  });

  test(`${name}: stream`, async () => {
    const headers = { 'x-apportion-strategy': 'single' };
    const result = streamText({ model: model(LIVE, { headers }), prompt, maxOutputTokens: 16 });
    const parts = await all(result.textStream);

    assert.ok(parts.length > 1);
    assert.equal(parts.join(''), await result.text);
    assert.ok((await result.usage).outputTokens > 0);
  });

  for (const strategy of ['single', 'majority_vote@3']) {
    const headers = { 'x-apportion-strategy': strategy };

    test(`${name}: a tool is called and its result answered, ${strategy}`, async () => {
      const { text, steps } = await generateText({
        model: model(SCRIPTED, { headers }),
        prompt,
        tools: { weather },
        stopWhen: isStepCount(3),
      });

      assert.equal(steps[0].toolResults[0].output, 'sunny in Paris');
      assert.equal(text, ANSWER);
    });

    test(`${name}: a tool is called in a stream, ${strategy}`, async () => {
      const result = streamText({
        model: model(SCRIPTED, { headers }),
        prompt,
        tools: { weather },
        stopWhen: isStepCount(3),
      });

      assert.equal(await result.text, ANSWER);
      assert.deepEqual((await result.steps)[0].toolCalls[0].input, { city: 'Paris' });
    });
  }

  test(`${name}: structured output`, async () => {
    const { output } = await generateText({
      model: model(SCRIPTED),
      prompt,
      output: Output.object({ schema: z.object({ answer: z.int() }) }),
    });

    assert.deepEqual(output, { answer: 7 });
  });

  test(`${name}: an error is an APICallError`, async () => {
    await assert.rejects(generateText({ model: model(SCRIPTED), prompt, temperature: 7 }), (error) => {
      assert.ok(APICallError.isInstance(error));
      assert.equal(error.statusCode, 400);
      assert.equal(error.data.error.param, 'temperature');
      return true;
    });
  });

  test(`${name}: a wrong key is refused`, async () => {
    await assert.rejects(generateText({ model: model(SCRIPTED, { apiKey: 'sk-wrong' }), prompt }), (error) => {
      assert.ok(APICallError.isInstance(error));
      assert.equal(error.statusCode, 401);
      return true;
    });
  });

  test(`${name}: an overloaded engine is asked again`, async () => {
    const before = await SCRIPTED.asked();
    const { text } = await generateText({ model: model(SCRIPTED), prompt: `busy at first ${name.replaceAll(' ', '')}` });

    assert.equal(text, ANSWER);
    assert.equal((await SCRIPTED.asked()) - before, 2);
  });

  test(`${name}: its retries go by the status alone`, async () => {
    const headers = { 'x-apportion-strategy': 'single', 'x-apportion-deadline-ms': '100' };
    const ask = (maxRetries) => generateText({ model: model(SCRIPTED, { headers }), prompt: 'say nothing', maxRetries });
    const before = await SCRIPTED.asked();

    await assert.rejects(ask(1), (error) => RetryError.isInstance(error) && error.lastError.statusCode === 504);
    assert.equal((await SCRIPTED.asked()) - before, 2);
    await assert.rejects(ask(0), (error) => APICallError.isInstance(error) && error.statusCode === 504);
    assert.equal((await SCRIPTED.asked()) - before, 3);
  });

  test(`${name}: options in headers`, async () => {
    const headers = { 'x-apportion-strategy': 'best_of_n@2' };
    const { response } = await generateText({ model: model(SCRIPTED), prompt, headers, include });

    assert.equal(response.body.apportion.strategy, 'best_of_n@2');
    assert.equal(response.headers['x-apportion-strategy'], 'best_of_n@2');
  });

  test(`${name}: options in the base URL`, async () => {
    const baseURL = `${SCRIPTED.url}/best_of_n@3/v1`;
    const { response } = await generateText({ model: model(SCRIPTED, { baseURL }), prompt, include });

    assert.equal(response.body.apportion.strategy, 'best_of_n@3');
  });
}

test('@ai-sdk/openai-compatible: options in the body, under the provider\'s name', async () => {
  const { response } = await generateText({
    model: compatible(SCRIPTED)(SCRIPTED.model),
    prompt,
    include,
    providerOptions: { apportion: { apportion: { strategy: 'majority_vote@3' } } },
  });

  assert.equal(response.body.apportion.strategy, 'majority_vote@3');
});

test('@ai-sdk/openai: the second turn of a conversation wants store: false', async () => {
  const model = openai(SCRIPTED)(SCRIPTED.model);
  const turns = async (providerOptions) => {
    const messages = [{ role: 'user', content: prompt }];
    const { response } = await generateText({ model, messages, providerOptions });
    messages.push(...response.messages, { role: 'user', content: 'And twice that?' });
    return (await generateText({ model, messages, providerOptions })).text;
  };

  assert.equal(await turns({ openai: { store: false } }), ANSWER);
  await assert.rejects(turns({}), (error) => error.statusCode === 400 && /item_reference/.test(error.message));
});

test('@ai-sdk/openai: drops body fields that it does not know', async () => {
  const { response } = await generateText({
    model: openai(SCRIPTED)(SCRIPTED.model),
    prompt,
    include,
    providerOptions: { openai: { apportion: { strategy: 'majority_vote@3' } } },
  });

  assert.notEqual(response.body.apportion.decided_by, 'client');
});

test('`apportion` is in the raw chunks of a stream', async () => {
  const { fullStream } = streamText({
    model: compatible(SCRIPTED)(SCRIPTED.model),
    prompt,
    include: { rawChunks: true },
  });
  const told = (await all(fullStream)).filter((part) => part.type === 'raw' && part.rawValue.apportion);

  assert.equal(told.length, 1);
  assert.ok(told[0].rawValue.apportion.actual.tokens > 0);
});

test('@ai-sdk/openai-compatible: the profile behind the model\'s name', async () => {
  const { response } = await generateText({ model: compatible(SCRIPTED)(`${SCRIPTED.model}:quality`), prompt, include });

  assert.equal(response.body.apportion.profile, 'quality');
});

test('@ai-sdk/openai-compatible: reasoning is kept apart', async () => {
  const { text, reasoningText } = await generateText({
    model: compatible(SCRIPTED, { headers: { 'x-apportion-strategy': 'single' } })(SCRIPTED.model),
    prompt: 'think: how much is 3 + 4?',
  });

  assert.equal(text, ANSWER);
  assert.equal(reasoningText, 'Three and four make seven.');
});
