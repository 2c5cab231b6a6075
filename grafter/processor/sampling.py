"""Tail sampling where traces leave: one decision a trace, remembered, and written on every span of it that ever leaves.

A drop cannot be taken back. So it is final only for a trace that is complete; one of which more may come is held for
``regret`` before anything but what it is itself decides about it, and leaves as a whole should an error or a slow turn
come meanwhile. Where it cannot be held, it is kept.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from grafter.consumer import Piece
from grafter.core.lifecycle import ReleaseReason
from grafter.core.memory_edits import decision_of, with_decision
from grafter.core.model import Key, TraceId, UnixNano, guest_key
from grafter.core.sampling.policies import INCOMPLETE, LATE, SamplingPolicy
from grafter.core.sampling.policy import SamplingDecision
from grafter.core.state import TraceState
from grafter.otlp.sampling import SpansView, Weights
from grafter.processor.release_result import Assembled, Sampled
from grafter.store.model import Memory


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of a trace beside the spans that are to leave now."""

    earlier: SamplingDecision | None
    """What was decided when spans of it left, or were dropped, before."""
    left: bool
    """Spans of it left before."""
    complete: bool
    """Its root has ended and its guests are whole."""
    due: UnixNano | None
    """Since when it could leave; None: it is not to be held any longer."""
    room: bool
    """The store has room for what is held longer than its waits."""
    begun: bool
    """An export of these very spans was begun: they were kept."""


def host_trace(
    key: Key,
    state: TraceState,
    reason: ReleaseReason,
    recalled: Mapping[bytes, bytes],
    due: UnixNano | None,
    *,
    room: bool,
    begun: bool,
) -> Standing:
    """The standing of what is held under a host's key. ``recalled``: the memories of the key and of its guests."""
    # Of a host that never came only the guests' memories know.
    earlier = _earlier([key, *map(guest_key, state.guests)], recalled)
    return Standing(earlier, state.remembered, reason is ReleaseReason.COMPLETE, due, room, begun)


def late_guest(
    key: Key, host: TraceId | None, recalled: Mapping[bytes, bytes], *, complete: bool, begun: bool
) -> Standing:
    """The standing of a guest under its own key, which waits no longer: its host's decision is its own."""
    known = host is not None and Key(host) in recalled
    earlier = _earlier([key] if host is None else [Key(host), key], recalled)
    return Standing(earlier, known, complete, due=None, room=False, begun=begun)


def _earlier(keys: Iterable[Key], recalled: Mapping[bytes, bytes]) -> SamplingDecision | None:
    """What was decided before, by the first of these memories that knows."""
    for key in keys:
        if key in recalled and (decision := decision_of(recalled[key])) is not None:
            return decision
    return None


class Sampling:
    """Decides by one set of policies."""

    def __init__(self, policy: SamplingPolicy, own_scope: bytes) -> None:
        """``own_scope``: the scope of the spans that grafter makes."""
        self._policy = policy
        self._own_scope = own_scope

    def apply(self, out: Assembled, standing: Standing, now: UnixNano) -> Assembled:
        """What leaves of it after the decision, or until when all of it stays held."""
        if out.trace is None:
            if standing.earlier is not None:
                out.memories = _remembering(out.memories, standing.earlier)
            return out
        view = SpansView(out.trace.pieces, len(out.guests), complete=standing.complete)
        dry, decision, late_keep = self._policy.dry_run, standing.earlier, False
        if decision is None:
            decision = self._first(view, standing, now)
            if decision is None:
                out.held_until = self._regret_end(standing)
                return out
            upstream = view.upstream_rate(self._own_scope) if decision.kept else 0
            decision = decision._replace(upstream=upstream) if upstream else decision
        elif not decision.kept and (again := self._policy.kept_for_itself(view, now)) is not None:
            # Late parts of what was dropped for good. What must never be lost is not, be it only a part of the trace.
            decision, late_keep = again, not dry
        out.memories = _remembering(out.memories, decision)
        out.sampled = Sampled(decision, first=standing.earlier is None, late_keep=late_keep, dry=dry)
        if decision.kept or dry:
            self._write(out, view, decision, out.sampled)
        else:
            out.sampled.out = out.trace.spans
            out.left_out = out.trace
            out.trace = None
        return out

    def _first(self, view: SpansView, standing: Standing, now: UnixNano) -> SamplingDecision | None:
        """The decision about a trace of which none is known; None: all of it is held a while longer."""
        if standing.left:
            return SamplingDecision(LATE, True)
        decision = self._policy.judge(view, now)
        if not standing.complete and (not decision.kept or decision.one_of > 1):
            # What chance would keep waits too: had it left, the errors that come late would count twice.
            end = self._regret_end(standing)
            if now < end and standing.room and not self._policy.dry_run:
                return None
            if now < end or not end:
                return SamplingDecision(INCOMPLETE, True)
        return SamplingDecision(INCOMPLETE, True) if standing.begun and not decision.kept else decision

    def _regret_end(self, standing: Standing) -> UnixNano:
        """Until when an incomplete trace may be held; 0: not at all."""
        if standing.due is None or not self._policy.regret:
            return UnixNano(0)
        return UnixNano(standing.due + self._policy.regret)

    def _write(self, out: Assembled, view: SpansView, decision: SamplingDecision, sampled: Sampled) -> None:
        policy = self._policy
        weights = Weights(decision, policy.claims_upstream, self._own_scope, dry=policy.dry_run)
        written = weights.write(view)
        assert out.trace is not None
        out.trace = replace(out.trace, pieces=written)
        out.size += _bytes(written) - _bytes(view.pieces)
        sampled.odd = weights.odd


def _bytes(pieces: Iterable[Piece]) -> int:
    return sum([len(piece.payload) for piece in pieces])


def _remembering(memories: tuple[Memory, ...], decision: SamplingDecision) -> tuple[Memory, ...]:
    return tuple(Memory(memory.key, with_decision(memory.blob, decision), memory.host) for memory in memories)
