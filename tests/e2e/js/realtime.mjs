// A real Realtime call of the JavaScript Agents SDK over its WebSocket transport.
//
//     node realtime.mjs URL API_KEY TRACE_ID
//
// The caller asks, a tool is called, the spoken answer is cut off by the caller, a last answer follows.
// grafter is no part of this: it listens beside the call. Prints what the tool was asked for.

import { RealtimeAgent, RealtimeSession, OpenAIRealtimeWebSocket, tool } from '@openai/agents/realtime';
import { z } from 'zod';

const [url, apiKey, traceId] = process.argv.slice(2);
const SENTENCE = new ArrayBuffer(9600);

const asked = [];
const lookupOrder = tool({
  name: 'lookup_order',
  description: 'Where an order is.',
  parameters: z.object({ order_id: z.number() }),
  execute: async ({ order_id }) => {
    asked.push(order_id);
    return 'shipped';
  },
});

const agent = new RealtimeAgent({ name: 'Support', instructions: 'Help with orders.', tools: [lookupOrder] });
const session = new RealtimeSession(agent, {
  transport: new OpenAIRealtimeWebSocket({ url }),
  model: 'gpt-realtime',
  workflowName: 'Support call',
  traceMetadata: { trace_id: traceId },
});

let chunks = 0;
let finished = 0;
let begun = false;
const done = new Promise((resolve, reject) => {
  session.on('error', ({ error }) => reject(error));
  session.on('audio', () => {
    chunks += 1;
    // A moment later, so that some of the answer has been heard.
    if (chunks === 20) setTimeout(() => session.sendAudio(SENTENCE), 50);
  });
  session.on('transport_event', (event) => {
    // Nothing is said before the session has the app's metadata.
    if (event.type === 'session.updated' && event.session.tracing?.metadata && !begun) {
      begun = true;
      session.sendAudio(SENTENCE);
    }
    if (event.type === 'response.done' && ++finished === 3) resolve();
  });
});

await session.connect({ apiKey });
await done;
session.close();
console.log(JSON.stringify(asked));
