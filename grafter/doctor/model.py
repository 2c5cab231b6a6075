"""What is examined, and what is found: plain data."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from itertools import islice
from typing import Protocol

from grafter.core.call_latency import Scalar, Step


class Spanned(Protocol):
    """A span that has left, with what of it is no matter of time."""

    @property
    def step(self) -> Step: ...
    @property
    def trace_id(self) -> bytes: ...
    @property
    def guest(self) -> bool: ...
    @property
    def links(self) -> tuple[tuple[bytes, bytes], ...]: ...
    @property
    def remote(self) -> bool | None: ...
    @property
    def resource(self) -> Mapping[str, Scalar]: ...
    @property
    def scope(self) -> str: ...


class Weight(StrEnum):
    """How sure a finding is, and how much it matters."""

    FAULT = "fault"
    """Something is lost, and what arrived proves it."""
    DOUBT = "doubt"
    """Something may be lost here; it may be as it should be as well."""
    NOTE = "note"
    """Nothing is lost; worth knowing."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """A span that shows it."""

    role: str
    """What it did: ``sent``, ``received``, ``begins`` and their like."""
    service: str
    span: str
    trace_id: str
    """Hex."""
    span_id: str
    """Hex; empty where only the trace is known."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of code that mends it."""

    where: str
    """``where it is sent``, ``where it is received``, …"""
    language: str
    """``python``, ``js``, ``shell``, ``yaml``."""
    code: str


@dataclass(frozen=True, slots=True)
class Finding:
    code: str
    """What kind of finding it is; stable."""
    weight: Weight
    sentence: str
    hop: str = ""
    """One of ``hops.HOPS``; empty where it is about none."""
    evidence: tuple[Evidence, ...] = ()
    remedy: str = ""
    lines: tuple[Line, ...] = ()
    page: str = ""
    """Of the documents, from the repository's root."""


@dataclass(frozen=True, slots=True)
class Guest:
    """A trace of OpenAI's that has left, by the record that was kept of it."""

    name: str
    source: str
    """``sdk``, ``webhook``, ``sessions``, ``realtime``."""
    trace_id: str
    """Under which it left, hex."""
    joined: bool
    malformed: bool = False
    """It seems to name a trace, in a form that cannot be read."""


_MOST_EVIDENCE = 6
_LONGEST_SILENCE = 30 * 60 * 1_000_000_000
"""A caller on hold leaves no span."""


@dataclass(frozen=True)
class Trace:
    """The spans of one trace id."""

    trace_id: bytes
    spans: Sequence[Spanned]

    @cached_property
    def app(self) -> Sequence[Spanned]:
        """The app's own, by start."""
        return sorted((span for span in self.spans if not span.guest), key=lambda span: span.step.start)

    @cached_property
    def root(self) -> Spanned | None:
        """The app's first span without a parent."""
        return next((span for span in self.app if not span.step.parent), None)

    @property
    def start(self) -> int:
        return self.app[0].step.start

    @cached_property
    def end(self) -> int:
        return max(span.step.end for span in self.app)


@dataclass(frozen=True)
class Call:
    """What is known of one call."""

    query: str
    ids: Mapping[str, str] = field(default_factory=dict)
    """All of its ids, and of what kind each is (``calls.model.CallId``)."""
    spans: Sequence[Spanned] = ()
    """Everything of it that has left and is kept."""
    guests: Sequence[Guest] = ()
    never_came: bool = False
    """A release found an OpenAI session expected, and nothing of it."""
    strays: int = 0
    """OpenAI's traces that were joined with nothing since the start, of whichever call they are."""
    now: int | None = None
    """Unix nanoseconds; None: long after."""
    whole: bool = True
    """``spans`` are all: nothing was too large, and nothing of its traces is still held."""
    is_anchor: Callable[[Step], bool] = field(default=lambda _step: False)

    @cached_property
    def over(self) -> bool:
        """So much time has passed since anything of it ended that nothing of it can still run."""
        return self.now is None or self.now > _LONGEST_SILENCE + max((span.step.end for span in self.spans), default=0)

    @cached_property
    def traces(self) -> Mapping[bytes, Trace]:
        found: dict[bytes, list[Spanned]] = {}
        for span in self.spans:
            found.setdefault(span.trace_id, []).append(span)
        return {trace_id: Trace(trace_id, spans) for trace_id, spans in found.items()}

    @cached_property
    def app_traces(self) -> Sequence[Trace]:
        """Those with spans of the app, by start."""
        return sorted((trace for trace in self.traces.values() if trace.app), key=lambda trace: trace.start)

    @cached_property
    def beneath(self) -> Mapping[bytes, Sequence[Spanned]]:
        """The app's spans by what they go on from: their parent, and what they link to. Nothing stands under no id."""
        found: dict[bytes, list[Spanned]] = {}
        for trace in self.app_traces:
            for span in trace.app:
                for above in {span.step.parent, *(link for _, link in span.links)} - {b""}:
                    found.setdefault(above, []).append(span)
        return found


@dataclass(frozen=True)
class Instance:
    """What a grafter has counted since its start, and what its store holds."""

    counted: Mapping[str, Sequence[tuple[Mapping[str, str], float]]]
    """The samples of each metric, by its name without ``_total``."""
    held_bytes: int = 0
    limit_bytes: int = 0
    unreadable: int = 0
    alone: bool = True
    """No other process takes a part of what is sent to it, so that what it did not get nobody got."""
    closed: Sequence[tuple[str, str]] = ()
    """Endpoints at which nobody listens: address, and the key that names it."""

    def sums(self, metric: str, label: str = "", **wanted: str) -> Mapping[str, float]:
        """What was counted, by the values of a label; those that are 0 left out."""
        found: dict[str, float] = {}
        for labels, value in self.counted.get(metric, ()):
            if value and wanted.items() <= labels.items():
                found[labels.get(label, "")] = found.get(labels.get(label, ""), 0.0) + value
        return found

    def sum(self, metric: str, **wanted: str) -> int:
        return round(sum(self.sums(metric, **wanted).values()))


def count(number: float, what: str) -> str:
    return f"{number:,.0f} {what}{'' if number == 1 else 's'}"


def lost(findings: Iterable[Finding]) -> bool:
    """Whether something is."""
    return any(finding.weight is Weight.FAULT for finding in findings)


def ranked(findings: Iterable[Finding]) -> list[Finding]:
    """Faults first, then doubts."""
    order = list(Weight)
    return sorted(findings, key=lambda finding: order.index(finding.weight))


def evidence(role: str, spans: Iterable[Spanned]) -> tuple[Evidence, ...]:
    """The first of these spans."""
    return tuple(
        Evidence(role, span.step.service, span.step.name, span.trace_id.hex(), span.step.span_id.hex())
        for span in islice(spans, _MOST_EVIDENCE)
    )
