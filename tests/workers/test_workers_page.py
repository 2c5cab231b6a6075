"""Counters of several processes as one page: written by real processes, some of which die."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from grafter.telemetry import Held, HeldFor, Metrics
from grafter.workers.page import Page, Seen

COUNTING = """
import os, signal, sys
from grafter.workers.child import count_into
count_into(sys.argv[1], int(sys.argv[2]))
from grafter.telemetry import Metrics
metrics = Metrics()
metrics.accepted_spans.labels("otlp", "grpc").inc(int(sys.argv[3]))
metrics.receiver_seconds.labels("otlp").observe(0.002)
metrics.recorders.set(int(sys.argv[3]))
os.kill(os.getpid(), signal.SIGKILL)
"""
"""A worker that counts, and dies without a chance to write anything down."""


def count(directory: Path, number: int, spans: int) -> None:
    """One life of a worker."""
    done = subprocess.run([sys.executable, "-c", COUNTING, str(directory), str(number), str(spans)], check=False)
    assert done.returncode == -signal.SIGKILL


def read(page: Page) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Value by name and labels; each may stand there once."""
    samples = [sample for family in text_string_to_metric_families(page.text().decode()) for sample in family.samples]
    found = {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in samples}
    assert len(found) == len(samples)
    return found


def test_counters_add_up_over_workers_and_lives(tmp_path: Path) -> None:
    """The dead count for ever, those that take their place count on; gauges are those of the living."""
    page = Page(tmp_path, lambda: Seen(0, 0, None, (), 0.0))
    accepted = ("grafter_receiver_accepted_spans_total", (("receiver", "otlp"), ("transport", "grpc")))
    count(tmp_path, 0, 5)
    count(tmp_path, 1, 7)
    found = read(page)
    assert found[accepted] == 12
    assert found["grafter_receiver_request_seconds_bucket", (("le", "0.0025"), ("receiver", "otlp"))] == 2
    assert found["grafter_recorders", ()] == 12
    page.forget(1)
    assert read(page)["grafter_recorders", ()] == 5
    count(tmp_path, 1, 100)
    found = read(page)
    assert found[accepted] == 112
    assert found["grafter_recorders", ()] == 105
    # The third life has no file of its own.
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{kind}_{number}.db"
        for kind in ("counter", "histogram", "gauge_livesum", "gauge_livemax")
        for number in (0, 1)
    }


def test_the_page_says_all_that_one_process_says(tmp_path: Path) -> None:
    """No metric of a process alone is missing where several work, and none has another type or meaning."""
    alone = Metrics()
    held = Held(
        traces=1,
        spans=2,
        bytes=3,
        limit_bytes=4,
        disk_bytes=5,
        oldest_seconds=6.0,
        remembered=7,
        remembered_bytes=70,
        store_up=True,
        replicas=[HeldFor(1, 1, 2, 3, 4.0)],
    )
    alone.watch(lambda: held)
    count(tmp_path, 0, 5)
    page = Page(tmp_path, lambda: Seen(2, 1, held, (os.getpid(),), 1.5))
    ours = {family.name: family for family in text_string_to_metric_families(page.text().decode())}
    for metric in alone.registry.collect():
        if metric.samples and not metric.name.endswith("_created"):
            assert (ours[metric.name].type, ours[metric.name].documentation) == (metric.type, metric.documentation)
    found = read(page)
    assert (found["grafter_held_traces", ()], found["grafter_store_up", ()]) == (1, 1)
    assert (found["grafter_workers", ()], found["grafter_worker_restarts_total", ()]) == (2, 1)
    assert found["process_cpu_seconds_total", ()] > 1.5


def test_workers_hold_together_what_each_holds() -> None:
    """Shares add up; what the store as a whole says is said once."""
    shares = [HeldFor(1, 1, 2, 3, 4.0), HeldFor(2, 5, 6, 7, 8.0)]
    first = Held(
        traces=1,
        spans=2,
        bytes=3,
        limit_bytes=10,
        disk_bytes=10,
        oldest_seconds=4.0,
        remembered=7,
        store_up=True,
        unreadable=0,
        taken_over_spans=1,
        handed_over_spans=2,
        replicas=shares,
    )
    second = Held(
        traces=5,
        spans=6,
        bytes=7,
        limit_bytes=10,
        disk_bytes=10,
        oldest_seconds=8.0,
        remembered=7,
        store_up=True,
        unreadable=4,
        taken_over_spans=2,
        handed_over_spans=1,
        replicas=shares,
    )
    assert Held.together([first, second]) == Held(
        traces=6,
        spans=8,
        bytes=10,
        limit_bytes=10,
        disk_bytes=10,
        oldest_seconds=8.0,
        remembered=7,
        store_up=True,
        unreadable=4,
        taken_over_spans=3,
        handed_over_spans=3,
        replicas=shares,
    )


def test_no_gauge_would_be_split_by_process() -> None:
    """A gauge that does not say how workers add up would come out once for each process id."""
    from prometheus_client import Gauge

    gauges = [one for one in vars(Metrics()).values() if isinstance(one, Gauge)]
    assert gauges
    assert {gauge._multiprocess_mode for gauge in gauges} <= {"livesum", "livemax", "livemin"}
