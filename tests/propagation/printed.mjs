// A provider of OpenTelemetry that prints what was traced when the program is over, as spans.py does in Python.

import { context, propagation, trace } from '@opentelemetry/api';
import { AsyncLocalStorageContextManager } from '@opentelemetry/context-async-hooks';
import { W3CTraceContextPropagator } from '@opentelemetry/core';
import { BasicTracerProvider, InMemorySpanExporter, SimpleSpanProcessor } from '@opentelemetry/sdk-trace-base';

const KINDS = ['internal', 'server', 'client', 'producer', 'consumer'];
const exporter = new InMemorySpanExporter();
context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
propagation.setGlobalPropagator(new W3CTraceContextPropagator());
trace.setGlobalTracerProvider(new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] }));

process.once('beforeExit', () => {
  const spans = exporter.getFinishedSpans();
  const under = (id, depth) => {
    for (const span of spans.filter((one) => one.parentSpanContext?.spanId === id)) {
      console.log(`${'  '.repeat(depth)}${span.name} [${KINDS[span.kind]}]`);
      under(span.spanContext().spanId, depth + 1);
    }
  };
  under(undefined, 0);
});
