"""What leaves of a plain batch: the same as ``assemble`` makes of each trace alone, for a third of the cost.

Whoever exports wants the payloads by envelope, and whoever settles the memories; the traces one by one are wanted only
when something went wrong, and are made then.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import overload

from grafter.consumer import Batch, OutTrace, Piece
from grafter.core.lifecycle import ReleaseReason
from grafter.core.memory import ID_BYTES
from grafter.core.memory_blobs import PlainMemories
from grafter.core.model import Envelope, Key, UnixNano
from grafter.otlp.build import LargeEnvelopes
from grafter.otlp.frames import first_of
from grafter.otlp.shallow_pb2 import Head
from grafter.processor.release_result import Assembled, Work
from grafter.store.model import Claim, Memory, Plain, PlainBatch, StoredPart

# An IntFlag's own operators make a member each time.
_ROOT = int(Facts.ROOT)


class PlainTraces(Sequence[OutTrace]):
    """What leaves of a plain batch, trace by trace, made when somebody looks: mostly nobody does."""

    def __init__(self, keys: Sequence[Key], parts: Sequence[Plain]) -> None:
        self._keys = keys
        self._parts = parts

    @property
    def parts(self) -> Sequence[Plain]:
        return self._parts

    def __len__(self) -> int:
        return len(self._keys)

    @overload
    def __getitem__(self, at: int) -> OutTrace: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[OutTrace]: ...
    def __getitem__(self, at: int | slice) -> OutTrace | Sequence[OutTrace]:
        if isinstance(at, slice):
            return PlainTraces(self._keys[at], self._parts[at])
        payloads, envelopes, ids, _ = self._parts[at]
        pieces = [
            Piece(envelope, payload, len(own) // ID_BYTES)
            for payload, envelope, own in zip(payloads, envelopes, ids, strict=True)
        ]
        return OutTrace(self._keys[at], tuple(pieces), sum(piece.spans for piece in pieces))


@dataclass(slots=True)
class PlainRelease:
    """What leaves of a plain batch, and what is remembered of each of its traces."""

    claims: PlainBatch
    traces: PlainTraces
    spans: int
    size: int
    runs: Sequence[tuple[Envelope, Sequence[bytes]]] = ()
    """All payloads, by envelope."""
    blobs: list[bytes] = field(default_factory=list)
    """The memory of each trace."""
    merged: int = 0
    """Spans that came more than once."""

    def batch(self) -> Batch:
        return Batch(self.traces, self.spans, self.size, self.runs)

    def without_repeats(self, payloads: list[bytes], envelopes: list[Envelope], ids: list[bytes], root: int) -> int:
        """Leave one of each equal part of a trace in its lists; where the root's part stands then."""
        first: dict[tuple[bytes, Envelope], int] = {}
        for i, identity in enumerate(zip(payloads, envelopes, strict=True)):
            if first.setdefault(identity, i) != i:
                self.merged += len(ids[i]) // ID_BYTES
                self.size -= len(payloads[i])
        kept = sorted(first.values())
        # No part before the first with a root equals it, so it is among those that are kept.
        payloads[:] = [payloads[i] for i in kept]
        envelopes[:] = [envelopes[i] for i in kept]
        ids[:] = [ids[i] for i in kept]
        return kept.index(root)

    def work(self, at: int, claim: Claim) -> Work:
        """One of the traces as if it had been claimed and assembled alone; ``claim``: what the batch's split gave."""
        trace = self.traces[at]
        size = sum(len(piece.payload) for piece in trace.pieces)
        merged = self.claims.counts[at] - trace.spans
        assembled = Assembled(trace, size, (Memory(trace.key, self.blobs[at]),), merged)
        return Work(claim, ReleaseReason.COMPLETE, assembled)


def assemble_plain(claims: PlainBatch, parts: Sequence[Plain], now: UnixNano) -> PlainRelease:
    """What leaves of a plain batch: nothing is decoded but the heads of the roots."""
    memories = PlainMemories(ReleaseReason.COMPLETE, now)
    out = PlainRelease(claims, PlainTraces(claims.keys, parts), claims.spans, claims.size)
    blobs = out.blobs
    runs: dict[int, tuple[Envelope, list[bytes]]] = {}
    for payloads, envelopes, ids, root in parts:
        # By the span ids, which are short: parts that repeat a request have the same ones.
        if len(ids) > 1 and len(set(ids)) < len(ids):
            root = out.without_repeats(payloads, envelopes, ids, root)
            # A part that came with the same ids and other bytes leaves too; its ids are remembered once.
            ids = list(dict.fromkeys(ids))
        resource = envelopes[root].resource
        head = Head.FromString(first_of(payloads[root]))
        state = head.trace_state and head.trace_state.decode("utf-8", "replace").encode()
        blobs.append(memories.encode(head.span_id, head.flags, state, resource, b"".join(ids)))
        for payload, envelope in zip(payloads, envelopes, strict=True):
            run = runs.get(id(envelope))
            if run is None:
                run = runs[id(envelope)] = (envelope, [])
            run[1].append(payload)
    out.runs = list(runs.values())
    if large := LargeEnvelopes().add([envelope for envelope, _ in out.runs]):
        out.size = large + sum([sum(map(len, payloads)) for _, payloads in out.runs])
    out.spans -= out.merged
    return out
