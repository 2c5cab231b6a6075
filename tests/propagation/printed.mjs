// A provider of OpenTelemetry that prints what was traced when the program is over, as spans.py does in Python.

import { context, propagation, trace } from '@opentelemetry/api';
import { AsyncLocalStorageContextManager } from '@opentelemetry/context-async-hooks';
import { W3CTraceContextPropagator } from '@opentelemetry/core';
import { BasicTracerProvider, InMemorySpanExporter, SimpleSpanProcessor } from '@opentelemetry/sdk-trace-base';
import { CallIds } from 'grafter-propagation';

const KINDS = ['internal', 'server', 'client', 'producer', 'consumer'];
const exporter = new InMemorySpanExporter();
context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
propagation.setGlobalPropagator(new W3CTraceContextPropagator());
trace.setGlobalTracerProvider(
  new BasicTracerProvider({ idGenerator: new CallIds(), spanProcessors: [new SimpleSpanProcessor(exporter)] }),
);

process.once('beforeExit', () => {
  const begun = ({ startTime: [seconds, nanoseconds] }) => BigInt(seconds) * 1_000_000_000n + BigInt(nanoseconds);
  const spans = exporter.getFinishedSpans().sort((one, other) => (begun(one) < begun(other) ? -1 : 1));
  const known = new Map(spans.map((span) => [span.spanContext().spanId, span]));
  const line = (span, depth) => {
    const lost = depth === 0 && span.parentSpanContext ? '? ' : '';
    const links = span.links.map((link) => ` > ${known.get(link.context.spanId)?.name}`).join('');
    console.log(`${'  '.repeat(depth)}${lost}${span.name} [${KINDS[span.kind]}]${links}`);
    for (const one of spans) {
      if (one.parentSpanContext?.spanId === span.spanContext().spanId) line(one, depth + 1);
    }
  };
  for (const span of spans) if (!known.has(span.parentSpanContext?.spanId)) line(span, 0);
});
