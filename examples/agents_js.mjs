// An Agents SDK trace in JavaScript that names a trace of the app's own.
//
//     npm install @openai/agents zod grafter-propagation
//     node agents_js.mjs [TRACE_ID [SPAN_ID]]
//
// Needs a running grafter and no OpenAI key: the spans that a Runner would make are made by hand here.
// GRAFTER_INGEST says where it is; TRACE_ID is the 32 hex digits of the app's trace. An app that runs inside a
// span of OpenTelemetry gives no metadata at all: the active span is taken.

import { randomBytes } from 'node:crypto';
import { setTracingDisabled, withAgentSpan, withFunctionSpan, withTrace } from '@openai/agents';
import { instrument } from 'grafter-propagation';

const endpoint = process.env.GRAFTER_INGEST ?? 'http://localhost:4319';
const [traceId = randomBytes(16).toString('hex'), spanId] = process.argv.slice(2);

// NODE_ENV=test turns tracing off, without a word.
setTracingDisabled(false);
// Nothing goes to OpenAI from here.
const grafter = instrument(endpoint, { replace: true });

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

await grafter.forceFlush();
console.log(`sent: trace ${traceId}`);
