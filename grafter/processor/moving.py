"""How a trace leaves that moves under another one: where it hangs there, and under which ids.

Where it belongs, and when it leaves, is decided in ``rules``. Here is what that does to its spans. The same input gives
the same ids, so that a repeat, or what comes late, ends where the rest of it went.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from grafter.consumer import Piece
from grafter.core.anchor import AnchorIndex, find
from grafter.core.left_steps import GuestIndex, step_key
from grafter.core.line_up import LinedUp, step_ids
from grafter.core.memory import TraceMemory
from grafter.core.memory_blobs import decode_guest, decode_trace
from grafter.core.model import (
    RULE,
    SPAN_KIND_INTERNAL,
    Guest,
    GuestSpan,
    HostSpan,
    Key,
    Link,
    Source,
    SpanId,
    TraceId,
    UnixNano,
)
from grafter.core.policy import GraftPolicy
from grafter.core.rules import Moved
from grafter.core.steps import HostSteps
from grafter.otlp.frames import spans_of
from grafter.otlp.rule_keys import moved_run
from grafter.otlp.shallow_pb2 import Head
from grafter.processor.release_result import GuestCount
from grafter.processor.rules import Target


def hang(
    key: Key, decoded: Sequence[HostSpan], target: Target, policy: GraftPolicy, *, waited: float
) -> tuple[Moved, GuestCount]:
    """Where a trace hangs in the one under which it leaves; counted as a guest of that one.

    ``decoded``: its spans. ``waited``: seconds since its first part came.
    """
    memory = decode_trace(target.blob)
    start = min((span.start for span in decoded), default=UnixNano(0))
    end = max((span.end for span in decoded), default=start)
    span = GuestSpan(SpanId(bytes(8)), None, "", "", SPAN_KIND_INTERNAL, start, end, ())
    guest = Guest(key.hex(), Source.OTLP, (span,), Link(target.host, how=RULE))
    anchor = find(guest, AnchorIndex.of((), policy, memory))
    counted = GuestCount(Source.OTLP, len(decoded), anchor.how, waited)
    return Moved(target.host, anchor.span_id, anchor.how), counted


def steps_left(
    key: Key,
    host: HostSteps,
    old: TraceMemory | None,
    moved: Moved | None,
    recalled: Mapping[bytes, bytes],
    target: Target | None,
) -> GuestIndex | None:
    """The steps of guests that left before: with this trace, with the one under whose id it leaves, or apart.

    ``old``: the memory of this trace. ``recalled``: memories by key, the other trace's among them where it has left
    before; ``target`` brings its own.
    """
    if target is not None:
        recalled = {**recalled, Key(target.host): target.blob}
    under = TraceId(key) if moved is None else moved.host
    keys = [*([] if moved is None else [Key(under)]), *(keys_of_steps(under, host) if recalled else ())]
    left = None if old is None else old.guest_steps
    for each in keys:
        memory = decode_trace(recalled[each]) if each in recalled else None
        if memory is not None:
            # Nothing of a trace that moves stands above what it hangs under.
            steps = memory.guest_steps if moved is None else replace(memory.guest_steps, open=False)
            left = steps if left is None else left.merged(steps)
    return left


def keys_of_steps(host: TraceId, steps: HostSteps) -> list[Key]:
    """Under which the steps of guests are remembered that left apart from this host."""
    return [step_key(host, step) for step in step_ids(steps)]


def as_moved(
    pieces: Iterable[Piece],
    trace: Key,
    to: Moved,
    scope: bytes,
    recalled: Iterable[bytes],
    decoded: Iterable[HostSpan] = (),
    lined: LinedUp | None = None,
) -> list[Piece]:
    """Everything that leaves of a trace that moves, under the other's trace id.

    ``scope``: grafter's own, under which guests' spans are. ``recalled``: the memories of guests that left before.
    ``decoded``: its own spans as they came, ``lined``: what was found of them.
    """
    pieces = list(pieces)
    kept = {
        Head.FromString(raw).span_id
        for piece in pieces
        if piece.envelope.scope == scope
        for raw in spans_of(piece.payload)
    }
    for blob in recalled:
        known = decode_guest(blob)
        if known is not None:
            kept.update(known.sent_ids())
    # Steps of the other trace's guests are under their own ids there.
    for edit in () if lined is None else lined.host.values():
        kept.update(link.span_id for link in edit.links)
        if edit.parent is not None:
            kept.add(edit.parent)
    roots = {span.span_id for span in decoded if not span.parent_span_id}
    return [
        replace(piece, payload=moved_run(piece.payload, trace, to, kept, roots, own=piece.envelope.scope != scope))
        for piece in pieces
    ]
