// The worker at the edge, in front of the gateway: no SDK runs here, so a span is begun and ended by hand.

import { inject } from 'grafter-propagation/context.mjs';
import { beginSpan, endSpan } from 'grafter-propagation/edge.mjs';

import helper from './webrtc.mjs.txt';

export default {
  async fetch(request, env, context) {
    const { pathname } = new URL(request.url);
    if (pathname === '/webrtc.mjs') return new Response(helper, { headers: { 'content-type': 'text/javascript' } });
    const gateway = (headers) => fetch(env.GATEWAY + pathname, { method: request.method, headers, body: request.body });
    if (!pathname.startsWith('/sdp/')) return gateway(request.headers);
    const span = beginSpan('edge', request.headers, { kind: 'server' });
    const answer = await gateway(inject(new Headers(request.headers), span));
    context.waitUntil(endSpan(span, { endpoint: env.OTLP_HTTP, attributes: { 'http.response.status_code': answer.status } }));
    return answer;
  },
};
