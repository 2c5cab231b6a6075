// A place in a trace, and how it is written into what travels: headers, messages, OpenAI's metadata. The ids that a call's
// own id gives are those of grafter_propagation in Python, so that both sides of a call need hand nothing on.
//
//     await connection.publish('desk.orders', data, { headers: inject(headers()) });       // NATS
//     const sender = extract(message.headers);                                            // in any case
//     trace.setSpanContext(ROOT_CONTEXT, sender);                                          // @opentelemetry/api
//
// Nothing is thrown for what a peer has written: a carrier that names no place gives undefined.

const TRACEPARENT = /^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$/;
const HEX_ID = /^(?:CA)?([0-9a-f]{32})$/i;
const NOTHING = /^0+$/;
const RTC = /\/((?:rtc|live)_[\w-]{1,250})(?:[/?#]|$)/;
const MOST_NAMES = 256;
// Source: W3C Trace Context, tracestate.
const MOST_MEMBERS = 32;
const MEMBER = /^([a-z0-9][a-z0-9_\-*/@]{0,255})=([\x20-\x2b\x2d-\x3c\x3e-\x7e]{1,256})$/;

/**
 * The ids of the active OpenTelemetry span, as grafter reads them in a trace's or session's metadata; empty without one.
 * Found where @opentelemetry/api 1.x keeps what is registered, so that no copy of it has to be imported here.
 */
export function activeSpan() {
  const { traceId, spanId, traceFlags = 0 } = spanNow()?.spanContext?.() ?? {};
  if (!/^[0-9a-f]{32}$/.test(traceId) || NOTHING.test(traceId) || !/^[0-9a-f]{16}$/.test(spanId)) return {};
  return place(traceId, spanId, traceFlags);
}

/** What to put into the metadata of an Agents SDK trace: the active span's ids, or `context`'s, and what the app adds. */
export function traceMetadata(more = {}, context = activeSpan()) {
  const { trace_id, span_id, traceparent } = context;
  return { ...(trace_id && { trace_id }), ...(span_id && { span_id }), ...(traceparent && { traceparent }), ...more };
}

/**
 * The `tracing` of a Realtime session, to be set where the session is created: OpenAI lets nobody change it afterwards.
 * `call` names the call, as group and in the metadata.
 */
export function realtimeTracing(workflowName = 'Realtime call', { call, context, ...more } = {}) {
  const metadata = traceMetadata(call ? { call_id: call, ...more } : more, context);
  return { workflow_name: workflowName, ...(call && { group_id: call }), metadata };
}

/**
 * The root of a call's trace, the same wherever and whenever it is asked for: the trace id is the 32 hex digits of a Twilio
 * CallSid or of a UUID, else of a hash of the id; the span id is of a hash. Throws TypeError for an empty id.
 */
export function callContext(callId) {
  if (typeof callId !== 'string' || !callId) throw new TypeError('a call without an id has no trace');
  const found = HEX_ID.exec(callId.replaceAll('-', ''))?.[1].toLowerCase();
  const own = found && !NOTHING.test(found) ? found : null;
  const digest = sha256(`grafter.call\0${own ?? callId}`);
  return place(own ?? digest.slice(16, 48), digest.slice(0, 16), 1);
}

/**
 * The carrier with the active span, or `context`, in it: `traceparent`, and `tracestate` where there is one. What has a
 * set() (NATS headers, Headers, a Map) is set and given back; of a plain object it is a copy. Without a span it stays as it
 * is.
 */
export function inject(carrier = {}, context = here()) {
  const { traceparent, tracestate } = context;
  const written = { ...(traceparent && { traceparent }), ...(traceparent && tracestate && { tracestate }) };
  if (typeof carrier?.set !== 'function') return { ...carrier, ...written };
  for (const [name, value] of Object.entries(written)) carrier.set(name, value);
  return carrier;
}

/** A copy of a job's data whose member `_otel` is the carrier: for classic Bull, and for anything that takes only data. */
export function injectJob(data = {}, context = here()) {
  return context.traceparent ? { ...data, _otel: inject({}, context) } : { ...data };
}

/**
 * The place that a carrier names, as a SpanContext of @opentelemetry/api; undefined where it names none. Names in any
 * case, texts or bytes, SIP headers as Twilio writes them and as OpenAI lists them, pairs; `_otel` in a job's data, whose
 * members win; and what this gave before.
 */
export function extract(carrier) {
  try {
    const found = TRACEPARENT.exec(String(named(carrier)).trim().toLowerCase());
    if (!found) return undefined;
    const [, version, traceId, spanId, flags, more] = found;
    if (version === 'ff' || (version === '00' && more) || NOTHING.test(traceId) || NOTHING.test(spanId)) return undefined;
    const state = traceState(named(carrier, 'tracestate'));
    return { traceId, spanId, traceFlags: parseInt(flags, 16), isRemote: true, ...(state && { traceState: state }) };
  } catch {
    return undefined;
  }
}

/**
 * The `rtc_…` or `live_…` id of a WebRTC call whose offer the app passed on to OpenAI, from the answer (of `fetch`), its
 * headers or their `Location`; undefined where there is none. It becomes `openai.realtime.call_id` of the active span.
 */
export function observeSdpAnswer(answer) {
  try {
    const headers = answer?.headers ?? answer;
    const location = typeof headers === 'string' ? headers : (headers?.get?.('location') ?? named(headers, 'location'));
    const id = RTC.exec(String(location))?.[1];
    if (id) spanNow()?.setAttribute?.('openai.realtime.call_id', id);
    return id;
  } catch {
    return undefined;
  }
}

/** What a client sends first on a WebSocket, where it can set no headers. */
export function firstMessage(context = here()) {
  return JSON.stringify(inject({ type: 'trace_context' }, context));
}

/** The place that a first message names; undefined for any other message, which is then the app's own to read. */
export function readFirstMessage(message) {
  try {
    const read = typeof message === 'string' ? JSON.parse(message) : message;
    return read?.type === 'trace_context' ? extract(read) : undefined;
  } catch {
    return undefined;
  }
}

/** What goes into carriers. Metadata has no room for a tracestate, which is others' own. */
function here() {
  const tracestate = spanNow()?.spanContext?.()?.traceState?.serialize?.();
  return { ...activeSpan(), ...(tracestate && { tracestate }) };
}

/** A TraceState of @opentelemetry/api; undefined for a text without a member. */
function traceState(text) {
  const found = String(text ?? '').split(',').map((member) => MEMBER.exec(member.trim())).filter(Boolean);
  return found.length ? members(found.slice(0, MOST_MEMBERS).map(([, key, value]) => [key, value])) : undefined;
}

function members(list) {
  const others = (key) => list.filter(([name]) => name !== key);
  return {
    get: (key) => list.find(([name]) => name === key)?.[1],
    set: (key, value) => members([[key, value], ...others(key)]),
    unset: (key) => members(others(key)),
    serialize: () => list.map((member) => member.join('=')).join(','),
  };
}

function spanNow() {
  const api = globalThis[Symbol.for('opentelemetry.js.api.1')];
  return api?.context?.active?.()?.getValue?.(Symbol.for('OpenTelemetry Context Key SPAN'));
}

function named(carrier, wanted = 'traceparent') {
  if (typeof carrier === 'string') return wanted === 'traceparent' ? carrier : undefined;
  if (carrier === null || typeof carrier !== 'object') return undefined;
  const inner = named(carrier._otel, wanted);
  if (inner !== undefined) return inner;
  if (carrier.isRemote === true && typeof carrier.traceId === 'string') {
    if (wanted === 'tracestate') return carrier.traceState?.serialize?.();
    return place(carrier.traceId, carrier.spanId, carrier.traceFlags).traceparent;
  }
  const rows = typeof carrier[Symbol.iterator] === 'function' ? [...carrier] : Object.entries(carrier);
  for (const row of rows.slice(0, MOST_NAMES)) {
    const [name, value] = Array.isArray(row) ? row : [row?.name, row?.value];
    if (textOf(name)?.toLowerCase().replace(/^(sipheader_)?(x-)?/, '') !== wanted) continue;
    const read = textOf(Array.isArray(value) ? value[0] : value);
    if (read !== undefined) return read;
  }
  return undefined;
}

/** A text, or bytes as one; undefined for what is neither. */
function textOf(value) {
  if (typeof value === 'string') return value;
  // Not by instanceof: bytes may be of another realm, as in a test runner's.
  const bytes = ArrayBuffer.isView(value) || Object.prototype.toString.call(value) === '[object ArrayBuffer]';
  return bytes ? new TextDecoder().decode(value) : undefined;
}

function place(traceId, spanId, flags) {
  const traceparent = `00-${traceId}-${spanId}-${flags.toString(16).padStart(2, '0')}`;
  return { trace_id: traceId, span_id: spanId, traceparent };
}

// Here, and not of crypto.subtle, because that answers later: a webhook's first line wants the ids now.
function sha256(text) {
  const bytes = new TextEncoder().encode(text);
  const padded = new Uint8Array(((bytes.length + 8) >> 6) * 64 + 64);
  padded.set(bytes);
  padded[bytes.length] = 0x80;
  const view = new DataView(padded.buffer);
  view.setUint32(padded.length - 8, Math.floor(bytes.length / 0x20000000));
  view.setUint32(padded.length - 4, bytes.length << 3);
  const state = primes(8).map((prime) => fraction(Math.sqrt(prime)));
  const rounds = primes(64).map((prime) => fraction(Math.cbrt(prime)));
  const words = new Uint32Array(64);
  const turned = (word, by) => (word >>> by) | (word << (32 - by));
  for (let block = 0; block < padded.length; block += 64) {
    for (let at = 0; at < 64; at += 1) {
      if (at < 16) {
        words[at] = view.getUint32(block + at * 4);
      } else {
        const [older, newer] = [words[at - 15], words[at - 2]];
        const low = turned(older, 7) ^ turned(older, 18) ^ (older >>> 3);
        const high = turned(newer, 17) ^ turned(newer, 19) ^ (newer >>> 10);
        words[at] = words[at - 16] + low + words[at - 7] + high;
      }
    }
    let [a, b, c, d, e, f, g, h] = state;
    for (let at = 0; at < 64; at += 1) {
      const choice = (e & f) ^ (~e & g);
      const first = (h + (turned(e, 6) ^ turned(e, 11) ^ turned(e, 25)) + choice + rounds[at] + words[at]) >>> 0;
      const majority = (a & b) ^ (a & c) ^ (b & c);
      const second = ((turned(a, 2) ^ turned(a, 13) ^ turned(a, 22)) + majority) >>> 0;
      [a, b, c, d, e, f, g, h] = [(first + second) >>> 0, a, b, c, (d + first) >>> 0, e, f, g];
    }
    [a, b, c, d, e, f, g, h].forEach((word, at) => {
      state[at] = (state[at] + word) >>> 0;
    });
  }
  return state.map((word) => word.toString(16).padStart(8, '0')).join('');
}

function primes(count) {
  const found = [];
  for (let number = 2; found.length < count; number += 1) {
    if (found.every((prime) => number % prime)) found.push(number);
  }
  return found;
}

function fraction(root) {
  return Math.floor((root % 1) * 0x100000000);
}
