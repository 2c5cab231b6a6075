// A producer and a worker of BullMQ in Node, traced by bullmq-otel.
//
//     node bullmq.mjs add|work URL QUEUE       of Redis or of Postgres
//
// Prints the spans that ended, as JSON.

import { context, propagation, trace } from '@opentelemetry/api';
import { AsyncLocalStorageContextManager } from '@opentelemetry/context-async-hooks';
import { W3CTraceContextPropagator } from '@opentelemetry/core';
import { BasicTracerProvider, InMemorySpanExporter, SimpleSpanProcessor } from '@opentelemetry/sdk-trace-base';
import { Queue, Worker, createPostgresBackend, setDefaultBackendFactory } from 'bullmq';
import { BullMQOtel } from 'bullmq-otel';

const [mode, url, name] = process.argv.slice(2);
const exporter = new InMemorySpanExporter();
context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
propagation.setGlobalPropagator(new W3CTraceContextPropagator());
trace.setGlobalTracerProvider(new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] }));

const redis = url.startsWith('redis:');
if (!redis) setDefaultBackendFactory(createPostgresBackend);
const connection = redis ? { url, maxRetriesPerRequest: null } : { connectionString: url, migrate: true };
const telemetry = new BullMQOtel({ tracerName: 'app' });

if (mode === 'add') {
  const queue = new Queue(name, { connection, telemetry });
  await trace.getTracer('app').startActiveSpan('call', async (span) => {
    await queue.add('look_up', { order: 7 });
    span.end();
  });
  await queue.close();
} else {
  await new Promise((resolve, reject) => {
    const worker = new Worker(name, async (job) => job.data.order, { connection, telemetry });
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
