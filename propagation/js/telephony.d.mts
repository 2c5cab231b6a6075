import type { Place, RemoteSpanContext } from './context.mjs';

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
