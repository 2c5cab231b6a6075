import type { Link } from './realtime_tap.mjs';

/** Ids as grafter reads them in metadata; empty where there is no span. */
export interface Place {
  trace_id?: string;
  span_id?: string;
  traceparent?: string;
  /** In carriers alone, where there is one. */
  tracestate?: string;
}

/** As in `@opentelemetry/api`. */
export interface TraceState {
  get(key: string): string | undefined;
  set(key: string, value: string): TraceState;
  unset(key: string): TraceState;
  serialize(): string;
}

/** A place that is known whole. */
export type CallPlace = Required<Omit<Place, 'tracestate'>>;

/** What `trace.setSpanContext` of @opentelemetry/api takes. */
export interface RemoteSpanContext {
  traceId: string;
  spanId: string;
  traceFlags: number;
  isRemote: true;
  traceState?: TraceState;
}

export interface RealtimeTracing {
  workflow_name: string;
  group_id?: string;
  metadata: Record<string, string>;
}

/** `trace_id`, `span_id` and `traceparent` of the active OpenTelemetry span; empty without one. */
export function activeSpan(): Place & Link;
/** For the metadata of an Agents SDK trace. */
export function traceMetadata(more?: Record<string, string>, context?: Place): Record<string, string>;
/** The `tracing` of a Realtime session, to be set where it is created. */
export function realtimeTracing(
  workflowName?: string,
  options?: { call?: string; context?: Place } & Record<string, unknown>,
): RealtimeTracing;
/** The root of a call's trace, computed from its id. Throws TypeError for an empty id. */
export function callContext(callId: string): CallPlace;
/** The carrier with the active span, or `context`, in it. */
export function inject<T extends object>(carrier?: T, context?: Place): T & { traceparent?: string; tracestate?: string };
/** A copy of a job's data whose member `_otel` is the carrier. */
export function injectJob<T extends object>(data?: T, context?: Place): T & { _otel?: { traceparent: string; tracestate?: string } };
/** The place that a carrier names; undefined where it names none. */
export function extract(carrier: unknown): RemoteSpanContext | undefined;
/** The id of a WebRTC call, from OpenAI's answer to its offer; it becomes an attribute of the active span. */
export function observeSdpAnswer(
  answer: string | { headers: Headers } | Headers | Record<string, string> | null | undefined,
): string | undefined;
/** What a client sends first on a WebSocket. */
export function firstMessage(context?: Place): string;
/** The place that a first message names; undefined for any other message. */
export function readFirstMessage(message: unknown): RemoteSpanContext | undefined;
