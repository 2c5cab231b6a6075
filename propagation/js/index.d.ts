export { Link, RealtimeTap, RealtimeTapOptions } from './realtime_tap.mjs';
