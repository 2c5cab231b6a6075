// A media worker: Twilio's Media Stream on one side, an OpenAI Realtime session on the other, the tools between. `pm2 -i 8`
// runs eight of it on one port, and any of them gets a call; so nothing is kept that another could not compute.
//
// Twilio's parameter says under what the stream hangs; the session hangs under the call's root, which follows from the
// CallSid alone, also in a worker that takes over from one that died.

import { trace } from '@opentelemetry/api';
import {
  RealtimeTap,
  TwilioPlayout,
  activeSpan,
  callContext,
  continueCall,
  inject,
  realtimeTracing,
} from 'grafter-propagation';
import { WebSocket, WebSocketServer } from 'ws';

import { start } from './tracing.mjs';

const { OPENAI, OPENAI_API_KEY, GRAFTER, RECORDS, INSURANCE, CALENDAR, MEDIA_PORT } = process.env;
const TOOLS = { find_patient: RECORDS, check_insurance: INSURANCE, book_slot: CALENDAR };
const tracer = start('media-worker');

const server = new WebSocketServer({ host: '127.0.0.1', port: Number(MEDIA_PORT) });
server.on('listening', () => console.log('ready'));
server.on('connection', (twilio) =>
  twilio.on('message', (text) => {
    const message = JSON.parse(text);
    if (message.event !== 'start') return;
    const { callSid, customParameters } = message.start;
    console.log(`${process.pid} answers ${callSid}`);
    continueCall(customParameters, 'media', { kind: 'server' }, () => closed(twilio));
    // The session says the same of itself (group_id): so one whose worker died hangs under the span of its successor.
    const session = { kind: 'client', attributes: { 'gen_ai.conversation.id': callSid } };
    continueCall(callContext(callSid), 'gen_ai.realtime.session', session, () => talk(twilio, message));
  }),
);

/** The session, until the caller hangs up. Everything in here runs under the span `gen_ai.realtime.session`. */
async function talk(twilio, begun) {
  const { callSid, streamSid } = begun.start;
  const openai = new WebSocket(`${OPENAI.replace('http', 'ws')}/v1/realtime?model=gpt-realtime`, {
    headers: { authorization: `Bearer ${OPENAI_API_KEY}` },
  });
  const tap = new RealtimeTap(GRAFTER, callSid, { metadata: activeSpan(), interval: 200 });
  tap.attach(openai);
  const playout = new TwilioPlayout(tap);
  playout.received(begun);
  openai.on('error', () => twilio.close());
  const say = (event) => openai.readyState === WebSocket.OPEN && openai.send(JSON.stringify(event));
  const play = (message) => twilio.send(JSON.stringify({ streamSid, ...message }));

  twilio.on('message', (text) => {
    if (playout.received(text)) return;
    const { event, media } = JSON.parse(text);
    if (event === 'media') say({ type: 'input_audio_buffer.append', audio: media.payload });
    if (event === 'mark') answer = null;
  });

  let answer = null; // what the caller hears: its item, and since when
  let turn; // the span of the model turn that runs
  const open = new Set(); // tools whose output is still to come
  const hear = {
    'session.created': () => {
      const tracing = realtimeTracing('Clinic line', { call: callSid });
      const format = { type: 'audio/pcmu' };
      say({ type: 'session.update', session: { type: 'realtime', tracing, audio: { input: { format }, output: { format } } } });
      say({ type: 'response.create' });
    },
    'response.created': ({ response }) => {
      const attributes = { 'gen_ai.operation.name': 'chat', 'gen_ai.response.id': response.id };
      turn = tracer.startSpan('gen_ai.client', { kind: 2, attributes });
    },
    'response.output_audio.delta': (event) => {
      const { item_id, delta } = event;
      answer ??= { item_id, since: Date.now() };
      play({ event: 'media', media: { payload: delta } });
      const mark = playout.mark(event);
      if (mark) twilio.send(mark);
    },
    'response.output_audio.done': ({ item_id }) => play({ event: 'mark', mark: { name: item_id } }),
    'response.output_item.done': ({ item }) => item.type === 'function_call' && run(item),
    'response.done': () => turn?.end(),
    'input_audio_buffer.speech_started': () => {
      if (!answer) return;
      twilio.send(playout.clear());
      const { item_id, since } = answer;
      say({ type: 'conversation.item.truncate', item_id, content_index: 0, audio_end_ms: Date.now() - since });
      answer = null;
    },
  };
  openai.on('message', (text) => {
    const event = JSON.parse(text);
    hear[event.type]?.(event);
  });

  async function run({ name, call_id }) {
    open.add(call_id);
    const attributes = { 'gen_ai.tool.name': name, 'gen_ai.tool.call.id': call_id };
    const output = await tracer.startActiveSpan('gen_ai.tool.execute', { kind: 2, attributes }, async (span) => {
      const headers = inject({ 'content-type': 'application/json' });
      try {
        const response = await fetch(TOOLS[name], { method: 'POST', headers, body: JSON.stringify({ call: callSid }) });
        return await response.text();
      } catch (error) {
        span.setStatus({ code: 2, message: error.message });
        return JSON.stringify({ error: 'not available' });
      } finally {
        span.end();
      }
    });
    say({ type: 'conversation.item.create', item: { type: 'function_call_output', call_id, output } });
    open.delete(call_id);
    if (!open.size) say({ type: 'response.create' });
  }

  await closed(twilio);
  openai.close();
  await tap.close();
}

const closed = (socket) => new Promise((resolve) => socket.once('close', resolve));
