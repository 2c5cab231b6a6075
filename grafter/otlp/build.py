"""Export requests, by concatenation: spans that were received are never decoded or written anew."""

from collections.abc import Iterable, Sequence

from grafter.consumer import OutTrace, Piece
from grafter.core import semconv
from grafter.core.model import Envelope
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


def envelope_size(envelope: Envelope) -> int:
    """About what an envelope adds to a request."""
    return len(envelope.resource) + len(envelope.scope) + 12
