// A producer and a worker of BullMQ in Node, traced by bullmq-otel.
//
//     node bullmq.mjs add|work REDIS_PORT
//
// Prints the spans that ended, as JSON.

import { context, trace } from '@opentelemetry/api';
import { AsyncLocalStorageContextManager } from '@opentelemetry/context-async-hooks';
import { propagation } from '@opentelemetry/api';
import { W3CTraceContextPropagator } from '@opentelemetry/core';
import { BasicTracerProvider, InMemorySpanExporter, SimpleSpanProcessor } from '@opentelemetry/sdk-trace-base';
import { Queue, Worker } from 'bullmq';
import { BullMQOtel } from 'bullmq-otel';

const [mode, port] = process.argv.slice(2);
const exporter = new InMemorySpanExporter();
context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
propagation.setGlobalPropagator(new W3CTraceContextPropagator());
trace.setGlobalTracerProvider(new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] }));

const connection = { host: '127.0.0.1', port: Number(port), maxRetriesPerRequest: null };
const telemetry = new BullMQOtel({ tracerName: 'app' });

if (mode === 'add') {
  const queue = new Queue('orders', { connection, telemetry });
  await trace.getTracer('app').startActiveSpan('call', async (span) => {
    await queue.add('look_up', { order: 7 });
    span.end();
  });
  await queue.close();
} else {
  await new Promise((resolve, reject) => {
    const worker = new Worker('orders', async (job) => job.data.order, { connection, telemetry });
    worker.on('completed', () => worker.close().then(resolve));
    worker.on('failed', (_, error) => reject(error));
    worker.on('error', reject);
  });
}
const ended = exporter.getFinishedSpans().map((span) => ({
  name: span.name,
  trace_id: span.spanContext().traceId,
  span_id: span.spanContext().spanId,
  parent: span.parentSpanContext?.spanId ?? null,
}));
console.log(JSON.stringify(ended));
process.exit(0);
