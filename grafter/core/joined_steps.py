"""The steps of a joined trace, by id and by parent, and what an attribute of theirs is as a number or a word."""

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property

from grafter.core import semconv
from grafter.core.call_latency import Step
from grafter.core.steps import CALL_IDS, MODEL_CALLS, TOOL, TOOL_NAMES

_MOST = 10**15
"""No figure of a call is longer than that, in ns; what says so was not measured."""


class JoinedSteps:
    """A joined trace to look things up in. Equal ids are one step; the one that ends last stands for all."""

    def __init__(self, steps: Iterable[Step]) -> None:
        self.by_id: dict[bytes, Step] = {}
        for step in steps:
            other = self.by_id.setdefault(step.span_id, step)
            if other is not step and (other.end, other.start, other.name) < (step.end, step.start, step.name):
                self.by_id[step.span_id] = step
        self.ordered = sorted(self.by_id.values(), key=lambda one: (one.start, one.span_id))
        """By start, then id."""
        self._nearest: dict[Callable[[Step], bool], dict[bytes, Step | None]] = {}

    @cached_property
    def children(self) -> dict[bytes, list[Step]]:
        """The steps under each id, in their order."""
        found: dict[bytes, list[Step]] = {}
        for step in self.ordered:
            found.setdefault(step.parent, []).append(step)
        return found

    @cached_property
    def by_call(self) -> dict[str, list[Step]]:
        """The steps of each tool call, by its id on the wire."""
        found: dict[str, list[Step]] = {}
        for step in self.ordered:
            for key in CALL_IDS:
                name = step.attributes.get(key)
                if isinstance(name, str):
                    found.setdefault(name, []).append(step)
                    break
        return found

    def under(self, span_id: bytes) -> Iterator[Step]:
        """Everything below it, each once. Circles end nowhere."""
        seen = {span_id}
        open_ = list(self.children.get(span_id, ()))
        while open_:
            step = open_.pop()
            if step.span_id not in seen:
                seen.add(step.span_id)
                yield step
                open_ += self.children.get(step.span_id, ())

    def above(self, step: Step) -> Iterator[Step]:
        """Everything above it, the nearest first."""
        seen = {step.span_id}
        at = self.by_id.get(step.parent)
        while at is not None and at.span_id not in seen:
            seen.add(at.span_id)
            yield at
            at = self.by_id.get(at.parent)

    def nearest(self, step: Step, wanted: Callable[[Step], bool]) -> Step | None:
        """The nearest step above it that is wanted. Asked of all steps it walks each way up once, however deep,
        as long as ``wanted`` is one function and not a new one each time."""
        known = self._nearest.setdefault(wanted, {})
        path: list[bytes] = []
        at, found = step, None
        while at.span_id not in known:
            # What is asked for again on the way is part of a circle.
            known[at.span_id] = None
            path.append(at.span_id)
            above = self.by_id.get(at.parent)
            if above is None:
                break
            if wanted(above):
                found = above
                break
            at = above
        else:
            found = known[at.span_id]
        for span_id in path:
            known[span_id] = found
        return None if found is step else found


def number(step: Step, key: str) -> float | None:
    """A figure that is not negative, in whatever form it is written; None for what is none."""
    value = step.attributes.get(key)
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    return value if isinstance(value, int | float) and 0 <= value < _MOST else None


def moment(step: Step, key: str) -> int | None:
    """Unix nanoseconds, exactly."""
    value = step.attributes.get(key)
    if type(value) is int:
        return value if value >= 0 else None
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        return int(value)
    return None


def nanoseconds(step: Step, key: str, unit: int) -> int | None:
    """A figure in ns; ``unit``: what one of it is in ns."""
    if key not in step.attributes:
        return None
    value = number(step, key)
    return None if value is None or value * unit >= _MOST else round(value * unit)


def word(step: Step, *keys: str) -> str:
    """The first of these attributes that is a text; empty where none is."""
    attributes = step.attributes
    for key in keys:
        value = attributes.get(key)
        if value and isinstance(value, str):
            return value
    return ""


def is_model_call(step: Step) -> bool:
    operation = step.attributes.get(semconv.GEN_AI_OPERATION_NAME)
    if operation is None:
        return step.attributes.get("openinference.span.kind") == "LLM"
    return operation in MODEL_CALLS


def is_tool(step: Step) -> bool:
    return step.attributes.get(semconv.GEN_AI_OPERATION_NAME) == TOOL


def tool_name(step: Step) -> str:
    return word(step, *TOOL_NAMES)


def is_guests(step: Step) -> bool:
    """It came from OpenAI's side of the joined trace."""
    attributes = step.attributes
    return semconv.GRAFTER_GUEST_SPAN_ID in attributes or semconv.AGENTS_SPAN_ID in attributes
