// What the suites know of the gateways: their addresses, and how often they were asked.

export const ANSWER = 'The answer is \\boxed{7}'; // what the scripted engine says when the prompt asks for nothing else

class Gateway {
  constructor(url, model, key) {
    this.url = url;
    this.model = model;
    this.key = key;
    this.api = `${url}/v1`;
  }

  // Chat requests that it has answered, the clients' retries included.
  async asked() {
    const page = await (await fetch(`${this.url}/metrics`)).text();
    const lines = page.split('\n').filter((line) => line.startsWith('apportion_requests_total{'));
    return lines.reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0);
  }
}

export const LIVE = new Gateway(process.env.LIVE_URL, 'smollm2-135m-instruct', 'unused'); // the real model
// an engine that does what the prompt says; keys are needed
export const SCRIPTED = new Gateway(process.env.SCRIPTED_URL, 'tiny', process.env.SCRIPTED_KEY);

// Everything that an asynchronous iterable gives (Array.fromAsync, which Node 20 has not).
export async function all(iterable) {
  const items = [];
  for await (const item of iterable) items.push(item);
  return items;
}
