// What grafter-propagation says in JavaScript of a place in a trace, for test_context_js.py and test_nats.py.
//
//     node context.mjs calls|extract < JSON      the answers to a list of call ids, of carriers
//     node context.mjs bytes < JSON              the answers to carriers that hold a traceparent as bytes of each kind
//     node context.mjs answers < JSON            the answers to a list of headers, and what the active span has then
//     node context.mjs state < JSON              what is written under carriers with a tracestate
//     node context.mjs sealed < JSON             what is in Python's envelopes, and the same sealed again, from a place
//     node context.mjs span                      what is written inside a span, and outside
//     node context.mjs send|receive NATS_URL     one message by NATS, from a span or to its sender

import { runInNewContext } from 'node:vm';

import { context, trace } from '@opentelemetry/api';
import { connect, headers } from '@nats-io/transport-node';
import { AsyncLocalStorageContextManager } from '@opentelemetry/context-async-hooks';
import { BasicTracerProvider } from '@opentelemetry/sdk-trace-base';

import {
  beginSpan,
  callContext,
  continueCall,
  extract,
  firstMessage,
  inject,
  injectJob,
  observeSdpAnswer,
  readFirstMessage,
  realtimeTracing,
  seal,
  traceMetadata,
  twimlParameters,
  unseal,
} from 'grafter-propagation';

const [scene, url] = process.argv.slice(2);
context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
trace.setGlobalTracerProvider(new BasicTracerProvider());

async function input() {
  let text = '';
  for await (const part of process.stdin) text += part;
  return JSON.parse(text);
}

const written = () => ({
  inject: inject({ a: 'b' }),
  headers: Object.fromEntries(inject(new Headers({ a: 'b' }))),
  job: injectJob({ order: 7 }),
  metadata: traceMetadata({ tenant: 't_1' }),
  tracing: realtimeTracing('Desk', { call: 'CA1', tenant: 't_1' }),
  first: JSON.parse(firstMessage()),
});

const scenes = {
  calls: async () => (await input()).map((call) => callContext(call).traceparent),
  extract: async () => (await input()).map((carrier) => extract(carrier) ?? null),
  async bytes() {
    const bytes = new TextEncoder().encode(await input());
    const elsewhere = runInNewContext('(bytes) => new Uint8Array(bytes)')(bytes);
    const values = [bytes, bytes.buffer, new DataView(bytes.buffer), Buffer.from(bytes), elsewhere];
    const carriers = (value) => [{ traceparent: value }, { traceparent: [value] }, [['traceparent', value]]];
    return values.flatMap(carriers).map((carrier) => extract(carrier) ?? null);
  },
  async answers() {
    const listed = await input();
    return trace.getTracer('app').startActiveSpan('call', (span) => [
      ...listed.map((headers) => observeSdpAnswer(headers) ?? null),
      observeSdpAnswer(new Response('v=0', { headers: { Location: '/v1/realtime/calls/rtc_last' } })) ?? null,
      span.attributes,
    ]);
  },
  async state() {
    return (await input()).map((carrier) =>
      continueCall(carrier, 'call', {}, () => ({
        ...written(),
        twiml: twimlParameters(),
        sealed: JSON.parse(seal('7')).carrier,
        edge: beginSpan('edge', inject(), {}),
        again: extract(inject()).traceState?.set('new', '1').unset('ot').serialize() ?? null,
        handed: inject({}, beginSpan('edge', extract(carrier))),
      })),
    );
  },
  async sealed() {
    const { place, messages, others } = await input();
    const bytes = new TextEncoder();
    const opened = messages.map((message) => [unseal(message), unseal(bytes.encode(message))]);
    const shown = ({ body, carrier }) => [typeof body === 'string' ? body : { bytes: [...body] }, carrier];
    return {
      opened: opened.map((both) => both.map(shown)),
      again: opened.map(([{ body }]) => seal(body, place)),
      without: JSON.parse(seal('7')).carrier,
      own: others.map((message) => unseal(message).body === message),
      buffer: shown(unseal(seal(Buffer.from([0, 255]))))[0],
    };
  },
  async span() {
    const inside = await trace.getTracer('app').startActiveSpan('call', async (span) => {
      const { traceId, spanId } = span.spanContext();
      const read = readFirstMessage(firstMessage());
      return { traceId, spanId, read, ...written() };
    });
    let thrown = null;
    try {
      callContext('');
    } catch (error) {
      thrown = error.name;
    }
    const others = ['7', '{}', '{"type":"trace_context"}', null, 7].map((message) => readFirstMessage(message) ?? null);
    return { inside, outside: written(), thrown, others };
  },
  async send() {
    const connection = await connect({ servers: url });
    const ids = await trace.getTracer('app').startActiveSpan('call', async (span) => {
      connection.publish('desk.orders', '7', { headers: inject(headers()) });
      return span.spanContext();
    });
    await connection.drain();
    return ids;
  },
  async receive() {
    const connection = await connect({ servers: url });
    const subscription = connection.subscribe('desk.orders', { max: 1 });
    await connection.flush();
    console.log('"listening"');
    for await (const message of subscription) {
      await connection.drain();
      return extract(message.headers) ?? null;
    }
    return null;
  },
};

console.log(JSON.stringify(await scenes[scene]()));
