export { Link, RealtimeTap, RealtimeTapOptions } from './realtime_tap.mjs';
export { AgentsProcessor, AgentsProcessorOptions, InstrumentOptions, activeSpan, instrument } from './agents_sdk.mjs';
