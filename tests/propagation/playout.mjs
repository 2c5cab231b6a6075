// A media server in Node, as test_playout.py has one in Python: Twilio on a WebSocket, OpenAI's events from stdin.
//
//     node playout.mjs DOOR < {"before": [events], "deltas": [events], "after": [events], "speaks": event, "heard": 4}
//
// It prints its port, and ends with the stream.

import { RealtimeTap, TwilioPlayout } from 'grafter-propagation';
import { WebSocketServer } from 'ws';

const [door] = process.argv.slice(2);
let text = '';
for await (const part of process.stdin) text += part;
const given = JSON.parse(text);

const tap = new RealtimeTap(door, 'call_1', { metadata: {}, interval: 10 });
const playout = new TwilioPlayout(tap);
const server = new WebSocketServer({ host: '127.0.0.1', port: 0 });
server.on('listening', () => console.log(server.address().port));
server.on('connection', (twilio) => {
  let marks = 0;
  twilio.on('message', (data, isBinary) => {
    const message = isBinary ? data : data.toString();
    if (playout.received(message)) {
      marks += 1;
      if (marks === given.heard) {
        tap.server(given.speaks);
        tap.client({ type: 'conversation.item.truncate', ...given.cut });
        tap.server({ type: 'conversation.item.truncated', ...given.cut });
        twilio.send(playout.clear());
      }
      return;
    }
    if (JSON.parse(message).event !== 'start') return;
    for (const event of given.before) tap.server(event);
    for (const event of given.deltas) {
      tap.server(event);
      twilio.send(JSON.stringify({ event: 'media', streamSid: playout.stream, media: { payload: event.delta } }));
      const mark = playout.mark(event);
      if (mark) twilio.send(mark);
    }
    for (const event of given.after) tap.server(event);
  });
  twilio.on('close', async () => {
    await tap.close();
    server.close();
  });
});
