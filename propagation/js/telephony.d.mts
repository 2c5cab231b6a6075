import type { CallPlace, Place, RemoteSpanContext } from './context.mjs';

/** A webhook's form: as a body parser gives it, or URLSearchParams or FormData. */
export type TwilioForm = Record<string, unknown> | { get(name: string): unknown };

/** The root of the call that a Twilio webhook is about. Throws TypeError for a form without `CallSid`. */
export function twilioCall(form: TwilioForm): CallPlace;
/** Runs the work in the span of answering a Twilio webhook, a child of the call's root; what it gave. */
export function twilioWebhook<T>(form: TwilioForm, work: (span?: any) => T, options?: { name?: string }): T;
/** Writes the call's root from Twilio's status callback; false for a call that goes on, and for a leg of another. */
export function twilioEnded(
  form: TwilioForm,
  options?: { name?: string; attributes?: Record<string, string | number | boolean> },
): boolean;
/** Names and values for `<Parameter>` in `<Stream>` and `<ConversationRelay>`. */
export function twimlParameters(context?: Place): { traceparent?: string };
/** Headers for an INVITE that the app itself sends. */
export function sipHeaders(context?: Place): { 'X-Traceparent'?: string };
/** A SIP URI that makes the INVITE carry `X-Traceparent`. */
export function sipUri(uri: string, context?: Place): string;
/** Telnyx' `client_state`, with a text of the app's own. */
export function clientState(state?: string, context?: Place): string;
/** What `clientState` wrote; what another wrote is the app's own, decoded. */
export function readClientState(text: unknown): { context: RemoteSpanContext | undefined; state: string };
