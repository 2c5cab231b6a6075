"""The steps of a host that has left, by the ids that a guest knows them by: what a late guest is matched with.

It is part of a trace's memory. Of tools, and of model calls that said what was used, their ids are kept, by which the
guest's side says what stands there already; and when they were, which bounds a late guest's clock.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from grafter.core.model import SpanId, UnixNano

STEPS_LIMIT = 1_000
"""Tools, and model calls, kept of one host trace; the ids of longer calls than any are cut at their first."""

_LONGEST_ID = 256


@dataclass(frozen=True, slots=True)
class StepTime:
    """When a step was that has left, and by whose clock."""

    start: UnixNano
    end: UnixNano
    runs: bool
    """Its span describes the step, and does not only name its id."""
    clock: str
    """``clock_of`` its resource."""


def clock_of(resource: bytes) -> str:
    """A short name of a resource, by which spans of one clock are known."""
    return sha256(resource).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class StepIndex:
    """The host spans that left and by which a guest that comes later knows its own steps again."""

    tools: Mapping[str, SpanId] = field(default_factory=dict)
    """By the id of the tool call."""
    responses: Mapping[str, SpanId] = field(default_factory=dict)
    """By the id of the model's response, where they say what was used."""
    times: Mapping[SpanId, StepTime] = field(default_factory=dict)
    """Of those spans; none where an earlier version kept them."""

    @classmethod
    def of(
        cls,
        tools: Mapping[str, SpanId],
        responses: Mapping[str, SpanId],
        times: Mapping[SpanId, StepTime] | None = None,
    ) -> "StepIndex":
        """With no more than may be kept: the last of each."""
        tools, responses = _kept(tools), _kept(responses)
        known = times or {}
        kept = dict.fromkeys((*tools.values(), *responses.values()))
        return cls(tools, responses, {span_id: known[span_id] for span_id in kept if span_id in known})

    @classmethod
    def read(cls, values: Mapping[str, Mapping[str, str]]) -> "StepIndex":
        """What ``values`` made. Raises what reading odd JSON raises: ValueError, TypeError, AttributeError."""
        times = _times(values.get("times", {}))
        return cls(_spans(values.get("tools", {})), _spans(values.get("responses", {})), times)

    def merged(self, later: "StepIndex") -> "StepIndex":
        """With those of spans that left later; the first span of a step stays."""
        if not later:
            return self
        times = {**later.times, **self.times}
        return StepIndex.of({**later.tools, **self.tools}, {**later.responses, **self.responses}, times)

    def values(self) -> dict[str, object]:
        """As JSON values, none where it is empty. A reader that does not know these keys leaves them alone."""
        if not self:
            return {}
        times = {span_id.hex(): [time.start, time.end, time.runs, time.clock] for span_id, time in self.times.items()}
        return {"tools": _hex(self.tools), "responses": _hex(self.responses)} | ({"times": times} if times else {})

    def __bool__(self) -> bool:
        return bool(self.tools or self.responses)


def _kept(steps: Mapping[str, SpanId]) -> dict[str, SpanId]:
    short = [(step, span_id) for step, span_id in steps.items() if len(step) <= _LONGEST_ID]
    return dict(short[-STEPS_LIMIT:])


def _hex(steps: Mapping[str, SpanId]) -> dict[str, str]:
    return {step: span_id.hex() for step, span_id in steps.items()}


def _spans(steps: Mapping[str, str]) -> dict[str, SpanId]:
    return {step: SpanId(bytes.fromhex(span_id)) for step, span_id in steps.items()}


def _times(rows: Mapping[str, Any]) -> dict[SpanId, StepTime]:
    return {
        SpanId(bytes.fromhex(span_id)): StepTime(UnixNano(int(start)), UnixNano(int(end)), bool(runs), str(clock))
        for span_id, (start, end, runs, clock) in rows.items()
    }
