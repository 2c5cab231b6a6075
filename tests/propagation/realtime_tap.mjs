// Plays one scene of the JavaScript tap against a door, and prints what the app could see of it as JSON.
//
//     node realtime_tap.mjs DOOR_URL SCENE

const [door, scene] = process.argv.slice(2);
const { RealtimeTap } = await load();

const AUDIO = 'QUJDRA==';
const link = { trace_id: '4bf92f3577b34da6a3ce929d0e0e4736' };
const said = (number) => ({ type: 'input_audio_buffer.speech_started', audio_start_ms: number });
const delta = (number) => ({
  type: 'response.output_audio.delta',
  event_id: `event_${number}`,
  response_id: 'resp_1',
  item_id: 'item_1',
  output_index: 0,
  content_index: 0,
  delta: AUDIO,
});
const made = (options = {}) => new RealtimeTap(door, 'call_1', { metadata: link, interval: 10, ...options });

async function load() {
  if (scene === 'page') {
    // What of a page the tap looks for; the requests are real.
    const page = new EventTarget();
    globalThis.document = {};
    globalThis.addEventListener = page.addEventListener.bind(page);
    globalThis.removeEventListener = page.removeEventListener.bind(page);
    globalThis.dispatchEvent = page.dispatchEvent.bind(page);
  }
  return import('../../propagation/js/realtime_tap.mjs');
}

const scenes = {
  async forms() {
    const tap = made({ token: 'secret' });
    tap.server(said(1));
    tap.client({ type: 'response.create' });
    tap.server(JSON.stringify(said(2)));
    tap.server(new TextEncoder().encode(JSON.stringify(said(3))));
    tap.server(delta(1));
    tap.server(JSON.stringify(delta(2)));
    tap.client({ type: 'input_audio_buffer.append', event_id: 'e', audio: AUDIO });
    const content = [{ type: 'input_audio', audio: AUDIO }];
    tap.client(JSON.stringify({ type: 'conversation.item.create', item: { type: 'message', content } }));
    await tap.close();
    await tap.close();
    tap.server(said(4));
    return tap;
  },

  async live() {
    const tap = made();
    tap.server({ type: 'session.output_audio.delta', delta: AUDIO, start_ms: 100, end_ms: 200 });
    tap.client(JSON.stringify({ type: 'session.input_audio.append', audio: AUDIO }));
    tap.server({ type: 'response.event', event_id: 'e', event: { type: 'response.audio.delta', delta: AUDIO } });
    await tap.close();
    return tap;
  },

  async busy() {
    const tap = made();
    tap.server(said(1));
    await tap.close(10_000);
    return tap;
  },

  async hanging() {
    const tap = made();
    tap.server(said(1));
    await new Promise((resolve) => setTimeout(resolve, 100));
    const begun = performance.now();
    await tap.close(200);
    tap.spent = performance.now() - begun;
    return tap;
  },

  async impatient() {
    const tap = made();
    tap.server(said(1));
    const begun = performance.now();
    await tap.close(1000);
    tap.spent = performance.now() - begun;
    return tap;
  },

  async bounded() {
    const tap = made({ maxEvents: 10 });
    tap.server({ type: 'response.created' });
    for (let number = 1; number < 50; number++) {
      tap.server(delta(number));
      tap.client({ type: 'input_audio_buffer.append', audio: AUDIO });
    }
    tap.server({ type: 'response.done' });
    const { pending } = tap;
    await tap.close();
    return { sent: tap.sent, dropped: tap.dropped, pending };
  },

  async hostile() {
    const circle = { type: 'a.b' };
    circle.circle = circle;
    const tap = made();
    for (const odd of [null, undefined, 7, '', 'no json', '[1]', {}, { type: 3 }, new Date(), () => {}, '{"a":"audio.delta"']) {
      tap.server(odd);
    }
    tap.server(circle);
    tap.client({ type: 'a.c', lone: '\ud800', pair: '\ud83d\ude00', text: '\\ud800', big: 'x'.repeat(1e6), nan: NaN });
    tap.server('{"type": "a.d", "lone": "\\ud800"}');
    await tap.close();
    return tap;
  },

  async page() {
    const tap = made({ interval: 60_000 });
    tap.server(said(1));
    globalThis.dispatchEvent(new Event('pagehide'));
    return tap;
  },

  async away() {
    const tap = made();
    tap.server(said(1));
    await new Promise((resolve) => setTimeout(resolve, 100));
    return tap;
  },

  async forgotten() {
    const tap = made();
    tap.server(said(1));
    return tap;
  },

  async cost() {
    const tap = made();
    const event = { ...delta(1), delta: 'A'.repeat(4096) };
    const text = JSON.stringify(event);
    const spent = {};
    for (const [name, shown] of Object.entries({ event, text })) {
      for (let round = 0; round < 3; round++) {
        const begun = performance.now();
        for (let number = 0; number < 20_000; number++) tap.server(shown);
        spent[name] = (performance.now() - begun) / 20;
      }
    }
    return spent;
  },
};

const result = await scenes[scene]();
console.log(JSON.stringify({ ...result, sent: result.sent, dropped: result.dropped, pending: result.pending }));
