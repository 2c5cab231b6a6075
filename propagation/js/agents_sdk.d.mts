import type { Link } from './realtime_tap.mjs';

export interface AgentsProcessorOptions {
  /** One of `receivers.openai.ingest.tokens`, or your OpenAI key where a tee sends each batch under its own. */
  token?: string;
  /** Headers of every post. */
  headers?: Record<string, string>;
  /** Gives the ids for a trace whose metadata has none; null adds nothing. The active OpenTelemetry span. */
  link?: (() => Link) | null;
  /** Milliseconds that an item may wait for others; 1000. */
  interval?: number;
  /** Milliseconds of one post; 10,000. */
  timeout?: number;
  /** Items that may wait; 20,000. */
  maxItems?: number;
  /** About the bytes that may wait; 32 MiB. */
  maxBytes?: number;
  fetch?: typeof globalThis.fetch;
}

export interface InstrumentOptions extends AgentsProcessorOptions {
  /** Take the place of the processors that are there, instead of being added to them; false. */
  replace?: boolean;
  /** The module `@openai/agents`, where its provider is not found by itself. */
  agents?: { getGlobalTraceProvider(): unknown };
}

/** Let the Agents SDK of this process send its traces to grafter. Throws for a wrong endpoint or token, or no SDK. */
export function instrument(endpoint: string | URL, options?: InstrumentOptions): AgentsProcessor;

/** A trace processor of the Agents SDK; for `addTraceProcessor`, where `instrument` is not what you want. */
export class AgentsProcessor {
  constructor(endpoint: string | URL, options?: AgentsProcessorOptions);
  /** Items that grafter has stored. */
  sent: number;
  /** Items that it will never have. */
  dropped: number;
  /** Items that grafter has not stored yet. */
  readonly pending: number;
  start(): void;
  onTraceStart(trace: any): Promise<void>;
  onTraceEnd(trace: any): Promise<void>;
  onSpanStart(span: any): Promise<void>;
  onSpanEnd(span: any): Promise<void>;
  forceFlush(timeout?: number): Promise<void>;
  shutdown(timeout?: number): Promise<void>;
}
