// Sends what @openai/agents traces to grafter, and lets no restart of grafter cost any of it.
//
//     import '@openai/agents';
//     import { instrument } from 'grafter-propagation';
//     instrument('http://localhost:4319');
//
// The SDK's own exporter tries a batch three times in a few seconds and then forgets it. This one keeps what it has in a
// bounded queue until grafter has stored it, and holds up nobody. It also gives every trace that names none the ids of
// the app's active OpenTelemetry span. No dependency; Node 18 or newer, Deno, Bun and workers.

import { activeSpan } from './context.mjs';
import { retryAfter, whole } from './realtime_tap.mjs';

const PATH = '/v1/traces/ingest';
// Where one of these is in a trace's metadata, the app has said itself where the trace belongs.
const LINKS = ['traceparent', 'trace_id'];
const BATCH_ITEMS = 100;
const BATCH_BYTES = 1024 * 1024;
const LARGEST_ITEM = 16 * 1024 * 1024;
const FIRST_WAIT = 250;
const LONGEST_WAIT = 10_000;
const AT_EXIT = 5000;

let instrumented = null;

/**
 * Let the Agents SDK of this process send its traces to the grafter at `endpoint`; once, at the app's start.
 *
 * replace: false adds to the processors that are there: the SDK goes on sending to OpenAI, and this is a copy. true takes
 * their place. link: gives the ids for a trace whose metadata has none; null adds nothing. agents: the module
 * `@openai/agents`, for a copy of it that does not keep its provider where every copy finds it. Called again, the earlier
 * processor stops and the new one goes on. Throws for an endpoint or a token that is none, and where no SDK is loaded.
 */
export function instrument(endpoint, options = {}) {
  const { replace = false, agents, ...settings } = options;
  const provider =
    agents?.getGlobalTraceProvider?.() ?? globalThis[Symbol.for('openai.agents.core.traceProvider')] ?? null;
  if (!provider) throw new Error('import @openai/agents first, or pass it: instrument(endpoint, { agents })');
  const processor = new AgentsProcessor(endpoint, settings);
  void instrumented?.shutdown();
  instrumented = processor;
  if (replace) provider.setProcessors([processor]);
  else provider.registerProcessor(processor);
  // The SDK ends its processors one after the other, and an OpenAI that does not answer may use up all the time.
  globalThis.process?.once?.('beforeExit', () => void processor.shutdown(AT_EXIT));
  return processor;
}

/** A trace processor of the Agents SDK. Throws nothing into the app, apart from its constructor. */
export class AgentsProcessor {
  #url;
  #headers;
  #link;
  #interval;
  #timeout;
  #maxItems;
  #maxBytes;
  #fetch;
  #traces = [];
  #spans = [];
  #bytes = 0;
  #flying = 0;
  #timer = null;
  #posting = null;
  #closed = null;
  #until = Infinity;
  #notBefore = 0;
  #delayedUntil = 0;
  #wait = FIRST_WAIT;
  #abort = null;
  #hurry = null;
  #refused = [];
  #warned = new Set();

  /** Items that grafter has stored. */
  sent = 0;
  /** Items that it will never have: the queue was full, it refused them, or the process ended. */
  dropped = 0;

