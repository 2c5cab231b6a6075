"""The steps of a host that has left, by the ids that a guest knows them by: what a late guest is matched with.

It is part of a trace's memory. Ids alone are kept, of tools and of model calls that said what was used, since nothing
else is needed to say, on the guest's side, what stands there already.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from grafter.core.model import SpanId

STEPS_LIMIT = 1_000
"""Tools, and model calls, kept of one host trace; the ids of longer calls than any are cut at their first."""

_LONGEST_ID = 256


@dataclass(frozen=True, slots=True)
class StepIndex:
    """The host spans that left and by which a guest that comes later knows its own steps again."""

    tools: Mapping[str, SpanId] = field(default_factory=dict)
    """By the id of the tool call."""
    responses: Mapping[str, SpanId] = field(default_factory=dict)
    """By the id of the model's response, where they say what was used."""

    @classmethod
    def of(cls, tools: Mapping[str, SpanId], responses: Mapping[str, SpanId]) -> "StepIndex":
        """With no more than may be kept: the last of each."""
        return cls(_kept(tools), _kept(responses))

    @classmethod
    def read(cls, values: Mapping[str, Mapping[str, str]]) -> "StepIndex":
        """What ``values`` made. Raises what reading odd JSON raises: ValueError, TypeError, AttributeError."""
        return cls(_spans(values.get("tools", {})), _spans(values.get("responses", {})))

    def merged(self, later: "StepIndex") -> "StepIndex":
        """With those of spans that left later; the first span of a step stays."""
        if not later:
            return self
        return StepIndex.of({**later.tools, **self.tools}, {**later.responses, **self.responses})

    def values(self) -> dict[str, object]:
        """As JSON values, none where it is empty. A reader that does not know these keys leaves them alone."""
        if not self:
            return {}
        return {"tools": _hex(self.tools), "responses": _hex(self.responses)}

    def __bool__(self) -> bool:
        return bool(self.tools or self.responses)


def _kept(steps: Mapping[str, SpanId]) -> dict[str, SpanId]:
    short = [(step, span_id) for step, span_id in steps.items() if len(step) <= _LONGEST_ID]
    return dict(short[-STEPS_LIMIT:])


def _hex(steps: Mapping[str, SpanId]) -> dict[str, str]:
    return {step: span_id.hex() for step, span_id in steps.items()}


def _spans(steps: Mapping[str, str]) -> dict[str, SpanId]:
    return {step: SpanId(bytes.fromhex(span_id)) for step, span_id in steps.items()}
