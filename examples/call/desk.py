"""One of the agent desk's six services, each a process of its own: ``python desk.py reception``.

A call is handed from one to the next over NATS, and the last answers whoever asked. Messages come from an iterator,
where no instrumentation is: ``received`` takes the sender's place up, ``publish`` hands it on.
"""

import asyncio
import json
import os
import sys
from itertools import pairwise

import nats
import tracing

from grafter_propagation.nats import publish, received

LINE = ("reception", "language", "caller", "hours", "routing", "assistant")
LEARNT = {
    "reception": {"line": "clinic"},
    "language": {"language": "en"},
    "caller": {"patient": "known"},
    "hours": {"open": False},
    "routing": {"to": "assistant"},
    "assistant": {"voice": "marin"},
}


async def main(name: str) -> None:
    tracing.start(f"desk-{name}")
    client = await nats.connect(os.environ["NATS"])
    after = dict(pairwise(LINE)).get(name)
    calls = await client.subscribe(f"desk.{name}", queue=name)
    await client.flush()
    print("ready", flush=True)
    async for message in calls.messages:
        with received(message):
            call = json.dumps(json.loads(message.data) | LEARNT[name]).encode()
            if after:
                await publish(client, f"desk.{after}", call, reply=message.reply)
            else:
                await message.respond(call)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
