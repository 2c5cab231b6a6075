"""What leaves as it came: nothing of it is decoded but the heads of the roots.

A plain batch becomes the same as ``AsItCame`` makes of each of its traces alone, for a third of the cost: whoever
exports wants the payloads by envelope, and whoever settles the memories; the traces one by one are wanted only when
something went wrong, and are made then.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast, overload

from grafter.consumer import Batch, OutTrace, Piece
from grafter.core.lifecycle import ReleaseReason
from grafter.core.memory import ID_BYTES, TraceMemory
from grafter.core.memory_blobs import encode_trace
from grafter.core.memory_edits import PlainMemories
from grafter.core.model import Envelope, Facts, Key, SpanId, UnixNano
from grafter.core.state import TraceState
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
    memories: PlainMemories
    runs: Sequence[tuple[Envelope, Sequence[bytes]]] = ()
    """All payloads, by envelope."""
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
        assembled = Assembled(trace, size, (Memory(trace.key, self.memories.whole(at)),), merged)
        return Work(claim, ReleaseReason.COMPLETE, assembled)


def assemble_plain(claims: PlainBatch, parts: Sequence[Plain], now: UnixNano) -> PlainRelease:
    """What leaves of a plain batch."""
    memories = PlainMemories(ReleaseReason.COMPLETE, now)
    out = PlainRelease(claims, PlainTraces(claims.keys, parts), claims.spans, claims.size, memories)
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
        memories.add(head.span_id, head.flags, state, resource, b"".join(ids))
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


class AsItCame:
    """Assembles host traces without a guest, one by one; keeps only what is mostly the same for all of them."""

    def __init__(self) -> None:
        # The resource of the last root: mostly one service begins all traces.
        self._last_seen: Envelope | None = None
        self._last_resource: Envelope | None = None

    def assemble(
        self, key: Key, state: TraceState, parts: Sequence[StoredPart], reason: ReleaseReason, now: UnixNano
    ) -> Assembled:
        """All parts of a trace, equal ones once, and a memory of it."""
        # By the span ids, which are short: parts that repeat a request have the same ones.
        by_ids = {part.span_ids: part for part in parts}
        repeated = 0
        if len(by_ids) != len(parts):
            parts, repeated = _without_repeats(parts)
        # A host part has all that a piece has; making pieces of them would cost as much as all the rest.
        pieces = cast("tuple[Piece, ...]", tuple(parts))
        spans = sum([part.spans for part in parts])
        size = sum([len(part.payload) for part in parts])
        memory = TraceMemory(reason, now, span_ids=b"".join(by_ids))
        if int(state.facts) & _ROOT:
            for part in parts:
                if int(part.facts) & _ROOT:
                    self._add_root(memory, part)
                    break
        return Assembled(OutTrace(key, pieces, spans), size, (Memory(key, encode_trace(memory)),), repeated)

    def _add_root(self, memory: TraceMemory, part: StoredPart) -> None:
        """Remember the root that a part with the fact ROOT begins with."""
        head = Head.FromString(first_of(part.payload))
        assert part.envelope is not None
        memory.root = SpanId(head.span_id)
        memory.root_flags = head.flags
        if head.trace_state:
            memory.root_trace_state = head.trace_state.decode("utf-8", "replace")
        # The scope is grafter's own on everything that hangs here.
        if part.envelope is not self._last_seen:
            self._last_seen = part.envelope
            self._last_resource = Envelope(part.envelope.resource, b"")
        memory.root_envelope = self._last_resource


def _without_repeats(parts: Sequence[StoredPart]) -> tuple[list[StoredPart], int]:
    """The parts, equal ones once, and the number of spans left out."""
    seen: set[tuple[bytes, Envelope | None]] = set()
    kept = []
    repeated = 0
    for part in parts:
        identity = (part.payload, part.envelope)
        if identity in seen:
            repeated += part.spans
        else:
            seen.add(identity)
            kept.append(part)
    return kept, repeated
