import type { CallPlace } from './context.mjs';

/** A span that was begun: plain data, to be stored or attached, injected, and ended anywhere. */
export interface BegunSpan extends CallPlace {
  tracestate?: string;
  name: string;
  kind: SpanKind;
  /** Empty for the first span of a trace. */
  parent_id: string;
  /** Unix nanoseconds. */
  start: string;
  attributes: Record<string, string | number | boolean>;
}

export type SpanKind = 'internal' | 'server' | 'client' | 'producer' | 'consumer';

export interface EndOptions {
  /** Where grafter, or any OTLP/HTTP receiver, listens; `http://localhost:4318` by default. */
  endpoint?: string;
  /** `edge` by default. */
  serviceName?: string;
  /** Of the request, such as a bearer token. */
  headers?: Record<string, string>;
  attributes?: Record<string, string | number | boolean>;
  /** What it failed with. */
  error?: unknown;
}

/** Begins a span under the place that a carrier names, or a trace of its own. */
export function beginSpan(
  name: string,
  carrier?: unknown,
  options?: { kind?: SpanKind; attributes?: Record<string, string | number | boolean> },
): BegunSpan;
/** Ends and sends it; whether it was taken. Never throws. */
export function endSpan(span: BegunSpan, options?: EndOptions): Promise<boolean>;
