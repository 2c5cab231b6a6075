// What telephone carriers let through: Twilio's webhooks and TwiML, SIP headers, Telnyx' client_state. Written and read as
// by grafter_propagation.telephony in Python, so that a call may cross from the one to the other.
//
// A traceparent is all that is sent: 55 characters, which fit everywhere. Baggage and tracestate would go to strangers.

import { continueCall, endCall } from './calls.mjs';
import { activeSpan, callContext, extract } from './context.mjs';

// Characters of a SIP URI after its question mark. Source: Twilio's error 13253.
const LONGEST_SIP_HEADERS = 1024;
const BASE64 = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/;
// Twilio's final statuses, and what went wrong in each.
const ENDED = new Map([
  ['completed', undefined],
  ['canceled', undefined],
  ['busy', 'busy'],
  ['no-answer', 'no answer'],
  ['failed', 'failed'],
]);

/**
 * The root of the call that a Twilio webhook is about: of the parent call for a leg that <Dial> made. The form is an
 * object, as a body parser gives it, or a URLSearchParams or FormData. Throws TypeError for one without `CallSid`. Look at
 * its signature first: anyone may post a form.
 */
export function twilioCall(form) {
  return callContext(field(form, 'ParentCallSid') || field(form, 'CallSid'));
}

/**
 * Runs `work(span)` in the span of answering a Twilio webhook, a child of the call's root whoever answers it; what it gave.
 * The span carries `call.id` and `sip_call_id`, and no phone number.
 */
export function twilioWebhook(form, work, { name = 'sip.invite' } = {}) {
  const sip = field(form, 'SipCallId');
  const attributes = { 'call.id': field(form, 'CallSid'), ...(sip && { sip_call_id: sip }) };
  return continueCall(twilioCall(form), name, { kind: 'server', attributes }, work);
}

/**
 * Writes the call's root from Twilio's status callback; false for a call that goes on, and for a leg of another. From
 * `Timestamp` back by `CallDuration`, in whole seconds as Twilio counts them. See `endCall`.
 */
export function twilioEnded(form, { name, attributes = {} } = {}) {
  const status = field(form, 'CallStatus');
  if (!ENDED.has(status) || field(form, 'ParentCallSid')) return false;
  const stamp = Date.parse(field(form, 'Timestamp'));
  const end = Math.floor((Number.isNaN(stamp) ? Date.now() : stamp) / 1000);
  const duration = field(form, 'CallDuration').trim();
  const start = end - (/^\d+$/.test(duration) ? Number(duration) : 0);
  return endCall(field(form, 'CallSid'), {
    start: start * 1000,
    end: end * 1000,
    name,
    attributes: { 'call.status': status, ...attributes },
    error: ENDED.get(status),
  });
}

function field(form, name) {
  return String((typeof form?.get === 'function' ? form.get(name) : form?.[name]) ?? '');
}

/**
 * Names and values for <Parameter> in <Stream> and <ConversationRelay>, whose URL may have no query. They come back as
 * `start.customParameters` (ConversationRelay: `setup.customParameters`), which `extract` takes as it is.
 */
export function twimlParameters(context = activeSpan()) {
  return context.traceparent ? { traceparent: context.traceparent } : {};
}

/** Headers for an INVITE that the app itself sends. */
export function sipHeaders(context = activeSpan()) {
  return context.traceparent ? { 'X-Traceparent': context.traceparent } : {};
}

/**
 * A SIP URI that makes the INVITE carry `X-Traceparent`: for <Dial><Sip>, and as a transfer's target. As it was where the
 * headers would grow too long for Twilio. An Elastic SIP *trunk* has one URI for all calls and cannot carry it.
 */
export function sipUri(uri, context = activeSpan()) {
  if (!context.traceparent) return uri;
  const at = uri.indexOf('?');
  const [address, headers] = at < 0 ? [uri, ''] : [uri.slice(0, at), uri.slice(at + 1)];
  const others = headers.split('&').filter((one) => one && !one.toLowerCase().startsWith('x-traceparent='));
  const whole = [...others, `X-Traceparent=${context.traceparent}`].join('&');
  return whole.length < LONGEST_SIP_HEADERS ? `${address}?${whole}` : uri;
}

/** Telnyx' `client_state`: Base64, sent back in every webhook of the call. `state`: the app's own text. */
export function clientState(state = '', context = activeSpan()) {
  const written = { ...(state && { state }), ...twimlParameters(context) };
  return btoa(String.fromCharCode(...new TextEncoder().encode(JSON.stringify(written))));
}

/**
 * `{context, state}`: the place, as `extract` gives it, and the app's own state that `clientState` wrote. What another
 * wrote is the app's own, decoded; nothing is thrown.
 */
export function readClientState(text) {
  let decoded;
  try {
    if (typeof text !== 'string' || !BASE64.test(text)) return { context: undefined, state: '' };
    const bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
    decoded = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return { context: undefined, state: '' };
  }
  try {
    const read = JSON.parse(decoded);
    const ours = read && typeof read === 'object' && !Array.isArray(read)
      && Object.keys(read).every((key) => key === 'state' || key === 'traceparent');
    if (ours) return { context: extract(read), state: String(read.state ?? '') };
  } catch {
    // Then it is the app's own text.
  }
  return { context: undefined, state: decoded };
}
