export * from './agents_sdk.mjs';
export * from './calls.mjs';
export * from './context.mjs';
export * from './edge.mjs';
export * from './messages.mjs';
export * from './playout.mjs';
export { Link, RealtimeTap, RealtimeTapOptions } from './realtime_tap.mjs';
export * from './telephony.mjs';
export * from './webrtc.mjs';
