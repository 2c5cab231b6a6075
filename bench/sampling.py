"""``python -m bench.sampling``: what tail sampling adds to each span, from the door to the exporter.

Traces of 20 spans of 520 bytes, which come in requests of 512 with 64 of them open at a time. Each round plays the same
traces through a store in memory and a processor whose exporter takes everything, once without a policy and once with
each set, so that what else the machine does falls on all of them alike. The figures are CPU time of this process:
first what it takes that each trace is decided about alone, by a set that asks nothing; then what each set adds to that.
"""

import asyncio
import gc
import statistics
import sys
import time
from collections.abc import Mapping, Sequence

from bench.workload import Workload
from grafter.core.model import Part
from grafter.core.policy import GraftPolicy
from grafter.core.sampling.error import Error
from grafter.core.sampling.everything import Drop
from grafter.core.sampling.first_token import FirstToken
from grafter.core.sampling.latency import Latency
from grafter.core.sampling.policies import SamplingPolicy
from grafter.core.sampling.policy import Policy
from grafter.core.sampling.probabilistic import Probabilistic
from grafter.otlp.split import Splitter
from tests.rig import Peer, rig

TRACES, ROUNDS = 1280, 9
LIMIT_US = 1.5
"""For what reads only times and status."""
ALONE = "drop"
_SHARE = Probabilistic("probabilistic", 100)
_NEVER, _ALWAYS = Latency("latency", 60_000), Latency("latency", 1)
SETS: Mapping[str, Sequence[Policy]] = {
    ALONE: [Drop("drop")],
    "error, one of 100": [Error("error"), _SHARE],
    "error, latency, one of 100": [Error("error"), _NEVER, _SHARE],
    "error, first_token, one of 100": [Error("error"), FirstToken("first_token"), _SHARE],
    "error, latency: all is kept": [Error("error"), _ALWAYS, _SHARE],
}
HELD = ("error, one of 100", "error, latency, one of 100")
"""Those that the limit is for."""


async def once(requests: Sequence[Sequence[Part]], policies: Sequence[Policy] | None) -> float:
    """CPU seconds from the first part to the last span that left."""
    async with rig(Peer(), sampling=None if policies is None else SamplingPolicy(policies)) as running:
        gc.collect()
        began = time.process_time()
        for parts in requests:
            await running.processor.consume(parts)
        await running.pass_time(30, step=30)
        took = time.process_time() - began
        assert running.store.stats().spans == 0, "something is still held"
    return took


def main() -> None:
    """Measure each set; exit 1 when one that reads only times and status costs more than the limit."""
    workload, splitter = Workload(512, TRACES), Splitter(GraftPolicy().anchors)
    spans = workload.spans_per_lap
    none: list[float] = []
    took: dict[str, list[float]] = {name: [] for name in SETS}
    for lap in range(ROUNDS):
        requests = [splitter.split(template.request(lap)).parts for template in workload.templates]
        none.append(asyncio.run(once(requests, None)) / spans * 1e6)
        for name, policies in SETS.items():
            took[name].append(asyncio.run(once(requests, policies)) / spans * 1e6)
    print(f"{spans} spans, us a span; of {ROUNDS} rounds the median, and the smallest and largest")
    print(f"  without a policy                  {statistics.median(none):5.2f}")
    slow = False
    for name, times in took.items():
        before = none if name == ALONE else took[ALONE]
        more = [one - other for one, other in zip(times, before, strict=True)]
        median, held = statistics.median(more), name in HELD
        slow |= held and median > LIMIT_US
        limit = f", at most {LIMIT_US}" if held else ""
        print(
            f"  {'each alone' if name == ALONE else name:32} +{median:5.2f} ({min(more):.2f} to {max(more):.2f}{limit})"
        )
    sys.exit(int(slow))


if __name__ == "__main__":
    main()
