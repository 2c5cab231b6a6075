// Shows a Realtime call's events to grafter from inside a JavaScript app, without ever being in the app's way.
//
//     const tap = new RealtimeTap('http://localhost:4319', 'CA…', { metadata: { trace_id, span_id } });
//     tap.attach(session);      // @openai/agents: a RealtimeSession or a transport, before connect()
//     tap.server(event);        // or by hand: each event that came from OpenAI
//     tap.client(event);        //             each event that the app sent
//     await tap.close();        // no more will come
//
// No dependency; Node 18 or newer, browsers, Deno, Bun and workers. This one file may be copied.
//
// A call of server() or client() takes microseconds: it notes the time, leaves the audio out and puts the rest into a
// bounded queue. What waits is posted twice a second. When grafter is away the tap tries again and holds up to maxEvents
// and maxBytes; then the oldest goes, audio first, and `dropped` says how much. Nothing is ever thrown into the app,
// apart from the constructor for an endpoint or a token that is none.

const PATH = '/v1/realtime/events';
// Of the Realtime API and of the Live API.
const AUDIO_DELTAS = new Set(['response.output_audio.delta', 'response.audio.delta', 'session.output_audio.delta']);
const AUDIO_APPENDS = new Set(['input_audio_buffer.append', 'session.input_audio.append']);
const DELTA_FIELDS = ['event_id', 'response_id', 'item_id', 'output_index', 'content_index', 'start_ms', 'end_ms'];
// What a text that is about audio has in it somewhere.
const ENDS = ['audio.delta"', 'audio_buffer.append"', 'audio.append"'];

const BATCH_EVENTS = 500;
const BATCH_BYTES = 1024 * 1024;
const LONGEST_TEXT = 64 * 1024;
const LONGEST_RAW = 16 * 1024 * 1024;
const LONGEST_ROW = 1024 * 1024;
const DEEPEST = 24;
const FIRST_WAIT = 250;
const LONGEST_WAIT = 10_000;
const LONGEST_ASKED = 300_000;
// What browsers let a page send while it goes away, all such requests together.
const LONGEST_BEACON = 60 * 1024;

export class RealtimeTap {
  #url;
  #call;
  #headers;
  #metadata;
  #untold;
  #interval;
  #timeout;
  #maxEvents;
  #maxBytes;
  #fetch;
  // A step of the wall clock in the middle of a call would put its events out of order.
  #epoch = Date.now() - performance.now();
  #events = [];
  #audio = [];
  #bytes = 0;
  #number = 0;
  #item = null;
  #timer = null;
  #posting = null;
  #flying = null;
  #closed = null;
  #until = Infinity;
  #notBefore = 0;
  #hurry = null;
  #abort = null;
  #warned = new Set();
  #heard = new WeakSet();
  #onHide = null;

  /** Events that grafter has stored. */
  sent = 0;
  /** Events that it will never have: the queue was full, it refused them, or they were no events. */
  dropped = 0;

