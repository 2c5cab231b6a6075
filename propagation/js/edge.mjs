// Spans of a worker at the edge, where no OpenTelemetry SDK runs and a process may be gone between two messages. A span
// that was begun is a plain object: keep it in a variable, in a Durable Object's storage, or attached to a WebSocket that
// hibernates, and end it wherever you are then.
//
//     const span = beginSpan('POST /call', request.headers);
//     await fetch(url, { headers: inject(new Headers({ Upgrade: 'websocket' }), span) });
//     context.waitUntil(endSpan(span, { endpoint: 'https://grafter.example:4318' }));

import { extract } from './context.mjs';

const KINDS = { internal: 1, server: 2, client: 3, producer: 4, consumer: 5 };

// Node 18 has no crypto among its globals.
const random = (bytes) => globalThis.crypto?.getRandomValues(bytes) ?? bytes.map(() => Math.random() * 256);
const hex = (bytes) => [...random(new Uint8Array(bytes))].map((byte) => byte.toString(16).padStart(2, '0')).join('');
const now = () => `${Date.now()}000000`;
const value = (one) => {
  if (typeof one === 'boolean') return { boolValue: one };
  if (typeof one === 'number') return Number.isSafeInteger(one) ? { intValue: String(one) } : { doubleValue: one };
  return { stringValue: String(one) };
};
const listed = (attributes) =>
  Object.entries(attributes)
    .filter(([, one]) => one !== undefined && one !== null)
    .map(([key, one]) => ({ key, value: value(one) }));

/**
 * Begins a span under the place that a carrier names (a request's headers, a span that was begun, `callContext()`), or a
 * trace of its own where it names none. What it gives back can be stored, and injected.
 */
export function beginSpan(name, carrier, { kind = 'internal', attributes = {} } = {}) {
  const parent = extract(carrier);
  const trace_id = parent?.traceId ?? hex(16);
  const span_id = hex(8);
  const flags = (parent?.traceFlags ?? 1).toString(16).padStart(2, '0');
  const traceparent = `00-${trace_id}-${span_id}-${flags}`;
  const tracestate = parent?.traceState?.serialize();
  const place = { trace_id, span_id, parent_id: parent?.spanId ?? '', traceparent, ...(tracestate && { tracestate }) };
  return { name, kind, ...place, start: now(), attributes };
}

/**
 * Ends a span and sends it to `${endpoint}/v1/traces` as OTLP JSON. Answers whether it was taken and never throws: a trace
 * is not worth a call. `error`: what it failed with, if it did.
 */
export async function endSpan(span, { endpoint = 'http://localhost:4318', serviceName = 'edge', headers = {}, attributes = {}, error } = {}) {
  const body = {
    traceId: span.trace_id,
    spanId: span.span_id,
    parentSpanId: span.parent_id,
    traceState: span.tracestate,
    flags: parseInt(span.traceparent.slice(-2), 16) | (span.parent_id ? 0x300 : 0),
    name: span.name,
    kind: KINDS[span.kind] ?? 1,
    startTimeUnixNano: span.start,
    endTimeUnixNano: now(),
    attributes: listed({ ...span.attributes, ...attributes, ...(error && { 'error.type': error.name ?? 'error' }) }),
    status: error ? { code: 2, message: String(error.message ?? error) } : {},
  };
  const scopeSpans = [{ scope: { name: 'grafter-propagation' }, spans: [body] }];
  const resource = { attributes: listed({ 'service.name': serviceName }) };
  try {
    const answer = await fetch(`${endpoint}/v1/traces`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...headers },
      body: JSON.stringify({ resourceSpans: [{ resource, scopeSpans }] }),
    });
    await answer.arrayBuffer();
    return answer.ok;
  } catch {
    return false;
  }
}
