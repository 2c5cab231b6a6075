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
