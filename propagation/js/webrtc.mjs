// What a browser knows of a call's media path, as one span that ends when the connection does: ICE gathering, STUN and
// TURN, the pair that was chosen, changes of state, and what getStats said last. No address of anybody is kept.
//
//     const trace = tracePeerConnection(new RTCPeerConnection(config), { endpoint: 'https://app.example:4318', traceparent });
//     fetch('/token', { headers: { traceparent: trace.traceparent } });
//
// It goes to `${endpoint}/v1/traces` as OTLP JSON; grafter's OTLP door wants the page's origin in `cors.allowed_origins`.

const STATES = ['iceGathering', 'iceConnection', 'connection', 'signaling'];
const SAMPLE_MS = 5000;
const MOST_EVENTS = 250;

const hex = (bytes) =>
  [...crypto.getRandomValues(new Uint8Array(bytes))].map((byte) => byte.toString(16).padStart(2, '0')).join('');
const snake = (name) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
// The page's own clock goes on steadily; the date may be set meanwhile.
const now = () => String(Math.round((performance.timeOrigin + performance.now()) * 1000)) + '000';
const since = (from, to) => (from && to ? (Number(to) - Number(from)) / 1e6 : undefined);
const listed = (attributes) =>
  Object.entries(attributes)
    .filter(([, value]) => value !== undefined && value !== null && value !== '')
    .map(([key, value]) => ({ key, value: typeof value === 'number' ? { doubleValue: value } : { stringValue: String(value) } }));

/** Begins the span; it is sent when the connection is closed or has failed, when the page goes, or by `end()`. */
export function tracePeerConnection(pc, options = {}) {
  const { endpoint = 'http://localhost:4318', traceparent = '', serviceName = 'browser', headers = {} } = options;
  const [, traceId = hex(16), parentSpanId, flags = '01'] = /^..-(.{32})-(.{16})-(..)/.exec(traceparent) ?? [];
  const spanId = hex(8);
  const first = { start: now() };
  const attributes = { ...options.attributes };
  const events = [];
  let omitted = 0;
  let failed = '';
  let ended = false;

  const happened = (name, more = {}) => {
    const timeUnixNano = now();
    first[name + (more.state ?? more.type ?? '')] ??= timeUnixNano;
    if (events.length < MOST_EVENTS) events.push({ timeUnixNano, name: `webrtc.${name}`, attributes: listed(more) });
    else omitted += 1;
  };
  const stopping = new AbortController();
  const on = (target, type, listener) => target.addEventListener(type, listener, { signal: stopping.signal });

  for (const name of STATES) {
    on(pc, `${name.toLowerCase()}statechange`, async () => {
      const state = pc[`${name}State`];
      happened(`${snake(name)}_state`, { state });
      if (name !== 'connection') return;
      if (state === 'connected') await sample(true);
      if (state === 'failed') end((failed = 'failed'));
    });
  }
  on(pc, 'icecandidate', ({ candidate }) => {
    if (!candidate?.candidate) return;
    const { type, protocol, relayProtocol, url } = candidate;
    happened('ice_candidate', { type, protocol, relay_protocol: relayProtocol, url });
  });
  on(pc, 'icecandidateerror', ({ url, errorCode, errorText }) =>
    happened('ice_candidate_error', { url, code: errorCode, text: errorText }));
  on(pc, 'track', ({ track }) => {
    happened('track', { kind: track.kind });
    on(track, 'unmute', () => happened('media', { kind: track.kind }));
  });
  on(globalThis, 'pagehide', () => end('pagehide'));

  async function sample(chosen) {
    let stats;
    try {
      stats = [...(await pc.getStats()).values()];
    } catch {
      return;
    }
    const pairId = stats.find((one) => one.type === 'transport')?.selectedCandidatePairId;
    const pair = stats.find((one) => one.id === pairId) ?? stats.find((one) => one.nominated && one.state === 'succeeded');
    const end = (id) => stats.find((one) => one.id === id) ?? {};
    const local = end(pair?.localCandidateId);
    const rtt = pair?.currentRoundTripTime * 1000 || undefined;
    if (chosen && pair) {
      happened('candidate_pair', {
        local: local.candidateType,
        remote: end(pair.remoteCandidateId).candidateType,
        protocol: local.protocol,
        relay_protocol: local.relayProtocol,
        round_trip_ms: rtt,
      });
    }
    const heard = stats.find((one) => one.type === 'inbound-rtp' && one.kind === 'audio') ?? {};
    Object.assign(attributes, {
      'webrtc.round_trip_ms': rtt,
      'webrtc.audio.packets_received': heard.packetsReceived,
      'webrtc.audio.packets_lost': heard.packetsLost,
      'webrtc.audio.jitter_ms': heard.jitter * 1000 || undefined,
      'webrtc.audio.concealed_samples': heard.concealedSamples,
    });
  }
  const sampling = setInterval(sample, SAMPLE_MS);

  function end(endedBy = 'end', more = {}) {
    if (ended) return;
    ended = true;
    clearInterval(sampling);
    stopping.abort();
    const gathering = first['ice_gathering_stategathering'];
    const span = {
      traceId,
      spanId,
      parentSpanId,
      flags: parseInt(flags, 16),
      name: 'webrtc.peer_connection',
      kind: 1,
      startTimeUnixNano: first.start,
      endTimeUnixNano: now(),
      attributes: listed({
        ...attributes,
        'webrtc.gathering_ms': since(gathering, first['ice_gathering_statecomplete']),
        'webrtc.stun_ms': since(gathering, first['ice_candidatesrflx']),
        'webrtc.turn_ms': since(gathering, first['ice_candidaterelay']),
        'webrtc.connected_ms': since(first.start, first['connection_stateconnected']),
        'webrtc.media_ms': since(first.start, first.media),
        'webrtc.ended_by': endedBy,
        ...more,
      }),
      events,
      droppedEventsCount: omitted,
      status: failed ? { code: 2, message: failed } : {},
    };
    const resource = { attributes: listed({ 'service.name': serviceName }) };
    const body = JSON.stringify({ resourceSpans: [{ resource, scopeSpans: [{ scope: { name: 'grafter-propagation' }, spans: [span] }] }] });
    // keepalive: it goes out although the page is gone.
    fetch(`${endpoint}/v1/traces`, {
      method: 'POST',
      body,
      headers: { 'content-type': 'application/json', ...headers },
      keepalive: body.length < 60000,
    }).catch(() => {});
  }

  // close() tells nobody, and afterwards nothing can be asked.
  const close = pc.close.bind(pc);
  pc.close = () => {
    end('close');
    close();
  };
  return { traceparent: `00-${traceId}-${spanId}-${flags}`, end: (more) => end('end', more) };
}
