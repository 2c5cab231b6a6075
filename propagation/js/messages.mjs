// An envelope for a message that is no mapping: a text or bytes in a Redis list, or in any queue that takes one text. What
// grafter_propagation.messages seals in Python is unsealed here, and the other way round.
//
//     await redis.rpush('audio', seal(bytes));
//     const { body, carrier } = unseal((await redis.blpop('audio', 0))[1]);
//     await continueCall(carrier, 'process audio', {}, () => work(body));

import { inject } from './context.mjs';

// The first member of an envelope, which no message of an app's own begins with.
const ENVELOPE = 'grafter.envelope';
const HEAD = 64;

/** A message, text or bytes, with the active span, or `context`, round it: one text. */
export function seal(body, context) {
  const content = typeof body === 'string' ? { text: body } : { base64: base64(body) };
  return JSON.stringify({ [ENVELOPE]: 1, carrier: inject({}, context), ...content });
}

/**
 * `{body, carrier}`: the message as it was sealed, a text or a Uint8Array, and its carrier for `continueCall`. One that is
 * no envelope is its own body, so that readers may be changed before writers; nothing is thrown.
 */
export function unseal(message) {
  const plain = { body: message, carrier: {} };
  try {
    const text = (part) => (typeof part === 'string' ? part : new TextDecoder().decode(part));
    if (!text(message.slice(0, HEAD)).includes(ENVELOPE)) return plain;
    const { carrier, base64: bytes, text: body } = JSON.parse(text(message));
    if (typeof bytes !== 'string' && typeof body !== 'string') return plain;
    const content = typeof bytes === 'string' ? Uint8Array.from(atob(bytes), (one) => one.charCodeAt(0)) : body;
    return { body: content, carrier: carrier && typeof carrier === 'object' && !Array.isArray(carrier) ? carrier : {} };
  } catch {
    return plain;
  }
}

function base64(bytes) {
  let binary = '';
  for (const byte of bytes) binary += String.fromCharCode(byte);
  return btoa(binary);
}
