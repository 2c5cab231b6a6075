// Each helper is a file of its own, so that a page that needs one carries no other.

export { RealtimeTap } from './realtime_tap.mjs';
export { AgentsProcessor, activeSpan, instrument } from './agents_sdk.mjs';
