// A real session of @openai/agents, shown to grafter.
//
//     node realtime_session.mjs DOOR_URL REALTIME_URL session|transport|socket
//
// The same story each time: a question, a tool, an answer.

import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

import { RealtimeTap } from '../../propagation/js/realtime_tap.mjs';

const [door, api, way] = process.argv.slice(2);
const require = createRequire(new URL('../e2e/js/package.json', import.meta.url));
const load = async (name) => import(pathToFileURL(require.resolve(name)).href);

const tap = new RealtimeTap(door, 'call_1', {
  metadata: { trace_id: '4bf92f3577b34da6a3ce929d0e0e4736' },
  interval: 20,
});

function twoResponses(listen) {
  return new Promise((resolve) => {
    let done = 0;
    listen((event) => {
      if (event.type === 'response.done' && ++done === 2) resolve();
    });
  });
}

if (way === 'socket') {
  const { WebSocket } = require('ws');
  const socket = tap.attach(new WebSocket(api));
  const finished = twoResponses((heard) => {
    socket.on('message', (data) => {
      const event = JSON.parse(data);
      heard(event);
      if (event.type === 'response.done' && event.response.id === 'resp_1') {
        const item = { type: 'function_call_output', call_id: 'call_1', output: '7 is shipped' };
        socket.send(JSON.stringify({ type: 'conversation.item.create', item }));
        socket.send(JSON.stringify({ type: 'response.create' }));
      }
    });
  });
  await new Promise((resolve) => socket.on('open', resolve));
  socket.send(JSON.stringify({ type: 'response.create' }));
  await finished;
  socket.close();
} else {
  const { RealtimeAgent, RealtimeSession, OpenAIRealtimeWebSocket, tool } = await load('@openai/agents/realtime');
  const { z } = await load('zod');
  const lookup = tool({
    name: 'lookup',
    description: 'Where an order is.',
    parameters: z.object({ order: z.number() }),
    execute: async ({ order }) => `${order} is shipped`,
  });
  const transport = new OpenAIRealtimeWebSocket({ url: api, useInsecureApiKey: true });
  const agent = new RealtimeAgent({ name: 'Desk', instructions: 'Find the order.', tools: [lookup] });
  const session = new RealtimeSession(agent, { transport });
  if (tap.attach(way === 'session' ? session : transport) === undefined) throw new Error('nothing given back');
  tap.attach(session); // Twice is once.
  const finished = twoResponses((heard) => transport.on('*', heard));
  await session.connect({ apiKey: 'ek_none', url: api });
  session.sendMessage('Where is order 7?');
  await finished;
  session.close();
}
await tap.close();
if (tap.dropped !== 0) throw new Error(`${tap.dropped} dropped`);