  /** endpoint: the door's URL, or an address without a path. Times are milliseconds. */
  constructor(endpoint, options = {}) {
    let url;
    try {
      url = new URL(endpoint);
    } catch {
      throw new TypeError(`not an http or https address: ${endpoint}`);
    }
    if (!/^https?:$/.test(url.protocol)) throw new TypeError(`not an http or https address: ${endpoint}`);
    if (url.pathname === '/') url.pathname = PATH;
    this.#url = url.href;
    this.#headers = { 'Content-Type': 'application/json', 'OpenAI-Beta': 'traces=v1', ...options.headers };
    if (options.token) this.#headers.Authorization = `Bearer ${options.token}`;
    new Headers(this.#headers); // Throws for a value that no header can carry.
    this.#link = options.link === undefined ? activeSpan : options.link;
    this.#interval = options.interval ?? 1000;
    this.#timeout = options.timeout ?? 10_000;
    this.#maxItems = options.maxItems ?? 20_000;
    this.#maxBytes = options.maxBytes ?? 32 * 1024 * 1024;
    this.#fetch = options.fetch ?? globalThis.fetch.bind(globalThis);
  }

  /** Items that grafter has not stored yet. */
  get pending() {
    return this.#traces.length + this.#spans.length + this.#flying;
  }

  // What the SDK calls, and awaits: nothing here takes longer than writing the item as JSON.

  start() {}

  async onTraceStart(trace) {
    try {
      if (this.#link && !LINKS.some((key) => trace.metadata?.[key] !== undefined)) {
        const found = this.#link();
        // An object of its own: an app may give one and the same to every run.
        if (found && Object.keys(found).length) trace.metadata = { ...trace.metadata, ...found };
      }
    } catch (error) {
      this.#warn(`a trace could not be linked: ${error?.message}`);
    }
    this.#take(trace);
  }

  async onTraceEnd() {}

  async onSpanStart() {}

  async onSpanEnd(span) {
    this.#take(span);
  }

  /**
   * Post what waits. Resolves when grafter has it, when it could not be given now, or after `timeout` ms; what then waits
   * goes on waiting: a job that flushes at its end is not held up by a grafter that is away.
   */
  async forceFlush(timeout = AT_EXIT) {
    let timer;
    const over = new Promise((resolve) => {
      timer = setTimeout(resolve, timeout);
      this.#refused.push(resolve);
    });
    this.#notBefore = this.#delayedUntil;
    this.#hurry?.();
    await Promise.race([this.#flush(), over]);
    clearTimeout(timer);
  }

  /** Post what waits and take nothing more. Resolves within about `timeout` ms, come what may. */
  shutdown(timeout = AT_EXIT) {
    this.#closed ??= this.#finish(timeout);
    return this.#closed;
  }

  #take(item) {
    try {
      if (this.#closed) {
        this.dropped += 1;
        return;
      }
      const json = whole(JSON.stringify(item));
      if (!json || json === 'null' || json.length > LARGEST_ITEM) {
        this.dropped += 1;
        return;
      }
      const row = { json, key: item.tracingApiKey, trace: item.type === 'trace' };
      (row.trace ? this.#traces : this.#spans).push(row);
      this.#bytes += json.length;
      this.#fit();
      this.#soon(this.pending >= BATCH_ITEMS ? 0 : this.#interval);
    } catch (error) {
      this.dropped += 1;
      this.#warn(`a trace cannot be sent to grafter: ${error?.message}`);
    }
  }

  /** Let the oldest go until the queue is within its bounds: traces last, for they hold the link. */
  #fit() {
    while (this.#bytes > this.#maxBytes || this.#traces.length + this.#spans.length > this.#maxItems) {
      this.#bytes -= (this.#spans.length ? this.#spans : this.#traces).shift().json.length;
      this.dropped += 1;
      this.#warn('the queue of traces for grafter is full: the oldest are dropped');
    }
  }

  #soon(delay) {
    if (this.#timer !== null || this.#posting !== null) return;
    this.#timer = setTimeout(() => void this.#flush(), delay);
    // The end of the process posts what waits: see instrument().
    this.#timer?.unref?.();
  }

  #flush() {
    clearTimeout(this.#timer);
    this.#timer = null;
    this.#posting ??= this.#drain().finally(() => {
      this.#posting = null;
      if (this.pending && !this.#closed) this.#soon(this.#interval);
    });
    return this.#posting;
  }

  async #drain() {
    while (this.#traces.length || this.#spans.length) {
      if (!(await this.#pause())) return;
      const batch = this.#batch();
      if (batch.length) await this.#post(batch);
    }
  }

  /** Wait until grafter may be asked again; false where shutdown leaves no time for that. */
  async #pause() {
    for (;;) {
      const now = performance.now();
      if (now >= this.#until) return false;
      if (now >= this.#notBefore) return true;
      if (this.#notBefore > this.#until) return false;
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, this.#notBefore - now);
        // A grafter that is away must not keep a process alive that is done.
        if (!this.#closed) timer?.unref?.();
        this.#hurry = () => {
          clearTimeout(timer);
          resolve();
        };
      });
      this.#hurry = null;
    }
  }

  /** The oldest that wait, traces before spans, all under one key. */
  #batch() {
    const batch = [];
    let size = 0;
    while (batch.length < BATCH_ITEMS && size < BATCH_BYTES) {
      const queue = this.#traces.length ? this.#traces : this.#spans;
      if (!queue.length || (batch.length && queue[0].key !== batch[0].key)) break;
      const row = queue.shift();
      size += row.json.length;
      batch.push(row);
    }
    this.#bytes -= size;
    this.#flying = batch.length;
    return batch;
  }

  /** Send it once; what is not taken and may be later goes back to where it was. */
  async #post(batch) {
    const left = this.#until - performance.now();
    const answer = await this.#once(batch, Math.min(this.#timeout, Math.max(left, 50)));
    this.#flying = 0;
    if (answer.stored) {
      this.sent += batch.length;
      if (!this.pending) this.#refused = [];
      this.#wait = FIRST_WAIT;
      this.#notBefore = 0;
      this.#warned.clear();
      return;
    }
    if (!answer.again) {
      this.dropped += batch.length;
      this.#warn(`grafter refuses traces: ${answer.text}`);
      return;
    }
    this.#traces.unshift(...batch.filter((row) => row.trace));
    this.#spans.unshift(...batch.filter((row) => !row.trace));
    this.#bytes += batch.reduce((sum, row) => sum + row.json.length, 0);
    const patience = this.#closed ? Math.min(this.#wait, 500) : this.#wait * (0.5 + Math.random() / 2);
    this.#delayedUntil = performance.now() + answer.after;
    this.#notBefore = Math.max(this.#delayedUntil, performance.now() + patience);
    this.#wait = Math.min(this.#wait * 2, LONGEST_WAIT);
    this.#fit();
    for (const resolve of this.#refused.splice(0)) resolve();
    this.#warn(`traces wait for grafter: ${answer.text}`);
  }

  async #once(batch, timeout) {
    const abort = new AbortController();
    this.#abort = abort;
    const timer = setTimeout(() => abort.abort(), timeout);
    try {
      const { key } = batch[0];
      const response = await this.#fetch(this.#url, {
        method: 'POST',
        headers: key ? { ...this.#headers, Authorization: `Bearer ${key}` } : this.#headers,
        body: `{"data":[${batch.map((row) => row.json).join(',')}]}`,
        signal: abort.signal,
        // A redirect would make the post a GET, and whatever answered that would pass for success.
        redirect: 'manual',
      });
      await response.arrayBuffer();
      const text = `HTTP ${response.status}`;
      if (response.ok) return { text, stored: true };
      const again = response.status >= 500 || [408, 425, 429].includes(response.status);
      return { text, again, after: retryAfter(response.headers.get('Retry-After')) };
    } catch (error) {
      const text = abort.signal.aborted ? 'no answer in time' : String(error?.cause?.code ?? error?.message);
      return { text, again: true, after: 0 };
    } finally {
      clearTimeout(timer);
    }
  }

  async #finish(timeout) {
    this.#until = performance.now() + timeout;
    const over = setTimeout(() => this.#abort?.abort(), timeout);
    try {
      // What grafter asks for is kept to; one's own patience ends here.
      this.#notBefore = this.#delayedUntil;
      this.#hurry?.();
      await this.#posting;
      if (this.pending) await this.#flush();
    } catch (error) {
      this.#warn(`traces cannot be sent to grafter: ${error?.message}`);
    } finally {
      clearTimeout(over);
      clearTimeout(this.#timer);
    }
    const lost = this.#traces.length + this.#spans.length;
    if (lost) {
      this.dropped += lost;
      this.#traces = [];
      this.#spans = [];
      this.#warn(`${lost} traces and spans were lost: grafter had not stored them when the process ended`);
    }
  }

  /** Each thing once, until grafter has taken something again. */
  #warn(what) {
    if (this.#warned.has(what) || this.#warned.size >= 20) return;
    this.#warned.add(what);
    try {
      console.warn(what);
    } catch {
      // Then nobody wants to know.
    }
  }
}
