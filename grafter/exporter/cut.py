"""Making less of what a peer does not take whole: batches into fewer traces, a trace into runs of its spans."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from grafter.consumer import OutTrace, Piece
from grafter.otlp.build import LargeEnvelopes
from grafter.otlp.frames import run_of, spans_of


@dataclass(frozen=True, slots=True)
class Limits:
    """What one peer is sent at a time."""

    num_consumers: int = 4
    """Requests on their way at once."""
    batch_spans: int = 4000
    batch_bytes: int = 3 << 20
    """Past these a batch goes in several requests, before compression; a larger trace goes alone."""
    # The limit that OTLP recommends to servers: specification, "Request size limits".
    request_bytes: int = 64 << 20
    """A single trace larger than this is cut at a span boundary."""


Group = list[tuple[int, OutTrace]]
"""Traces, or parts of them, that go in one request, each with its trace's place in the batch."""


def packed(group: Group, spans: int, size: int) -> list[Group]:
    """Groups within these limits, in the same order; a trace beyond them stands alone."""
    groups: list[Group] = []
    spans_left = bytes_left = -1
    large = LargeEnvelopes()
    for index, trace in group:
        own = size_of(trace)
        trace_size = own + large.add_trace(trace)
        if trace.spans > spans_left or trace_size > bytes_left:
            groups.append([])
            spans_left, bytes_left = spans, size
            large = LargeEnvelopes()
            trace_size = own + large.add_trace(trace)
        groups[-1].append((index, trace))
        spans_left -= trace.spans
        bytes_left -= trace_size
    return groups


def halved(group: Group, *, within_trace: bool) -> list[Group] | None:
    """Two groups, the second half first, so that the last of a stack of work goes first.

    None when the group is one trace and that is not to be cut, or one span.
    """
    if len(group) > 1:
        middle = len(group) // 2
        return [group[middle:], group[:middle]]
    if not within_trace:
        return None
    index, trace = group[0]
    parts = _parts(trace)
    return None if parts is None else [[(index, parts[1])], [(index, parts[0])]]


def parted(group: Group, fresh: Callable[[OutTrace], bool]) -> tuple[Group, Group]:
    """The group of several traces as all but one, and that one: of the fresh ones, where there are any, the middle."""
    places = [i for i, (_, trace) in enumerate(group) if fresh(trace)] or range(len(group))
    at = places[len(places) // 2]
    return [*group[:at], *group[at + 1 :]], [group[at]]


def size_of(trace: OutTrace) -> int:
    """Bytes of the trace's spans."""
    return sum(len(piece.payload) for piece in trace.pieces)


def weight_of(trace: OutTrace) -> int:
    """Bytes of a request with the trace alone, about."""
    return size_of(trace) + LargeEnvelopes().add_trace(trace)


def _parts(trace: OutTrace) -> tuple[OutTrace, OutTrace] | None:
    """The trace as two of about half the bytes, each with one span at least; None when it has only one."""
    half = size_of(trace) // 2
    pieces = trace.pieces
    if len(pieces) > 1:
        before, at = len(pieces[0].payload), 1
        while at < len(pieces) - 1 and before + len(pieces[at].payload) <= half:
            before += len(pieces[at].payload)
            at += 1
        # Cutting between pieces is free; only a piece that outweighs all the others must be opened.
        heaviest = max(range(len(pieces)), key=lambda i: len(pieces[i].payload))
        if len(pieces[heaviest].payload) <= half or pieces[heaviest].spans <= 1:
            return _traces(trace, pieces[:at], pieces[at:])
        first, second = _opened(pieces[heaviest])
        return _traces(trace, (*pieces[:heaviest], first), (second, *pieces[heaviest + 1 :]))
    if not pieces or pieces[0].spans <= 1:
        return None
    first, second = _opened(pieces[0])
    return _traces(trace, (first,), (second,))


def _opened(piece: Piece) -> tuple[Piece, Piece]:
    """A piece of several spans as two, cut about the middle of its bytes."""
    spans = list(spans_of(piece.payload))
    half = len(piece.payload) // 2
    at, before = 1, len(spans[0])
    while at < len(spans) - 1 and before < half:
        before += len(spans[at])
        at += 1
    return (
        Piece(piece.envelope, run_of(spans[:at]), at),
        Piece(piece.envelope, run_of(spans[at:]), len(spans) - at),
    )


def _traces(trace: OutTrace, first: Sequence[Piece], second: Sequence[Piece]) -> tuple[OutTrace, OutTrace]:
    return (
        replace(trace, pieces=tuple(first), spans=sum(p.spans for p in first)),
        replace(trace, pieces=tuple(second), spans=sum(p.spans for p in second)),
    )
