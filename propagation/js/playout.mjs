// What the caller has heard, by Twilio's own word: marks in a Media Stream. Twilio plays what it is sent later than it is
// sent, and drops what waits when it is told to. Behind each piece of audio goes a mark, which comes back once it was
// played:
//
//     const playout = new TwilioPlayout(tap);                                 // the call's RealtimeTap
//     twilio.on('message', (text) => playout.received(text));                 // every message of Twilio's
//     const mark = playout.mark(event);                                       // after the audio of a delta was sent
//     if (mark) twilio.send(mark);
//     twilio.send(playout.clear());                                           // when the caller interrupts
//
// A mark that comes back because the rest was dropped says nothing, and is told to nobody.

const PLAYED = 'grafter.audio.played';
const DELTAS = new Set(['response.output_audio.delta', 'response.audio.delta']);
const MOST_ITEMS = 64;

/** One Media Stream. No method throws; each takes a message as text, as bytes or as an object. */
export class TwilioPlayout {
  #tap;
  #turn = 0;
  #sent = new Map();

  /** Its `streamSid`, once Twilio's `start` has come. */
  stream = '';

  constructor(tap) {
    this.#tap = tap;
  }

  /** The message that follows the audio of an event of OpenAI's; undefined for one without, and before `start`. */
  mark(event) {
    try {
      const { type, item_id: item, delta } = read(event);
      if (!this.stream || !DELTAS.has(type) || typeof item !== 'string' || !item || !delta) return undefined;
      const size = (this.#sent.get(item) ?? 0) + Math.floor((delta.length * 3) / 4) - (/=*$/.exec(delta.slice(-2))[0].length);
      this.#sent.set(item, size);
      if (this.#sent.size > MOST_ITEMS) this.#sent.delete(this.#sent.keys().next().value);
      const mark = { name: `grafter:${this.#turn}:${size}:${item}` };
      return JSON.stringify({ event: 'mark', streamSid: this.stream, mark });
    } catch {
      return undefined;
    }
  }

  /** The message that drops what was not played yet; what Twilio sends back for that is no word on what was heard. */
  clear() {
    this.#turn += 1;
    return JSON.stringify({ event: 'clear', streamSid: this.stream });
  }

  /** Whether it was a mark of these, which the app need not look at. */
  received(message) {
    try {
      const { event, streamSid, start, mark } = read(message);
      if (event === 'start') this.stream = streamSid ?? start.streamSid;
      if (event !== 'mark') return false;
      const [, turn, size, item] = /^grafter:(\d+):(\d+):(.+)$/s.exec(mark.name);
      if (Number(turn) === this.#turn) this.#tap.client({ type: PLAYED, item_id: item, played_bytes: Number(size) });
      return true;
    } catch {
      return false;
    }
  }
}

function read(message) {
  if (typeof message === 'string') return JSON.parse(message);
  return message instanceof Uint8Array ? JSON.parse(new TextDecoder().decode(message)) : message;
}
