import type { RealtimeTap } from './realtime_tap.mjs';

/** What Twilio has played of a Realtime session's answers, told to grafter by its marks. Throws nothing into the app. */
export class TwilioPlayout {
  constructor(tap: Pick<RealtimeTap, 'client'>);
  /** The Media Stream's `streamSid`, once Twilio's `start` has come. */
  stream: string;
  /** The message that follows the audio of an event of OpenAI's; undefined for one without, and before `start`. */
  mark(event: unknown): string | undefined;
  /** The message that drops what was not played yet. */
  clear(): string;
  /** Whether it was a mark of these, which the app need not look at. */
  received(message: unknown): boolean;
}
