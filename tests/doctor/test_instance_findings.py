"""What is found in a grafter, from its counters; a grafter that does its work has none."""

import pytest

from grafter.core.model import Source
from grafter.doctor.answers import instance_answer
from grafter.doctor.instance_findings import examine_instance
from grafter.doctor.model import Instance, Weight
from grafter.receiver.examining import Examiner, closed_endpoints
from grafter.receiver.explaining import Explainer
from grafter.telemetry import Metrics
from tests.rig import Peer, recorded_call, recorded_guest, rig

Sample = tuple[dict[str, str], float]


def instance(alone: bool = True, **counted: list[Sample]) -> Instance:
    return Instance({f"grafter_{name}": samples for name, samples in counted.items()}, alone=alone)


OTLP: Sample = ({"receiver": "otlp", "transport": "grpc"}, 40)
ITEMS: Sample = ({"source": "sdk", "kind": "span"}, 7)
HEALTHY: dict[str, list[Sample]] = {
    "receiver_accepted_spans": [OTLP],
    "guest_items": [ITEMS],
    "released_traces": [({"reason": "complete"}, 3)],
    "exporter_up": [({"exporter": "honeycomb"}, 1)],
    "exporter_failed_spans": [({"exporter": "honeycomb"}, 12)],
    "expected_guests": [({"source": "sdk", "outcome": "joined"}, 3)],
    "wall_clock_ahead_seconds": [({}, 0.2)],
    "store_up": [({}, 1)],
}


def test_a_grafter_that_does_its_work_has_no_findings() -> None:
    """Attempts that failed and were made again are none either."""
    assert examine_instance(instance(**HEALTHY)) == []
    assert instance_answer([])["lines"] == ["no fault found"]


@pytest.mark.parametrize(
    ("counted", "code", "weight"),
    [
        ({"receiver_accepted_spans": []}, "app_silent", Weight.FAULT),
        ({"guest_items": []}, "openai_silent", Weight.DOUBT),
        ({"receiver_accepted_spans": [], "guest_items": []}, "silent", Weight.NOTE),
        ({"receiver_refused_spans": [({"reason": "invalid_id"}, 2)]}, "spans_refused", Weight.FAULT),
        ({"receiver_refused_spans": [({"reason": "store_full"}, 2)]}, "spans_refused", Weight.DOUBT),
        (
            {"receiver_requests": [({"transport": "webhook", "outcome": "unsigned"}, 1)]},
            "requests_unsigned",
            Weight.DOUBT,
        ),
        (
            {"receiver_requests": [({"transport": "grpc", "outcome": "unauthenticated"}, 1)]},
            "requests_unauthenticated",
            Weight.DOUBT,
        ),
        ({"unlinked_guests": [({"reason": "unlinked"}, 2)]}, "openai_unlinked", Weight.FAULT),
        ({"expected_guests": [({"outcome": "never"}, 2)]}, "openai_never_came", Weight.FAULT),
        ({"released_traces": [({"reason": "idle"}, 2)]}, "never_ended", Weight.FAULT),
        (
            {"released_traces": [({"reason": "idle"}, 2), ({"reason": "complete"}, 1)]},
            "never_ended",
            Weight.DOUBT,
        ),
        ({"guest_items": [({"source": "sdk", "kind": "trace"}, 2)]}, "sdk_never_ended", Weight.DOUBT),
        ({"exporter_up": [({"exporter": "honeycomb"}, 0)]}, "exporter_down", Weight.FAULT),
        ({"exporter_rejected_spans": [({"exporter": "honeycomb"}, 3)]}, "spans_rejected", Weight.FAULT),
        ({"dead_letter_spans": [({"exporter": "honeycomb"}, 3)]}, "dead_letters", Weight.FAULT),
        ({"dropped_spans": [({"reason": "host_missing"}, 3)]}, "spans_dropped", Weight.FAULT),
        ({"calls_dropped": [({"reason": "full"}, 3)]}, "calls_dropped", Weight.FAULT),
        ({"session_looks": [({"outcome": "no_key"}, 1)]}, "sessions_no_key", Weight.FAULT),
        ({"session_looks": [({"outcome": "unauthorized"}, 1)]}, "sessions_unauthorized", Weight.FAULT),
        ({"webhook_events": [({"kind": "not_recorded"}, 1)]}, "not_recorded", Weight.FAULT),
        ({"store_up": [({}, 0)]}, "store_down", Weight.FAULT),
        ({"wall_clock_ahead_seconds": [({}, -90.0)]}, "clock_jumped", Weight.NOTE),
    ],
)
def test_each_trouble_is_found_alone(counted: dict[str, list[Sample]], code: str, weight: Weight) -> None:
    """By what was counted, and with a page to read."""
    (finding,) = examine_instance(instance(**{**HEALTHY, **counted}))
    assert (finding.code, finding.weight) == (code, weight)
    assert finding.page.startswith("docs/")


def test_silence_means_nothing_where_others_listen_too() -> None:
    """Several workers or replicas: what this one did not get another one may have."""
    assert examine_instance(instance(alone=False)) == []


def test_a_store_that_is_nearly_full_or_cannot_read_is_said() -> None:
    """And doors that are closed come with their keys."""
    full = Instance(HEALTHY_INSTANCE, held_bytes=95, limit_bytes=100, unreadable=2)
    assert [finding.code for finding in examine_instance(full)] == ["store_full", "unreadable"]
    closed = Instance(HEALTHY_INSTANCE, closed=[("localhost:4317", "receivers.otlp.protocols.grpc.endpoint")])
    (finding,) = examine_instance(closed)
    assert finding.sentence == "nobody listens at localhost:4317, which is receivers.otlp.protocols.grpc.endpoint"


HEALTHY_INSTANCE = instance(**HEALTHY).counted


def test_what_a_command_says_of_doors_has_a_shape() -> None:
    """Anything else is refused."""
    assert closed_endpoints([["localhost:1", "a.b"]]) == [("localhost:1", "a.b")]
    for odd in ([1], [["a"]], [["a", 1]], [["a" * 301, "b"]]):
        with pytest.raises(ValueError, match="expected pairs"):
            closed_endpoints(odd)


async def test_the_counters_are_those_that_grafter_has() -> None:
    """Every metric and label that a finding reads is one; a call that joined leaves no finding."""
    async with rig(Peer()) as r:
        await r.host(recorded_call())
        for request in recorded_guest("py_runner_chat_completions"):
            await r.guest(request)
        await r.pass_time(20)
        # What the doors would have counted.
        r.metrics.accepted_spans.labels("otlp", "grpc").inc(8)
        r.metrics.guest_items.labels(Source.SDK.value, "span").inc(5)
        answer = await Examiner(Explainer(r.store, r.policy, lambda: r.now[0]), r.metrics).instance()
    assert answer["findings"] == []
    names = {metric.name for metric in Metrics().registry.collect()}
    assert {name for name in read_names() if name not in names} == {"grafter_dead_letter_spans", "grafter_store_up"}


def read_names() -> set[str]:
    """What the findings ask for."""
    asked: set[str] = set()

    class Asked(dict[str, list[Sample]]):
        def get(self, name: str, default: object = None) -> list[Sample]:  # type: ignore[override]
            asked.add(name)
            return []

    examine_instance(Instance(Asked()))
    return asked
