// An Agents SDK trace in JavaScript that names a trace of the app's own.
//
//     npm install @openai/agents zod
//     node agents_js.mjs [TRACE_ID [SPAN_ID]]
//
// Needs a running grafter and no OpenAI key: the spans that a Runner would make are made by hand here.
// GRAFTER_INGEST says where it is; TRACE_ID is the 32 hex digits of the app's trace. With the OpenTelemetry API:
//
//     const { traceId, spanId } = trace.getActiveSpan().spanContext();

import { randomBytes } from 'node:crypto';
import {
  BatchTraceProcessor,
  OpenAITracingExporter,
  getGlobalTraceProvider,
  setTraceProcessors,
  setTracingDisabled,
  withAgentSpan,
  withFunctionSpan,
  withTrace,
} from '@openai/agents';

const endpoint = process.env.GRAFTER_INGEST ?? 'http://localhost:4319/v1/traces/ingest';
const [traceId = randomBytes(16).toString('hex'), spanId] = process.argv.slice(2);

// NODE_ENV=test turns tracing off, without a word.
setTracingDisabled(false);
// Without any apiKey the SDK sends nothing; grafter needs it only for `tokens` and for a tee.
setTraceProcessors([new BatchTraceProcessor(new OpenAITracingExporter({ apiKey: 'unused', endpoint }))]);

const metadata = { trace_id: traceId, ...(spanId && { span_id: spanId }) };

await withTrace(
  'Support call',
  () =>
    withAgentSpan(
      () =>
        withFunctionSpan(async () => 'shipped', {
          data: { name: 'lookup_order', input: JSON.stringify({ order_id: 7 }), output: 'shipped' },
        }),
      { data: { name: 'Triage' } },
    ),
  { groupId: 'conv_42', metadata },
);

// The timer does not keep the process alive.
await getGlobalTraceProvider().forceFlush();
console.log(`sent: trace ${traceId}`);