  /**
   * endpoint: the door's URL, or an address without a path (in a browser also a path of the page's own origin).
   * call: any string that names the call. metadata: what links it to the app's trace; an object, or a function that
   * gives it when the first event is seen. interval and timeout are milliseconds.
   */
  constructor(endpoint, call, options = {}) {
    const base = globalThis.location?.href;
    let url;
    try {
      url = new URL(endpoint, base);
    } catch {
      throw new TypeError(`not an http or https address: ${endpoint}`);
    }
    if (!/^https?:$/.test(url.protocol)) throw new TypeError(`not an http or https address: ${endpoint}`);
    if (url.pathname === '/') url.pathname = PATH;
    this.#url = url.href;
    this.#call = String(call);
    this.#headers = { 'Content-Type': 'application/json' };
    if (options.token) this.#headers.Authorization = `Bearer ${options.token}`;
    new Headers(this.#headers); // Throws for a token that no header can carry.
    this.#metadata = options.metadata ?? null;
    this.#untold = this.#metadata !== null;
    this.#interval = options.interval ?? 500;
    this.#timeout = options.timeout ?? 5000;
    this.#maxEvents = options.maxEvents ?? 10_000;
    this.#maxBytes = options.maxBytes ?? 8 * 1024 * 1024;
    this.#fetch = options.fetch ?? globalThis.fetch.bind(globalThis);
    if (typeof globalThis.document === 'object' && typeof globalThis.addEventListener === 'function') {
      this.#onHide = (event) => this.#leave(event);
      globalThis.addEventListener('pagehide', this.#onHide);
    }
  }

  /** An event that came from OpenAI: text as read from a socket or data channel, or the object. */
  server(event) {
    this.#take(event, 'server');
  }

  /** An event that the app sent, in the same forms. */
  client(event) {
    this.#take(event, 'client');
  }

  /** Say, now that it is known, what the call belongs to. */
  link(metadata) {
    this.#metadata = metadata;
    this.#untold = true;
    if (this.#number) this.#soon();
  }

  /**
   * Listen to something that carries Realtime events, before it connects; gives it back. A RealtimeSession or transport
   * of @openai/agents, an RTCDataChannel, or a WebSocket (browser's, Node's, or of the package ws).
   */
  attach(to) {
    try {
      const from = to?.transport?.on ? to.transport : to;
      if (from === null || typeof from !== 'object') throw new TypeError('not an object');
      if (this.#heard.has(from)) return to;
      if (typeof from.on === 'function' && typeof from.sendEvent === 'function') {
        // The transport shows beside OpenAI's events some of its own making, whose names have no dot.
        from.on('*', (event) => {
          if (event?.type === 'error' || event?.type?.includes?.('.')) this.server(event);
        });
        this.#hearWire(from);
      } else if (typeof from.addEventListener === 'function' && typeof from.send === 'function') {
        from.addEventListener('message', (message) => this.server(message.data));
        this.#hear(from, 'send');
      } else {
        throw new TypeError('no session, transport, data channel or socket');
      }
      this.#heard.add(from);
    } catch (error) {
      this.#warn(`the Realtime tap cannot listen to this: ${error?.message}`);
    }
    return to;
  }

  /** Events that wait to be posted, those of a post under way left out. */
  get pending() {
    return this.#events.length + this.#audio.length;
  }

  /** Post what waits and say that the call has ended. Resolves within about `timeout` ms, whatever grafter does. */
  close(timeout = 5000) {
    this.#closed ??= this.#finish(timeout);
    return this.#closed;
  }

  // Where the app calls: no waiting, no I/O.

  #now() {
    return (this.#epoch + performance.now()) / 1000;
  }

  #hear(from, name) {
    const send = from[name];
    const tap = this;
    from[name] = function heard(event, ...more) {
      tap.client(event);
      return send.call(this, event, ...more);
    };
  }

  /** What the transport sends, where it sends it: sendEvent() is passed by what it has queued or sends by itself. */
  #hearWire(transport) {
    if (!('connectionState' in transport)) {
      this.#hear(transport, 'sendEvent');
      return;
    }
    const look = () => {
      try {
        const { websocket, dataChannel } = transport.connectionState ?? {};
        const wire = websocket ?? dataChannel;
        if (typeof wire?.send !== 'function' || this.#heard.has(wire)) return;
        this.#heard.add(wire);
        this.#hear(wire, 'send');
      } catch (error) {
        this.#warn(`the Realtime tap cannot listen to this: ${error?.message}`);
      }
    };
    look();
    transport.on('connection_change', look);
  }

  #take(event, side) {
    try {
      const at = this.#now();
      let one = null;
      try {
        one = seen(event);
      } catch {
        // An event of any shape may be shown.
      }
      if (one === null || this.#closed) {
        this.dropped += 1;
        return;
      }
      this.#put({ at, side, ...one });
      this.#soon();
    } catch (error) {
      this.#warn(`the Realtime tap cannot work: ${error?.message}`);
    }
  }

  #put(one) {
    one.number = ++this.#number;
    // An item's first audio is what the caller waited for; only what follows it is worth less than other events.
    const rest = one.audioOf !== null && (one.audioOf === '' || one.audioOf === this.#item);
    (rest ? this.#audio : this.#events).push(one);
    if (one.audioOf) this.#item = one.audioOf;
    this.#bytes += one.size;
    while (this.#bytes > this.#maxBytes || this.pending > this.#maxEvents) {
      const gone = (this.#audio.length ? this.#audio : this.#events).shift();
      this.#bytes -= gone.size;
      this.dropped += 1;
    }
  }

  #soon() {
    if (this.#timer !== null || this.#posting !== null || this.#closed) return;
    this.#timer = setTimeout(() => this.#flush(), this.#interval);
  }

  // Posting.

  #flush() {
    clearTimeout(this.#timer);
    this.#timer = null;
    this.#posting ??= this.#drain().finally(() => {
      this.#posting = null;
      if (this.pending) this.#soon();
    });
    return this.#posting;
  }

  async #drain() {
    try {
      while (this.pending) await this.#post(this.#batch());
      if (this.#untold && this.#number) await this.#post([]);
    } catch (error) {
      this.#warn(`the Realtime tap cannot work: ${error?.message}`);
    }
  }

  async #finish(timeout) {
    this.#until = performance.now() + timeout;
    if (this.#onHide) globalThis.removeEventListener('pagehide', this.#onHide);
    this.#hurry?.();
    // Where nothing was seen there is no call to end.
    if (!this.#number) return;
    const over = setTimeout(() => this.#abort?.abort(), timeout);
    try {
      await this.#posting;
      await this.#flush();
      await this.#post([], true);
    } catch (error) {
      this.#warn(`the Realtime tap cannot work: ${error?.message}`);
    } finally {
      clearTimeout(over);
    }
  }

  /** The oldest that wait, in the order in which they were shown, as they stand in a post. */
  #batch() {
    const rows = [];
    let size = 0;
    while (this.pending && rows.length < BATCH_EVENTS && size < BATCH_BYTES) {
      const audio = !this.#events.length || this.#audio[0]?.number < this.#events[0].number;
      const one = (audio ? this.#audio : this.#events).shift();
      this.#bytes -= one.size;
      const row = written(one);
      if (row === null) {
        this.dropped += 1;
      } else {
        size += row.length;
        rows.push(row);
      }
    }
    return rows;
  }

  #body(rows, ended) {
    const head = { call: this.#call };
    const metadata = this.#untold ? this.#linked() : null;
    if (metadata) head.metadata = metadata;
    // The clock of the events, so that grafter can tell how far it is from its own.
    head.sent_at = this.#now();
    if (ended) head.ended = true;
    const text = whole(JSON.stringify(head));
    return rows.length ? `${text.slice(0, -1)},"events":[${rows.join(',')}]}` : text;
  }

  #linked() {
    try {
      const given = typeof this.#metadata === 'function' ? this.#metadata() : this.#metadata;
      const copying = { size: 0 };
      return given && typeof given === 'object' ? copied(given, copying, 0) : null;
    } catch {
      return null;
    }
  }

  /** Try until grafter has it, refuses it, or close() has no more time. */
  async #post(rows, ended = false) {
    let wait = FIRST_WAIT;
    this.#flying = rows;
    try {
      for (;;) {
        if (!(await this.#pause(this.#notBefore))) break;
        if (this.#flying !== rows) return; // The page went away, and took it along.
        const left = this.#until - performance.now();
        if (left <= 0) break;
        const metadata = this.#metadata;
        const answer = await this.#once(this.#body(rows, ended), Math.min(this.#timeout, left));
        if (this.#flying !== rows) return;
        if (answer.stored) {
          this.sent += rows.length;
          // Another may have been given meanwhile.
          if (metadata === this.#metadata) this.#untold = false;
          this.#warned.clear();
          return;
        }
        if (!answer.again) {
          this.#warn(`grafter refuses the events of a Realtime call: ${answer.text}`);
          if (!rows.length) this.#untold = false;
          break;
        }
        this.#warn(`the events of a Realtime call wait for grafter: ${answer.text}`);
        // Of the door, not of this post: what is posted next has to wait as well.
        this.#notBefore = performance.now() + Math.max(answer.after, wait * (0.5 + Math.random() / 2));
        wait = Math.min(wait * 2, LONGEST_WAIT);
      }
      this.dropped += rows.length;
    } finally {
      if (this.#flying === rows) this.#flying = null;
    }
  }

  async #once(body, timeout) {
    const abort = new AbortController();
    this.#abort = abort;
    const timer = setTimeout(() => abort.abort(), timeout);
    try {
      const response = await this.#fetch(this.#url, {
        method: 'POST',
        headers: this.#headers,
        body,
        signal: abort.signal,
        // A redirect would make the post a GET, and whatever answered that would pass for success.
        redirect: 'manual',
        cache: 'no-store',
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

  /** Wait until then, or until close(); false where that leaves no time to try again. */
  async #pause(due) {
    for (;;) {
      const left = due - performance.now();
      if (left <= 0) return true;
      if (due > this.#until) return false;
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, left);
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

  /** The page goes away: what fits is handed to the browser, which sends it afterwards. Nobody hears the answer. */
  #leave(event) {
    try {
      clearTimeout(this.#timer);
      this.#timer = null;
      const rows = [...(this.#flying ?? [])];
      this.#flying = [];
      while (this.pending) rows.push(...this.#batch());
      // A page that the browser keeps may come back, and its call with it.
      const ended = !event?.persisted;
      if (!this.#number || (!rows.length && !ended)) return;
      let from = rows.length;
      let size = 1000;
      // The end of the call is worth more than its middle.
      while (from > 0 && size + bytes(rows[from - 1]) < LONGEST_BEACON) size += bytes(rows[--from]) + 1;
      this.dropped += from;
      const body = this.#body(rows.slice(from), ended);
      if ('keepalive' in (globalThis.Request?.prototype ?? {})) {
        this.#fetch(this.#url, { method: 'POST', headers: this.#headers, body, keepalive: true }).catch(() => {});
      } else {
        // It carries no token; a door without tokens takes it.
        globalThis.navigator?.sendBeacon?.(this.#url, new Blob([body], { type: 'application/json' }));
      }
      this.sent += rows.length - from;
      if (ended) this.#untold = false;
    } catch (error) {
      this.#warn(`the Realtime tap cannot work: ${error?.message}`);
    }
  }

  /** Each thing once, until grafter has taken something again. */
  #warn(what) {
    if (this.#warned.has(what) || this.#warned.size >= 20) return;
    this.#warned.add(what);
    try {
      console.warn(`${what} (call ${this.#call})`);
    } catch {
      // Then nobody wants to know.
    }
  }
}

/** What is to wait of an event; null for what cannot be one. */
function seen(event) {
  if (event instanceof ArrayBuffer || ArrayBuffer.isView(event)) {
    if (event.byteLength > LONGEST_RAW) return null;
    event = new TextDecoder().decode(event);
  }
  if (typeof event === 'string') {
    if (!event || event.length > LONGEST_RAW) return null;
    if (!ENDS.some((end) => event.includes(end))) {
      return { event, size: 2 * event.length, audioOf: null };
    }
    event = JSON.parse(event);
  }
  if (event === null || typeof event !== 'object' || typeof event.type !== 'string' || !event.type) {
    return null;
  }
  if (AUDIO_DELTAS.has(event.type)) {
    const copy = { type: event.type, delta_bytes: bytesIn(event.delta) };
    for (const field of DELTA_FIELDS) {
      const value = event[field];
      if (typeof value === 'string') copy[field] = value.slice(0, 256);
      else if (typeof value === 'number') copy[field] = value;
    }
    return { event: copy, size: 300, audioOf: String(copy.item_id ?? '') };
  }
  if (AUDIO_APPENDS.has(event.type)) {
    const copy = { type: event.type, audio_bytes: bytesIn(event.audio) };
    if (typeof event.event_id === 'string') copy.event_id = event.event_id.slice(0, 256);
    return { event: copy, size: 300, audioOf: '' };
  }
  const copying = { size: 300 };
  const copy = copied(event, copying, 0);
  return copy.type ? { event: copy, size: copying.size, audioOf: null } : null;
}

/** The event as it stands in a post; null where it cannot be written as one. */
function written(one) {
  try {
    const event = typeof one.event === 'string' ? seen(JSON.parse(one.event))?.event : one.event;
    if (!event) return null;
    const row = whole(JSON.stringify({ at: one.at, from: one.side, event }));
    return row.length <= LONGEST_ROW ? row : null;
  } catch {
    return null;
  }
}

/** A copy of what JSON knows, without audio and pictures, no string and no nesting without end. */
function copied(value, copying, depth) {
  if (typeof value === 'string') {
    const text = value.length > LONGEST_TEXT ? value.slice(0, LONGEST_TEXT) : value;
    copying.size += 2 * text.length;
    return text;
  }
  if (value === null || typeof value === 'boolean' || typeof value === 'number') return value;
  if (typeof value !== 'object' || depth > DEEPEST) return null;
  if (Array.isArray(value)) {
    copying.size += 40 * value.length;
    return value.map((member) => copied(member, copying, depth + 1));
  }
  const copy = {};
  // An audio delta may come inside another event.
  const delta = AUDIO_DELTAS.has(value.type);
  for (const [name, member] of Object.entries(value)) {
    copying.size += 40 + 2 * name.length;
    const binary = member instanceof ArrayBuffer || ArrayBuffer.isView(member);
    if (binary || ((name === 'audio' || (delta && name === 'delta')) && typeof member === 'string')) {
      copy[`${name}_bytes`] = bytesIn(member);
    } else if (typeof member === 'string' && member.length > 1024 && member.startsWith('data:')) {
      copy[`${name}_bytes`] = bytesIn(member.slice(member.indexOf(',') + 1));
    } else if (member !== undefined && typeof member !== 'function') {
      copy[name] = copied(member, copying, depth + 1);
    }
  }
  return copy;
}

/** The bytes that a Base64 text stands for; raw bytes count as they are. */
function bytesIn(audio) {
  if (typeof audio !== 'string') return audio?.byteLength ?? 0;
  const padding = audio.endsWith('==') ? 2 : audio.endsWith('=') ? 1 : 0;
  return Math.max(0, Math.floor((audio.length * 3) / 4) - padding);
}

function bytes(text) {
  return new TextEncoder().encode(text).length;
}

/** Halves of characters, which JSON.stringify writes as escapes, would make the whole post unreadable. */
export function whole(json) {
  if (!json?.includes('\\ud')) return json;
  return json.replace(/\\(?:u[0-9a-f]{4}|.)/g, (escape) => (/^\\ud[89a-f]/.test(escape) ? '?' : escape));
}

/** Milliseconds of a Retry-After header, which is a number of seconds or a date. */
export function retryAfter(header) {
  if (!header) return 0;
  const wait = /^\s*\d+(\.\d+)?\s*$/.test(header) ? Number(header) * 1000 : Date.parse(header) - Date.now();
  return Number.isFinite(wait) ? Math.min(Math.max(wait, 0), LONGEST_ASKED) : 0;
}
