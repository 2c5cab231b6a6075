// Each helper is a file of its own, so that a page that needs one carries no other.

export { AgentsProcessor, instrument } from './agents_sdk.mjs';
export { CallIds, bullJob, continueCall, endCall } from './calls.mjs';
export {
  activeSpan,
  callContext,
  extract,
  firstMessage,
  inject,
  injectJob,
  observeSdpAnswer,
  readFirstMessage,
  realtimeTracing,
  traceMetadata,
} from './context.mjs';
export { beginSpan, endSpan } from './edge.mjs';
export { seal, unseal } from './messages.mjs';
export { TwilioPlayout } from './playout.mjs';
export { RealtimeTap } from './realtime_tap.mjs';
export {
  clientState,
  readClientState,
  sipHeaders,
  sipUri,
  twilioCall,
  twilioEnded,
  twilioWebhook,
  twimlParameters,
} from './telephony.mjs';
export { tracePeerConnection } from './webrtc.mjs';
