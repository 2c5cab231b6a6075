import type { Place } from './context.mjs';

/** A message, text or bytes, with its carrier round it: one text. */
export function seal(body: string | Uint8Array, context?: Place): string;
/** The message as it was sealed, and its carrier for `continueCall`. One that is no envelope is its own body. */
export function unseal(message: string | Uint8Array): { body: string | Uint8Array; carrier: Record<string, unknown> };
