// A worker and a Durable Object for a call, as they would be deployed: the upgrade is handed on, the socket hibernates.

import { inject } from 'grafter-propagation/context.mjs';
import { beginSpan, endSpan } from 'grafter-propagation/edge.mjs';

export default {
  async fetch(request, env, context) {
    const span = beginSpan('edge', request.headers, { kind: 'server', attributes: { 'call.id': 'c1' } });
    const call = env.CALLS.get(env.CALLS.idFromName('c1'));
    const answer = await call.fetch(new Request(request, { headers: inject(new Headers(request.headers), span) }));
    context.waitUntil(endSpan(span, { endpoint: env.GRAFTER }));
    return answer;
  },
};

export class Call {
  instance = crypto.randomUUID();

  constructor(state, env) {
    this.state = state;
    this.env = env;
  }

  async fetch(request) {
    if (request.headers.get('upgrade') !== 'websocket') {
      // Another request, and perhaps another process: the call's span is where it was put.
      const taken = await endSpan(await this.state.storage.get('span'), { endpoint: this.env.GRAFTER });
      return new Response(String(taken));
    }
    const span = beginSpan('call', request.headers, { kind: 'server' });
    await this.state.storage.put('span', span);
    const [client, server] = Object.values(new WebSocketPair());
    this.state.acceptWebSocket(server);
    server.serializeAttachment(beginSpan('media', span));
    return new Response(null, { status: 101, webSocket: client });
  }

  async webSocketClose(socket, code) {
    socket.close(code);
  }

  async webSocketMessage(socket, message) {
    const span = socket.deserializeAttachment();
    if (message === 'ask') {
      const tool = beginSpan('tool', span, { kind: 'client' });
      const answer = await fetch(this.env.TOOL, { headers: inject(new Headers(), tool) });
      await endSpan(tool, { endpoint: this.env.GRAFTER, attributes: { 'http.response.status_code': answer.status } });
      socket.send(await answer.text());
    } else if (message === 'end') {
      socket.send(String(await endSpan(span, { endpoint: this.env.GRAFTER, error: new RangeError('too long') })));
    } else {
      socket.send(this.instance);
    }
  }
}
