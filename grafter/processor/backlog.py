"""What some exporters have and another has not: kept as it left, and sent to that one alone when it takes something.

A batch of a backlog is laid out for the store as host parts: the spans of all its traces by envelope, and as the head
of each part whose those are. So it takes next to nothing of the index, nothing is decoded or joined for it a second
time, and what arrives late is byte for byte what arrived elsewhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct

from grafter.consumer import Batch, OutTrace, Piece
from grafter.core.model import Envelope, Key, Part
from grafter.store.model import StoredPart

_OWNER = Struct("<B17sBII")
"""Before the next spans of a part's payload: length of their trace's key, the key, RESEND or 0, spans, their bytes."""
_RESEND = 1
# A part is read and written as a whole.
_PART_BYTES = 1 << 20


def laid_out(traces: Sequence[OutTrace], *, resend: bool = False) -> list[Part]:
    """The parts of a batch. ``resend``: an attempt has an unknown outcome, whatever the traces say."""
    parts: list[Part] = []
    open_: dict[tuple[bytes, bytes], tuple[Envelope, list[bytes], list[bytes], list[int]]] = {}

    def close(envelope: Envelope, heads: list[bytes], payloads: list[bytes], spans: list[int]) -> None:
        parts.append(Part(Key(b""), b"".join(payloads), sum(spans), envelope, span_ids=b"".join(heads)))

    sizes: dict[tuple[bytes, bytes], int] = {}
    for trace in traces:
        key, flags = bytes(trace.key), _RESEND if resend or trace.resend else 0
        for piece in trace.pieces:
            envelope, size = piece.envelope, len(piece.payload)
            of = (envelope.resource, envelope.scope)
            run = open_.get(of)
            if run is not None and sizes[of] + size > _PART_BYTES:
                close(*open_.pop(of))
                run = None
            if run is None:
                run = open_[of] = (envelope, [], [], [])
                sizes[of] = 0
            sizes[of] += size
            run[1].append(_OWNER.pack(len(key), key, flags, piece.spans, size))
            run[2].append(piece.payload)
            run[3].append(piece.spans)
    for run in open_.values():
        close(*run)
    return parts


@dataclass(slots=True)
class DeferredBatch:
    traces: list[OutTrace]
    runs: list[tuple[Envelope, list[bytes]]] | None
    """All payloads by envelope, where none of the spans has to be marked."""
    spans: int
    size: int


def together(batches: Sequence[DeferredBatch]) -> Batch:
    """Several of them for the exporter, trace by trace in their order."""
    runs: list[tuple[Envelope, list[bytes]]] = []
    for batch in batches:
        runs += batch.runs or ()
    traces = [trace for batch in batches for trace in batch.traces]
    spans, size = sum([batch.spans for batch in batches]), sum([batch.size for batch in batches])
    return Batch(traces, spans, size, runs if all(batch.runs is not None for batch in batches) else None)


def read_back(parts: Sequence[StoredPart], *, resend: bool) -> DeferredBatch:
    """``resend``: the batch was on its way before, with an unknown outcome."""
    pieces: dict[bytes, list[Piece]] = {}
    marked: set[bytes] = set()
    runs: list[tuple[Envelope, list[bytes]]] = []
    for part in parts:
        assert part.envelope is not None
        runs.append((part.envelope, [part.payload]))
        at = 0
        for length, padded, flags, spans, size in _OWNER.iter_unpack(part.span_ids):
            key = padded[:length]
            pieces.setdefault(key, []).append(Piece(part.envelope, part.payload[at : at + size], spans))
            at += size
            if flags & _RESEND:
                marked.add(key)
    traces = [
        OutTrace(Key(key), tuple(own), sum([piece.spans for piece in own]), resend=resend or key in marked)
        for key, own in pieces.items()
    ]
    some_marked = resend or bool(marked)
    spans = sum([part.spans for part in parts])
    return DeferredBatch(traces, None if some_marked else runs, spans, sum([len(part.payload) for part in parts]))
