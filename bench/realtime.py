"""``python -m bench.realtime``: events a second that one core takes from a Realtime socket, and posted ones."""

import base64
import os
import statistics
import sys
import time
from collections.abc import Callable

import orjson

from bench.workload import START
from grafter.core.model import UnixNano
from grafter.core.policy import GraftPolicy
from grafter.guests.realtime.event_buffer import EventBuffer
from grafter.guests.realtime.intake import read_posts
from grafter.guests.realtime.stored_event import Side

EVENTS, ROUNDS = 20_000, 5
LIMIT = 200_000
"""Audio deltas a second that grafter is held to."""
# A tenth of a second of a phone line's audio, and of what a browser gets.
SIZES = {"G.711": 800, "PCM16": 4_800}


def delta(number: int, size: int) -> str:
    """An audio delta as it stands on the socket."""
    event = {
        "type": "response.output_audio.delta",
        "event_id": f"event_{number:020d}",
        "response_id": "resp_0123456789abcdef",
        "item_id": "item_0123456789abcdef",
        "output_index": 0,
        "content_index": 0,
        "delta": base64.b64encode(os.urandom(size)).decode(),
    }
    return orjson.dumps(event).decode()


def done(number: int) -> dict[str, object]:
    """The end of a response."""
    usage = {"total_tokens": 300, "input_tokens": 200, "output_tokens": 100}
    response = {"id": f"resp_{number}", "status": "completed", "usage": usage, "output": []}
    return {"type": "response.done", "event_id": f"event_{number:020d}", "response": response}


def rate(events: int, work: Callable[[], object]) -> float:
    """Events a second, the median of a few rounds."""
    seconds = []
    for _ in range(ROUNDS):
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return events / statistics.median(seconds)


def main() -> None:
    """Measure both ways in; exit 1 when audio deltas from a socket are slower than the limit."""
    policy = GraftPolicy()
    slow = False
    for name, size in SIZES.items():
        raw = [delta(number, size) for number in range(EVENTS)]

        def gather(raw: list[str] = raw) -> None:
            buffer = EventBuffer("rtc_bench", policy)
            for number, event in enumerate(raw):
                buffer.add(event, UnixNano(START + number), Side.SERVER)

        found = rate(EVENTS, gather)
        slow |= found < LIMIT
        print(f"audio deltas from a socket, {name:6} {found:10,.0f} a second (at least {LIMIT:,})")
    entries = [{"at": START / 1e9 + number, "from": "server", "event": done(number)} for number in range(EVENTS)]
    for a_post in (100, EVENTS):
        bodies = [
            orjson.dumps({"call": "rtc_bench", "events": entries[first : first + a_post]})
            for first in range(0, EVENTS, a_post)
        ]

        def post(bodies: list[bytes] = bodies) -> None:
            for body in bodies:
                read_posts(body, False, policy, UnixNano(START + 10**18))

        print(f"posted ends of responses, {a_post:6,} a post {rate(EVENTS, post):10,.0f} a second")
    sys.exit(int(slow))


if __name__ == "__main__":
    main()
