// A real run of the JavaScript Agents SDK, exported to grafter by the SDK's own exporter.
//
//     node run.mjs INGEST_URL MODEL_URL TRACE_ID
//
// The same story as tests/e2e/agents_app.py: a guardrail, two tools at once, a handoff, a failing tool, then a run
// whose model is down. Only the trace id is put into the metadata: where the guest hangs is left to grafter.
// Prints what the caller hears.

import {
  Agent,
  BatchTraceProcessor,
  OpenAIProvider,
  OpenAITracingExporter,
  Runner,
  getGlobalTraceProvider,
  setTraceProcessors,
  tool,
} from '@openai/agents';
import OpenAI from 'openai';
import { z } from 'zod';

const [ingest, model, traceId] = process.argv.slice(2);

setTraceProcessors([new BatchTraceProcessor(new OpenAITracingExporter({ apiKey: 'sk-none', endpoint: ingest }))]);

const client = new OpenAI({ apiKey: 'sk-none', baseURL: model, maxRetries: 0 });
const runner = new Runner({
  modelProvider: new OpenAIProvider({ openAIClient: client, useResponses: true }),
  workflowName: 'Support call',
  groupId: 'conv_42',
  traceMetadata: { trace_id: traceId },
});

const lookupOrder = tool({
  name: 'lookup_order',
  description: 'Where an order is.',
  parameters: z.object({ order_id: z.number() }),
  execute: async ({ order_id }) => ({ order_id, status: 'shipped' }),
});

const refund = tool({
  name: 'refund',
  description: 'Give the money back.',
  parameters: z.object({ order_id: z.number() }),
  execute: async ({ order_id }) => {
    throw new Error(`order ${order_id} was paid by invoice`);
  },
});

const guard = new Agent({ name: 'Guard', model: 'model-guard', instructions: 'Is it about an order?' });
const billing = new Agent({ name: 'Billing', model: 'model-billing', instructions: 'Refund.', tools: [refund] });
const triage = Agent.create({
  name: 'Triage',
  model: 'model-triage',
  instructions: 'Find the order.',
  tools: [lookupOrder],
  handoffs: [billing],
  inputGuardrails: [
    {
      name: 'about_orders',
      execute: async ({ input }) => {
        const seen = await runner.run(guard, input);
        return { outputInfo: seen.finalOutput, tripwireTriggered: false };
      },
    },
  ],
});

const result = await runner.run(triage, 'Where are orders 7 and 8?');
try {
  await runner.run(new Agent({ name: 'Wrap up', model: 'model-down' }), 'Thanks.');
} catch (error) {
  if (error.status !== 500) throw error;
}
await getGlobalTraceProvider().forceFlush();
console.log(result.finalOutput);
