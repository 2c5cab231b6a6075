// Does what grafter doctor tells a developer to type: each line, with the helpers' exports and a program's own names round
// it. Prints of which lines something is wrong.
//
//     node lines.mjs URL_OF_THE_PACKAGE < JSON, a list of lines

const helpers = await import(process.argv[2]);
let text = '';
for await (const part of process.stdin) text += part;

const PLACE = '00-5c1d9f0e7b3a4c2d8e6f1a0b9c8d7e6f-00f067aa0ba902b7-01';
const answered = () => Promise.resolve();
class Other {}
// An app of the Agents SDK has its provider here.
globalThis[Symbol.for('openai.agents.core.traceProvider')] = { registerProcessor() {}, setProcessors() {} };
// And a page in a browser this.
globalThis.addEventListener ??= () => {};

let done; // whether the work was done that a line goes round
/** Names of the program, and of the libraries that the hop's page names. */
const names = {
  work: () => (done = true),
  call: 'CA5c1d9f0e7b3a4c2d8e6f1a0b9c8d7e6f',
  callId: 'CA5c1d9f0e7b3a4c2d8e6f1a0b9c8d7e6f',
  form: { CallSid: 'CA5c1d9f0e7b3a4c2d8e6f1a0b9c8d7e6f', CallStatus: 'completed' },
  start: 1,
  end: 2,
  payload: { client_state: helpers.clientState('', { traceparent: PLACE }) },
  first: JSON.stringify({ type: 'trace_context', traceparent: PLACE }),
  event: { data: { sip_headers: [{ name: 'X-Traceparent', value: PLACE }] } },
  message: { headers: new Headers({ traceparent: PLACE }) },
  request: { headers: new Headers({ traceparent: PLACE }) },
  headers: Object.assign(() => new Headers(), { traceparent: PLACE }),
  job: {},
  data: {},
  command: {},
  subject: 'desk.orders',
  key: 'jobs',
  name: 'jobs',
  address: 'sip:a@b',
  url: 'http://localhost',
  endpoint: 'http://localhost',
  traceparent: PLACE,
  pc: Object.assign(new EventTarget(), { close() {} }),
  connection: { publish: answered },
  redis: { rpush: answered },
  producer: { send: answered },
  topic: 'orders',
  value: '7',
  queue: { add: answered, process: (work) => work({ data: {} }) },
  socket: { send: answered },
  dial: { sip: answered },
  provider: { forceFlush: answered },
  processor: answered,
  fetch: answered,
  span: helpers.beginSpan('edge', {}),
  NodeTracerProvider: Other,
  Queue: Other,
  Worker: Other,
  BullMQOtel: Other,
};

const wrong = [];
for (const line of JSON.parse(text)) {
  // A member of an object is done as one.
  const code = /^\w+: /.test(line) ? `({ ${line}\n});` : `{ ${line}\n}`;
  const round = /\bwork\b/.test(code);
  done = false;
  try {
    const Async = Object.getPrototypeOf(async () => {}).constructor;
    const scope = { ...helpers, ...names };
    await new Async(...Object.keys(scope), code)(...Object.values(scope));
    const used = Object.keys(helpers).filter((name) => new RegExp(`\\b${name}\\(`).test(line));
    if (line.includes("from 'grafter-propagation") && !used.length) wrong.push(`${line}: calls no helper`);
    if (round && !done) wrong.push(`${line}: the work was not done`);
  } catch (error) {
    wrong.push(`${line}: ${error}`);
  }
}
console.log(JSON.stringify(wrong));
process.exit(0);
