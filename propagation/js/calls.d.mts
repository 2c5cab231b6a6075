import type { SpanKind } from './edge.mjs';

export interface ContinueOptions {
  /** `consumer` by default. */
  kind?: SpanKind;
  /** The first is 1 and a child; a later one begins a trace of its own, with a link. */
  attempt?: number;
  /** It was meant to run later: a trace of its own too. */
  delayed?: boolean;
  attributes?: Record<string, string | number | boolean>;
}

/** Runs the work in a span that goes on with what `source` names; what it gave. `span` is one of @opentelemetry/api. */
export function continueCall<T>(
  source: unknown,
  name: string,
  options: ContinueOptions | undefined,
  work: (span?: any) => T,
): T;
/** Runs the work in the span of a job of classic Bull. */
export function bullJob<T>(job: object, work: (span?: any) => T): T;

/** An id generator for OpenTelemetry's SDK, by which `endCall` can write a call's root under its own ids. */
export class CallIds {
  generateTraceId(): string;
  generateSpanId(): string;
}

export interface EndCallOptions {
  /** A Date, Unix milliseconds, or `[seconds, nanoseconds]`. */
  start: Date | number | [number, number];
  end: Date | number | [number, number];
  /** `callsphere.call` by default. */
  name?: string;
  attributes?: Record<string, string | number | boolean>;
  /** What the call failed with, if it did. */
  error?: string | null;
}

/**
 * Writes the root span of a call that is over. False, with a warning, where no provider is registered, or its ids do not
 * come from `CallIds`. Throws TypeError for an empty id, and for a time that is none.
 */
export function endCall(callId: string, options: EndCallOptions): boolean;
