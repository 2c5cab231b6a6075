"""``python -m bench.page``: what the page of a long call costs: an hour, 360 turns with a tool each, over 10,000 spans.

CPU time from the trace as it is kept to the HTML that a browser gets: reading the spans, working out what is shown, and
printing it. ``--profile`` shows where it goes.
"""

import argparse
import cProfile
import pstats
import statistics
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from bench.turns import NOW, stored
from grafter.calls.merge import Call, row
from grafter.calls.model import CallRecord, Origin
from grafter.core.lifecycle import ReleaseReason
from grafter.core.model import Key
from grafter.core.policy import GraftPolicy
from grafter.otlp import build
from grafter.otlp.reading import read_spans
from grafter.processor.assembling import Assembler
from grafter.web.access import Viewer
from grafter.web.call_view import PageQuery, call_view
from grafter.web.pages import call_page
from grafter.web.redaction import Sight
from tests.guests.realtime.hand import TRACE

T = TypeVar("T")
TURNS, INSIDE, ROUNDS = 360, 20, 7
LIMIT_SECONDS = 2.0
"""To the first paint, all of it together."""


def document() -> bytes:
    """The call as it is kept: joined, as it left."""
    policy = GraftPolicy()
    state, held = stored(policy, TURNS, INSIDE)
    out = Assembler(policy, "bench").host(Key(bytes.fromhex(TRACE)), state, held, ReleaseReason.COMPLETE, NOW, {})
    assert out.trace is not None
    return build.request([out.trace])


def main() -> None:
    """Show it several times; exit 1 when that takes longer than the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    kept = [document()]
    call = row(Call((CallRecord("bench", Origin.RELEASE, NOW, traces=(bytes.fromhex(TRACE),)),)), NOW)
    rounds: dict[str, list[float]] = {}

    def timed(what: str, work: Callable[[], T]) -> T:
        began = time.process_time()
        try:
            return work()
        finally:
            rounds.setdefault(what, []).append(time.process_time() - began)

    def once() -> tuple[int, int]:
        spans = timed("the spans are read", lambda: list(read_spans(kept)))
        view = timed("what is shown", lambda: call_view(call, spans, {}, Sight(), PageQuery(), {}, NOW))
        page = timed("the page", lambda: call_page(view, "0", csrf="", viewer=Viewer("", frozenset(), "")))
        return len(spans), len(page)

    once()
    rounds.clear()
    profile = cProfile.Profile()
    for _ in range(1 if options.profile else ROUNDS):
        if options.profile:
            profile.enable()
        count, size = timed("all of it", once)
        profile.disable()
    if options.profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)
    print(f"the page of a call of {TURNS} turns, {count:,} spans, {size / 1024:.0f} KiB of HTML, ms of CPU:")
    for what, times in rounds.items():
        limit = f"  (at most {LIMIT_SECONDS * 1000:.0f})" if what == "all of it" else ""
        told = f"{statistics.median(times) * 1000:7.1f}  ({min(times) * 1000:.1f} to {max(times) * 1000:.1f})"
        print(f"  {what:20} {told}{limit}")
    sys.exit(int(statistics.median(rounds["all of it"]) > LIMIT_SECONDS))


if __name__ == "__main__":
    main()
