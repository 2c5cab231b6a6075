"""Export requests, by concatenation: spans that were received are never decoded or written anew."""

from collections.abc import Iterable, Sequence

from grafter.consumer import OutTrace, Piece
from grafter.core import semconv
from grafter.core.model import LARGE_ENVELOPE, Envelope
from grafter.otlp.frames import varint
from grafter.otlp.spans import with_attribute


def request(traces: Iterable[OutTrace]) -> bytes:
    """One ExportTraceServiceRequest of these traces, their pieces merged by resource and scope.

    Every span of a trace that is sent again carries ``grafter.resend=true``.
    """
    # By identity: envelopes are shared objects, and hashing one costs as much as all of its bytes.
    by_identity: dict[int, tuple[Envelope, list[bytes]]] = {}
    for trace in traces:
        for piece in resent(trace.pieces) if trace.resend else trace.pieces:
            envelope = piece.envelope
            known = by_identity.get(id(envelope))
            if known is None:
                known = by_identity[id(envelope)] = (envelope, [])
            known[1].append(piece.payload)
    return of_runs(by_identity.values())


def of_runs(runs: Iterable[tuple[Envelope, Sequence[bytes]]]) -> bytes:
    """One ExportTraceServiceRequest of runs of framed spans, merged by resource and scope."""
    resources: dict[bytes, dict[bytes, list[bytes]]] = {}
    for envelope, payloads in runs:
        resources.setdefault(envelope.resource, {}).setdefault(envelope.scope, []).extend(payloads)
    out: list[bytes] = []
    for resource, scopes in resources.items():
        scope_runs: list[bytes] = [resource]
        for scope, payloads in scopes.items():
            size = len(scope) + sum(map(len, payloads))
            scope_runs.append(b"\x12" + varint(size))
            scope_runs.append(scope)
            scope_runs += payloads
        out.append(b"\x0a" + varint(sum(map(len, scope_runs))))
        out += scope_runs
    return b"".join(out)


def resent(pieces: Iterable[Piece]) -> list[Piece]:
    """The pieces with each span marked as possibly a repeat."""
    return [Piece(p.envelope, with_attribute(p.payload, semconv.GRAFTER_RESEND, True), p.spans) for p in pieces]


class LargeEnvelopes:
    """The large envelopes of what goes out as one request, where each stands once."""

    def __init__(self) -> None:
        self._scopes: dict[bytes, set[bytes]] = {}

    def add(self, envelopes: Iterable[Envelope]) -> int:
        """The bytes that these add to the request."""
        size = 0
        for envelope in envelopes:
            if envelope.size < LARGE_ENVELOPE:
                continue
            scopes = self._scopes.get(envelope.resource)
            if scopes is None:
                scopes = self._scopes[envelope.resource] = set()
                size += len(envelope.resource)
            if envelope.scope not in scopes:
                scopes.add(envelope.scope)
                size += len(envelope.scope)
        return size

    def add_trace(self, trace: OutTrace) -> int:
        """The same for a trace."""
        return self.add([piece.envelope for piece in trace.pieces])
