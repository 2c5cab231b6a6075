// What every Node service of the call does once: say who it is, and send its spans to grafter.

import { context, propagation, trace } from '@opentelemetry/api';
import { AsyncLocalStorageContextManager } from '@opentelemetry/context-async-hooks';
import { W3CTraceContextPropagator } from '@opentelemetry/core';
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-http';
import { resourceFromAttributes } from '@opentelemetry/resources';
import { BasicTracerProvider, BatchSpanProcessor } from '@opentelemetry/sdk-trace-base';

/** A tracer of this service. OTEL_EXPORTER_OTLP_TRACES_ENDPOINT says where grafter is. */
export function start(service) {
  context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
  propagation.setGlobalPropagator(new W3CTraceContextPropagator());
  const provider = new BasicTracerProvider({
    resource: resourceFromAttributes({ 'service.name': service }),
    spanProcessors: [new BatchSpanProcessor(new OTLPTraceExporter())],
  });
  trace.setGlobalTracerProvider(provider);
  // A service that is asked to stop sends what it has.
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => provider.shutdown().finally(() => process.exit(0)));
  return trace.getTracer(service);
}
