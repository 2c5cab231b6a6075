"""Export requests, by concatenation: spans that were received are never decoded or written anew."""

from collections.abc import Iterable, Sequence

from grafter.consumer import OutTrace, Piece
from grafter.core.model import Envelope
from grafter.otlp.frames import varint
from grafter.otlp.spans import with_attribute

RESEND = "grafter.resend"


def request(traces: Sequence[OutTrace]) -> bytes:
    """One ExportTraceServiceRequest of these traces, their pieces merged by resource and scope.

    Every span of a trace that is sent again carries ``grafter.resend=true``.
    """
    resources: dict[bytes, dict[bytes, list[bytes]]] = {}
    # Envelopes are shared objects, so most look-ups end at the first table; equal ones that are not meet in the second.
    by_identity: dict[int, list[bytes]] = {}
    for trace in traces:
        for piece in resent(trace.pieces) if trace.resend else trace.pieces:
            envelope = piece.envelope
            payloads = by_identity.get(id(envelope))
            if payloads is None:
                scopes = resources.setdefault(envelope.resource, {})
                payloads = by_identity[id(envelope)] = scopes.setdefault(envelope.scope, [])
            payloads.append(piece.payload)
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
    return [Piece(p.envelope, with_attribute(p.payload, RESEND, True), p.spans) for p in pieces]


def envelope_size(envelope: Envelope) -> int:
    """About what an envelope adds to a request."""
    return len(envelope.resource) + len(envelope.scope) + 12
