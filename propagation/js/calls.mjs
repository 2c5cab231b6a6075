// A span that goes on with what a message, a job or a webhook names, as continue_call of grafter_propagation in Python.
//
//     await continueCall(message.headers, 'process desk.orders', {}, async (span) => { … });
//     queue.process((job) => bullJob(job, async () => { … }));                              // classic Bull
//
// @opentelemetry/api is found where it keeps what is registered, so that no copy of it has to be imported here.

import { extract } from './context.mjs';

const API = Symbol.for('opentelemetry.js.api.1');
const SPAN = Symbol.for('OpenTelemetry Context Key SPAN');
const KINDS = { internal: 0, server: 1, client: 2, producer: 3, consumer: 4 };

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
      span.setStatus({ code: 2, message: String(error?.message ?? error) });
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

/** A context of OpenTelemetry with nothing in it. */
function empty(values = new Map()) {
  return {
    getValue: (key) => values.get(key),
    setValue: (key, value) => empty(new Map(values).set(key, value)),
    deleteValue: (key) => empty(new Map([...values].filter(([one]) => one !== key))),
  };
}
