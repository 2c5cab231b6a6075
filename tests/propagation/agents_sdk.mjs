// Scenes of an app that sends what @openai/agents traces to grafter, played by test_agents_js.py.
//
//     node agents_sdk.mjs DOOR_URL SCENE
//
// Prints what the app saw as JSON; what is warned about goes to stderr.

import { TraceProvider, createCustomSpan, getGlobalTraceProvider, setTracingDisabled, withTrace } from '@openai/agents';
import { context, trace } from '@opentelemetry/api';
import { AsyncLocalStorageContextManager } from '@opentelemetry/context-async-hooks';
import { BasicTracerProvider } from '@opentelemetry/sdk-trace-base';

import { AgentsProcessor, activeSpan, instrument } from 'grafter-propagation';

const [door, scene] = process.argv.slice(2);
setTracingDisabled(false);

/** A processor that posts soon, the only one of the SDK. */
function sending(options = {}) {
  const processor = new AgentsProcessor(door, { interval: 10, ...options });
  getGlobalTraceProvider().setProcessors([processor]);
  return processor;
}

async function run(spans = 1, options = {}, data = {}) {
  await withTrace(
    'Support call',
    async () => {
      for (let each = 0; each < spans; each += 1) {
        const span = createCustomSpan({ data: { name: 'step', data } });
        span.start();
        span.end();
      }
    },
    options,
  );
}

function inSpan(work) {
  context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
  trace.setGlobalTracerProvider(new BasicTracerProvider());
  return trace.getTracer('app').startActiveSpan('call', async (span) => {
    await work();
    return span.spanContext();
  });
}

const state = ({ sent, dropped, pending }) => ({ sent, dropped, pending });

const scenes = {
  async whole() {
    const processor = sending({ token: 'secret' });
    await run(1, { groupId: 'conv_42', metadata: { customer: 'c_1' } });
    await processor.shutdown();
    await run();
    return state(processor);
  },
  async link() {
    const given = { customer: 'c_1' };
    const processor = sending();
    const span = await inSpan(async () => {
      for (const metadata of [given, undefined, { trace_id: 'a'.repeat(32) }, { traceparent: 'theirs' }]) {
        await run(0, { metadata });
      }
    });
    await run(0);
    await processor.shutdown();
    return { span, given, outside: activeSpan() };
  },
  async refused() {
    const processor = sending();
    await run();
    await processor.forceFlush();
    await run();
    await processor.shutdown();
    return state(processor);
  },
  async bounded() {
    const processor = sending({ maxItems: 10 });
    await run(100);
    await processor.shutdown(20_000);
    return state(processor);
  },
  async hanging() {
    const processor = sending({ timeout: 600_000 });
    await run();
    await processor.forceFlush(100);
    await run(100);
    await processor.shutdown(200);
    return state(processor);
  },
  async away() {
    const processor = new AgentsProcessor('http://127.0.0.1:9', { interval: 60_000 });
    getGlobalTraceProvider().setProcessors([processor]);
    for (let each = 0; each < 3; each += 1) {
      await run();
      await processor.forceFlush(600_000);
    }
    const { sent, dropped, pending } = processor;
    await processor.shutdown(0);
    return { sent, dropped, pending };
  },
  async keys() {
    const processor = sending({ token: 'ours' });
    await run(0, { tracingApiKey: 'theirs' });
    await run(0);
    await processor.shutdown();
  },
  async odd() {
    const processor = sending();
    const circle = {};
    circle.circle = circle;
    for (const value of [NaN, '\ud800', '😀', circle]) await run(1, {}, { value });
    await processor.shutdown();
    return state(processor);
  },
  // An app that ends without a word, beside a processor that uses up all the time that the SDK has.
  async forgotten() {
    const ignore = async () => {};
    const slow = { onTraceStart: ignore, onTraceEnd: ignore, onSpanStart: ignore, onSpanEnd: ignore, forceFlush: ignore };
    getGlobalTraceProvider().setProcessors([{ ...slow, shutdown: () => new Promise(() => {}) }]);
    instrument(door, { interval: 60_000 });
    await run();
  },
  async wrong() {
    const thrown = (work) => {
      try {
        work();
        return null;
      } catch (error) {
        return error.name;
      }
    };
    const provider = new TraceProvider();
    return [
      thrown(() => new AgentsProcessor('ftp://localhost')),
      thrown(() => new AgentsProcessor(door, { token: 'a\nb' })),
      thrown(() => instrument(door, { agents: { getGlobalTraceProvider: () => provider } })),
    ];
  },
};

console.log(JSON.stringify((await scenes[scene]()) ?? null));
