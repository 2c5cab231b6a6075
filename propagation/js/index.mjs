// Each helper is a file of its own, so that a page that needs one carries no other.

export { RealtimeTap } from './realtime_tap.mjs';
