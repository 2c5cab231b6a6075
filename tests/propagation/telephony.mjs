// A gateway in Node, for test_telephony_js.py: what grafter-propagation does there with Twilio's webhooks.
//
//     node telephony.mjs serve TOKEN            an HTTP server that checks Twilio's signature; its port is printed
//     node telephony.mjs ended < JSON           the roots that twilioEnded writes for some forms
//     node telephony.mjs calls < JSON           the roots that endCall writes; no provider's ids, and no provider

import http from 'node:http';
import { text } from 'node:stream/consumers';

import { context, trace } from '@opentelemetry/api';
import { AsyncLocalStorageContextManager } from '@opentelemetry/context-async-hooks';
import { BasicTracerProvider, InMemorySpanExporter, SimpleSpanProcessor } from '@opentelemetry/sdk-trace-base';
import {
  CallIds,
  callContext,
  continueCall,
  endCall,
  extract,
  twilioCall,
  twilioEnded,
  twilioWebhook,
  twimlParameters,
} from 'grafter-propagation';

const [scene, token] = process.argv.slice(2);
const exporter = new InMemorySpanExporter();

function traced(idGenerator = new CallIds()) {
  trace.setGlobalTracerProvider(new BasicTracerProvider({ idGenerator, spanProcessors: [new SimpleSpanProcessor(exporter)] }));
}

const nanoseconds = ([seconds, rest]) => String(BigInt(seconds) * 1_000_000_000n + BigInt(rest));

/** The spans that ended, as test_telephony_js.py writes those of Python. */
const ended = () =>
  exporter.getFinishedSpans().map((span) => ({
    name: span.name,
    kind: span.kind,
    trace_id: span.spanContext().traceId,
    span_id: span.spanContext().spanId,
    parent: span.parentSpanContext?.spanId ?? '',
    start: nanoseconds(span.startTime),
    end: nanoseconds(span.endTime),
    attributes: span.attributes,
    error: span.status.code === 2 ? (span.status.message ?? '') : null,
  }));

const scenes = {
  async serve() {
    const { default: twilio } = await import('twilio');
    context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
    traced();
    const answers = {
      '/voice': (form) =>
        twilioWebhook(form, async () => {
          const response = new twilio.twiml.VoiceResponse();
          const stream = response.connect().stream({ url: 'wss://gateway.example/media' });
          for (const [name, value] of Object.entries(twimlParameters())) stream.parameter({ name, value });
          return response.toString();
        }),
      '/status': (form) => String(twilioEnded(form, { attributes: { outcome: 'booked' } })),
      '/media': (form) => continueCall(form, 'media', { kind: 'server' }, () => ''),
      '/spans': () => JSON.stringify(ended()),
    };
    const server = http.createServer(async (request, response) => {
      const form = Object.fromEntries(new URLSearchParams(await text(request)));
      const url = `http://${request.headers.host}${request.url}`;
      const signed = twilio.validateRequest(token, request.headers['x-twilio-signature'] ?? '', url, form);
      response.writeHead(signed ? 200 : 403).end(signed ? await answers[request.url](form) : '');
    });
    server.listen(0, '127.0.0.1', () => console.log(server.address().port));
    await new Promise(() => process.stdin.resume().once('end', () => process.exit(0)));
  },
  async ended() {
    const forms = JSON.parse(await text(process.stdin));
    traced();
    const written = forms.map((form) => twilioEnded(form));
    const roots = forms.map((form) => extract(twilioCall(new URLSearchParams(form))).spanId);
    return { written, roots, spans: ended() };
  },
  async calls() {
    const calls = JSON.parse(await text(process.stdin));
    const warned = [];
    console.warn = (words) => warned.push(words);
    const over = { CallSid: `CA${'0123456789abcdef'.repeat(2)}`, CallStatus: 'completed' };
    const without = [endCall('call 1', { start: 0, end: 1 }), twilioEnded(over), twilioEnded({ ...over, CallStatus: 'ringing' })];
    traced();
    for (const { call, ...options } of calls) endCall(call, options);
    endCall('a date', { start: new Date(1500), end: [2, 7] });
    const other = trace.getTracer('app').startSpan('other');
    const random = new Set(Array.from({ length: 1000 }, () => [new CallIds().generateTraceId(), new CallIds().generateSpanId()]).flat());
    const odd = [...random].filter((id) => !/^([0-9a-f]{16}|[0-9a-f]{32})$/.test(id));
    const times = ['soon', [], [1], [NaN, 0], [0, Infinity], ['0', 0], new Date(NaN), undefined, null];
    const refused = [['', 0], [undefined, 0], ...times.map((time) => ['call 1', time])];
    const thrown = refused.flatMap(([call, time]) => [{ start: time, end: 1 }, { start: 1, end: time }].map((given) => {
      try {
        return endCall(call, given);
      } catch (error) {
        return error.name;
      }
    }));
    trace.disable();
    const spans = ended();
    exporter.reset();
    traced({ generateTraceId: () => '1'.repeat(32), generateSpanId: () => '2'.repeat(16) });
    const foreign = endCall('call 1', { start: 0, end: 1 });
    const apart = other.spanContext().traceId !== callContext('a date').trace_id;
    return { without, spans, apart, random: random.size, odd, thrown, foreign, lost: ended(), warned };
  },
};

console.log(JSON.stringify(await scenes[scene]()));
process.exit(0);
