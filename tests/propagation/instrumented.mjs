// The app of instrumented.py in JavaScript.
//
//     node instrumented.mjs OPENAI_DOOR MODEL replace|beside
//
// For each line on its input it runs an agent inside a span and prints the ids of that span. The spans are real and go
// nowhere. At the end of its input it prints how many traces a processor of its own has seen, and just ends.

import { createInterface } from 'node:readline';

import { Agent, OpenAIProvider, Runner, setTraceProcessors } from '@openai/agents';
import { context, trace } from '@opentelemetry/api';
import { AsyncLocalStorageContextManager } from '@opentelemetry/context-async-hooks';
import { BasicTracerProvider } from '@opentelemetry/sdk-trace-base';
import OpenAI from 'openai';

import { instrument } from 'grafter-propagation';

const [door, model, place] = process.argv.slice(2);

context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
trace.setGlobalTracerProvider(new BasicTracerProvider());

let traces = 0;
const ignore = async () => {};
setTraceProcessors([
  {
    onTraceStart: async () => {
      traces += 1;
    },
    onTraceEnd: ignore,
    onSpanStart: ignore,
    onSpanEnd: ignore,
    shutdown: ignore,
    forceFlush: ignore,
  },
]);

instrument(door, { replace: place === 'replace' });

const client = new OpenAI({ apiKey: 'sk-none', baseURL: model, maxRetries: 0 });
const runner = new Runner({ modelProvider: new OpenAIProvider({ openAIClient: client, useResponses: true }) });

for await (const _ of createInterface({ input: process.stdin })) {
  await trace.getTracer('app').startActiveSpan('call', async (span) => {
    await runner.run(new Agent({ name: 'Guard', model: 'model-guard' }), 'Is it about an order?');
    span.end();
    const { traceId, spanId } = span.spanContext();
    console.log(`${traceId} ${spanId}`);
  });
}
console.log(traces);
