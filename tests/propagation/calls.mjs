// What grafter-propagation does in JavaScript with a job and with what telephone carriers let through, for
// test_calls_js.py.
//
//     node calls.mjs written|read < JSON        what is written for a place, what is read of client states
//     node calls.mjs spans                      continueCall, with and without a tracer
//     node calls.mjs bull REDIS_URL QUEUE       classic Bull: a job that fails once, and one that is delayed

import { context, trace } from '@opentelemetry/api';
import { AsyncLocalStorageContextManager } from '@opentelemetry/context-async-hooks';
import { BasicTracerProvider, InMemorySpanExporter, SimpleSpanProcessor } from '@opentelemetry/sdk-trace-base';

import {
  bullJob,
  clientState,
  continueCall,
  inject,
  injectJob,
  readClientState,
  sipHeaders,
  sipUri,
  twimlParameters,
} from 'grafter-propagation';

const [scene, url, name] = process.argv.slice(2);
const exporter = new InMemorySpanExporter();

async function input() {
  let text = '';
  for await (const part of process.stdin) text += part;
  return JSON.parse(text);
}

function traced() {
  context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
  trace.setGlobalTracerProvider(new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] }));
  return trace.getTracer('app');
}

/** The spans that ended, by their parent's and their links' names. */
function ended() {
  const spans = exporter.getFinishedSpans();
  const names = new Map(spans.map((span) => [span.spanContext().spanId, span.name]));
  const made = spans.map((span) => ({
    name: span.name,
    kind: span.kind,
    parent: names.get(span.parentSpanContext?.spanId) ?? null,
    links: span.links.map((link) => names.get(link.context.spanId) ?? null),
    apart: span.spanContext().traceId !== spans.find((one) => one.name === 'call')?.spanContext().traceId,
    error: span.status.code === 2 ? span.status.message : null,
    attributes: span.attributes,
  }));
  return made.sort((one, other) => (one.name < other.name ? -1 : 1));
}

const scenes = {
  async written() {
    const { place, uris, states } = await input();
    return {
      parameters: [twimlParameters(place), twimlParameters({})],
      headers: [sipHeaders(place), sipHeaders({})],
      uris: [...uris.map((uri) => sipUri(uri, place)), ...uris.map((uri) => sipUri(uri, {}))],
      states: states.map((state) => clientState(state, place)),
    };
  },
  async read() {
    return (await input()).map((text) => readClientState(text)).map(({ context: place, state }) => [place ?? null, state]);
  },
  async spans() {
    const before = await continueCall({}, 'nothing', {}, async (span) => [span === undefined, 7]);
    const tracer = traced();
    let thrown = null;
    await tracer.startActiveSpan('call', async (span) => {
      const carrier = inject();
      await continueCall(undefined, 'of the active span', { kind: 'client' }, async () => {});
      await context.with(trace.deleteSpan(context.active()), async () => {
        continueCall(carrier, 'first', { attributes: { a: 1 } }, () => tracer.startSpan('inner').end());
        await continueCall(carrier, 'retry', { attempt: 2 }, async () => {});
        await continueCall(carrier, 'late', { delayed: true }, async () => {});
        continueCall({}, 'alone', undefined, () => {});
        try {
          await continueCall(carrier, 'failing', {}, async () => {
            throw new RangeError('no');
          });
        } catch (error) {
          thrown = error.name;
        }
        try {
          continueCall(carrier, 'failing at once', {}, () => {
            throw new TypeError('never');
          });
        } catch (error) {
          thrown += error.name;
        }
      });
      span.end();
    });
    return { before, thrown, ended: ended() };
  },
  async bull() {
    const { default: Queue } = await import('bull');
    const tracer = traced();
    const queue = new Queue(name, url);
    await tracer.startActiveSpan('call', async (span) => {
      await queue.add('letter', injectJob({ order: 7 }), { attempts: 2 });
      await queue.add('late', injectJob({ order: 8 }), { delay: 1 });
      await queue.add('foreign', { order: 9 });
      span.end();
    });
    let fails = 1;
    await new Promise((resolve) => {
      let left = 3;
      queue.on('completed', () => (left -= 1) || resolve());
      for (const kind of ['letter', 'late', 'foreign']) {
        queue.process(kind, (job) =>
          bullJob(job, async () => {
            if (kind === 'letter' && fails) {
              fails -= 1;
              throw new Error('not yet');
            }
            tracer.startSpan(`${kind} ${job.data.order}`).end();
          }),
        );
      }
    });
    await queue.close();
    return ended();
  },
};

console.log(JSON.stringify(await scenes[scene]()));
process.exit(0);
