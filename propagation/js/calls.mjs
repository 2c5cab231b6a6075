// A span that goes on with what a message, a job or a webhook names, and the root of a call, which is written last, as
// continue_call and end_call of grafter_propagation in Python.
//
//     await continueCall(message.headers, 'process desk.orders', {}, async (span) => { … });
//     queue.process((job) => bullJob(job, async () => { … }));                              // classic Bull
//     endCall(callSid, { start, end });             // with new NodeTracerProvider({ idGenerator: new CallIds() })
//
// @opentelemetry/api is found where it keeps what is registered, so that no copy of it has to be imported here.

import { callContext, extract } from './context.mjs';

/** The name of a call's root span, where the app gives no other. */
const ROOT = 'callsphere.call';

const API = Symbol.for('opentelemetry.js.api.1');
const SPAN = Symbol.for('OpenTelemetry Context Key SPAN');
const KINDS = { internal: 0, server: 1, client: 2, producer: 3, consumer: 4 };
const ERROR = 2;
// The ids of the root that endCall begins. A tracer asks its generator while it begins a span, and nothing runs between.
let wanted;

/**
 * Runs `work(span)` in a span of its own and gives back what it gave. The first attempt is a child of what `source` names
 * (a carrier, or `callContext()`). A retry (`attempt` above 1) and a delayed run begin a trace of their own, with a link:
 * hours later it is no longer part of the call. Where the source names no place, the span is a child of the active one.
 * An error of the work stands on the span and is thrown on. Without @opentelemetry/api the work is done, and that is all.
 */
export function continueCall(source, name, { kind = 'consumer', attempt = 1, delayed = false, attributes = {} } = {}, work) {
  const api = globalThis[API];
  const tracer = api?.trace?.getTracer?.('grafter-propagation');
  if (!tracer) return work();
  const sender = extract(source);
  const apart = Boolean(sender) && (attempt > 1 || delayed);
  let parent = (!sender && api.context?.active?.()) || empty();
  if (sender && !apart) parent = parent.setValue(SPAN, { spanContext: () => sender, isRecording: () => false });
  const options = { kind: KINDS[kind] ?? 0, attributes, links: apart ? [{ context: sender }] : [] };
  return tracer.startActiveSpan(name, options, parent, (span) => {
    const failed = (error) => {
      span.setStatus({ code: ERROR, message: String(error?.message ?? error) });
      span.end();
      throw error;
    };
    let done;
    try {
      done = work(span);
    } catch (error) {
      failed(error);
    }
    if (typeof done?.then !== 'function') {
      span.end();
      return done;
    }
    return done.then((value) => {
      span.end();
      return value;
    }, failed);
  });
}

/**
 * The span of a job of classic Bull, which carries nothing itself: a child of whoever added it with `injectJob(data)`. A
 * further attempt and a job that was delayed begin a trace of their own, with a link.
 */
export function bullJob(job, work) {
  const queue = String(job.queue?.name ?? '');
  const attributes = {
    'messaging.system': 'bull',
    'messaging.destination.name': queue,
    'messaging.operation.name': 'process',
    'bull.job.id': String(job.id),
  };
  const options = { attempt: (job.attemptsMade ?? 0) + 1, delayed: job.opts?.delay > 0, attributes };
  return continueCall(job.data, `process ${queue}`, options, work);
}

/**
 * An id generator for OpenTelemetry's SDK, by which `endCall` can write a call's root under its own ids:
 * `new NodeTracerProvider({ idGenerator: new CallIds() })`, or NodeSDK's `idGenerator`. All other spans get random ids.
 */
export class CallIds {
  generateTraceId() {
    return wanted?.trace_id ?? word() + word() + word() + word();
  }

  generateSpanId() {
    return wanted?.span_id ?? word() + word();
  }
}

/**
 * Writes the root span of a call that is over, under the ids that `callContext` gives. `start` and `end` are a Date, Unix
 * milliseconds, or `[seconds, nanoseconds]`; `error` is a description where the call failed.
 *
 * A provider is needed whose ids come from `CallIds`; false, with a warning, where there is none. Written twice (a callback
 * that came again) with the same values it is one span: the ids are the same. Throws TypeError for an empty id, and for a
 * time that is none.
 */
export function endCall(callId, { start, end, name = ROOT, attributes = {}, error } = {}) {
  const root = callContext(callId);
  const [from, to] = [unixTime(start), unixTime(end)];
  const tracer = globalThis[API]?.trace?.getTracer?.('grafter-propagation');
  if (!tracer) return unwritten();
  const options = { kind: KINDS.server, attributes: { 'call.id': callId, ...attributes }, startTime: from };
  let span;
  wanted = root;
  try {
    span = tracer.startSpan(name, options, empty());
  } finally {
    wanted = undefined;
  }
  const { traceId, spanId } = span.spanContext();
  if (traceId !== root.trace_id || spanId !== root.span_id) {
    // A span that never ends is never exported.
    return unwritten();
  }
  if (error !== undefined && error !== null) span.setStatus({ code: ERROR, message: String(error) });
  span.end(later(from, to));
  return true;
}

function unwritten() {
  console.warn('grafter: the root of a call was not written: register a TracerProvider with idGenerator: new CallIds()');
  return false;
}

const later = (one, other) => (other[0] > one[0] || (other[0] === one[0] && other[1] > one[1]) ? other : one);

/** `[seconds, nanoseconds]`: the one form that the SDK takes for no time of its own clock, however small it is. */
function unixTime(time) {
  const pair = Array.isArray(time);
  if (pair && Number.isFinite(time[0]) && Number.isFinite(time[1])) return time;
  const ms = Number(time);
  if (pair || time === undefined || time === null || !Number.isFinite(ms)) {
    throw new TypeError('start and end of a call are a Date, Unix milliseconds or [seconds, nanoseconds]');
  }
  const seconds = Math.floor(ms / 1000);
  return [seconds, Math.round((ms - seconds * 1000) * 1e6)];
}

/** Eight hex digits by chance, never all zero. */
const word = () => (Math.floor(Math.random() * 0xffffffff) + 1).toString(16).padStart(8, '0');

/** A context of OpenTelemetry with nothing in it. */
function empty(values = new Map()) {
  return {
    getValue: (key) => values.get(key),
    setValue: (key, value) => empty(new Map(values).set(key, value)),
    deleteValue: (key) => empty(new Map([...values].filter(([one]) => one !== key))),
  };
}
