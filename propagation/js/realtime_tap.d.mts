/** What links a guest to the app's trace: `trace_id` with or without `span_id`, or `traceparent`; other keys too. */
export type Link = Record<string, unknown>;

export interface RealtimeTapOptions {
  /** What links the call to the app's trace, or what gives it when the first event is seen. */
  metadata?: Link | (() => Link | null | undefined) | null;
  /** One of `receivers.openai.realtime.tokens`. */
  token?: string;
  /** Milliseconds that an event may wait for others before it is posted; 500. */
  interval?: number;
  /** Milliseconds of one post; 5000. */
  timeout?: number;
  /** Events that may wait; 10,000. */
  maxEvents?: number;
  /** About the bytes that may wait; 8 MiB. */
  maxBytes?: number;
  fetch?: typeof globalThis.fetch;
}

/** Shows a Realtime call's events to grafter. Throws nothing into the app but TypeError for a wrong endpoint or token. */
export class RealtimeTap {
  constructor(endpoint: string | URL, call: string, options?: RealtimeTapOptions);
  /** Events that grafter has stored. */
  sent: number;
  /** Events that it will never have. */
  dropped: number;
  /** Events that wait to be posted. */
  readonly pending: number;
  /** An event that came from OpenAI: text, bytes or the object. */
  server(event: unknown): void;
  /** An event that the app sent, in the same forms. */
  client(event: unknown): void;
  /** Say, now that it is known, what the call belongs to. */
  link(metadata: Link): void;
  /** Listen to a session, transport, data channel or socket; gives it back. */
  attach<T>(to: T): T;
  /** Post what waits and say that the call has ended. Resolves within about `timeout` ms (5000). */
  close(timeout?: number): Promise<void>;
}
