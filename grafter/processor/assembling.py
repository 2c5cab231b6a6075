"""Stored parts to what leaves: pure, and the very same for the server and for ``grafter graft``.

A trace without a guest is not decoded: its parts go out as they came in. One with a guest, with an anchor, or with
attributes to redact is decoded once, joined, and its grafted spans are added as pieces of their own.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import cast

from grafter.consumer import OutTrace, Piece
from grafter.core import join
from grafter.core.anchor import AnchorIndex, find, wanted_keys
from grafter.core.lifecycle import ReleaseReason
from grafter.core.link import from_openai_trace_id
from grafter.core.memory import GuestMemory, TraceMemory, merged
from grafter.core.model import (
    AttributeValue,
    Envelope,
    Facts,
    Guest,
    GuestFacts,
    HostSpan,
    Key,
    Part,
    Source,
    SpanId,
    TraceId,
    UnixNano,
    guest_key,
)
from grafter.core.policy import GraftPolicy, Mode
from grafter.core.redact import redact
from grafter.core.state import GuestState, TraceState
from grafter.guests.agents.spans import Mapped, map_guest
from grafter.guests.sessions.spans import map_session
from grafter.otlp import spans as otlp
from grafter.otlp.build import envelope_size
from grafter.otlp.frames import PREFIX, first_of, spans_of
from grafter.otlp.shallow_pb2 import Head
from grafter.processor.realtime_guests import call_key, has_ended, is_call, is_final, mapped_sessions, without_spans
from grafter.processor.release_result import Assembled, GuestNote
from grafter.store.base import Memory, StoredPart

# An IntFlag's own operators make a member each time.
_ROOT, _ANCHOR = int(Facts.ROOT), int(Facts.ANCHOR)


class Assembler:
    """Assembles by one policy; keeps only what is the same for every trace."""

    def __init__(self, policy: GraftPolicy, version: str) -> None:
        self._policy = policy
        self._wanted = wanted_keys(policy)
        self._scope = otlp.grafter_scope(version)
        self._openai = Envelope(otlp.service_resource(policy.openai_service_name), self._scope)
        self._redacts = bool(policy.redact.keys)
        # The resource of the last root: mostly one service begins all traces.
        self._last_seen: Envelope | None = None
        self._last_resource: Envelope | None = None

    guest_key = staticmethod(guest_key)

    def host(
        self,
        key: Key,
        state: TraceState,
        parts: Sequence[StoredPart],
        reason: ReleaseReason,
        now: UnixNano,
        recalled: Mapping[bytes, bytes],
    ) -> Assembled:
        """A host's key: its spans, and the guests that are filed under it.

        ``recalled``: the memories of this key and of its guests' keys, where there are any.
        """
        if not (state.guests or state.remembered or self._redacts or int(state.facts) & _ANCHOR):
            return self._as_it_came(key, state, parts, reason, now)
        old = TraceMemory.decode(recalled[key]) if key in recalled else None
        mine = [p for p in parts if p.guest is None]
        pieces, decoded, repeated = self._decode(mine)
        index = AnchorIndex.of(decoded, self._policy, old)
        out = Assembled(None, merged=repeated)
        memories = []
        if mine or old is not None:
            memory = merged(old, index.memory(reason, now))
            memories.append(Memory(key, memory.encode()))
        host_known = bool(mine) or old is not None
        for guest_parts in _by_guest(parts):
            facts = state.guests.get(guest_parts[0].guest.guest) if guest_parts[0].guest else None
            if is_call(guest_parts):
                final = is_final(guest_parts, facts, reason, self._policy, now)
                known, late = index if host_known else None, state.remembered
                memories += self._call(
                    out, pieces, guest_parts, facts, TraceId(key), known, now, recalled, final=final, late=late
                )
                continue
            earlier = _guest_memory(recalled, guest_parts)
            mapped = self._map(guest_parts, earlier)
            guest = mapped.guest
            if guest.link is None:
                # Filed here without metadata: its own id spells the host's.
                guest = replace(guest, link=from_openai_trace_id(guest.trace_id))
            if not host_known:
                if self._drops(guest, facts):
                    _drop(out, guest_parts)
                    memories.append(_dropped(guest_key(guest.trace_id), TraceId(key), mapped.head))
                    continue
                grafted = join.host_missing(guest, TraceId(key), self._policy, earlier, mapped.head)
            else:
                grafted = join.graft(guest, index, TraceId(key), self._policy, earlier, mapped.head)
            came = sum(p.spans for p in guest_parts)
            self._add(out, pieces, came, guest, grafted, facts, now, late=state.remembered, first=_first(earlier))
            memories.append(Memory(guest_key(guest.trace_id), grafted.memory.encode(), key))
        out.never = Facts.ANCHOR in state.facts and not state.guests and not state.remembered
        out.memories = tuple(memories)
        return self._finish(out, key, pieces)

    def guest(
        self,
        key: Key,
        state: GuestState,
        parts: Sequence[StoredPart],
        now: UnixNano,
        host: TraceId | None,
        recalled: Mapping[bytes, bytes],
        *,
        overdue: bool = False,
        final: bool = True,
    ) -> Assembled:
        """A guest's own key: joined to a host that was released before, or (``host`` None) a trace of its own.

        ``recalled``: the memories of this key and of the host, of a call also those of its further sessions.
        ``overdue``: stream mode no longer waits for parents. ``final``: of a call, it is not waited for.
        """
        if is_call(parts):
            calls = Assembled(None)
            run: list[Piece] = []
            index = None
            if host is not None and Key(host) in recalled:
                index = AnchorIndex.of((), self._policy, TraceMemory.decode(recalled[Key(host)]))
            calls.memories = tuple(
                self._call(calls, run, parts, state, host, index, now, recalled, final=final, late=True)
            )
            return self._finish(calls, key, run)
        earlier = _guest_memory(recalled, parts)
        mapped = self._map(parts, earlier)
        guest = mapped.guest
        pieces: list[Piece] = []
        out = Assembled(None)
        if host is None:
            grafted = join.alone(guest, self._policy, earlier, mapped.head)
        else:
            if guest.link is None:
                guest = replace(guest, link=from_openai_trace_id(guest.trace_id))
            if Key(host) not in recalled and self._drops(guest, state):
                _drop(out, parts)
                out.memories = (_dropped(key, host, mapped.head),)
                return out
            old = TraceMemory.decode(recalled[Key(host)]) if Key(host) in recalled else None
            index = AnchorIndex.of((), self._policy, old)
            grafted = join.graft(guest, index, host, self._policy, earlier, mapped.head, overdue=overdue)
        came = sum(p.spans for p in parts)
        self._add(
            out, pieces, came, guest, grafted, state, now, late=True, linked=host is not None, first=_first(earlier)
        )
        out.memories = (Memory(key, grafted.memory.encode(), Key(host) if host is not None else None),)
        if any(not awaited.stood_in for awaited in grafted.memory.awaited.values()):
            out.follow_ups = (Part(key, b"[]", 0, guest=GuestFacts(guest.trace_id, guest.source, host)),)
        return self._finish(out, key, pieces)

    def _call(
        self,
        out: Assembled,
        pieces: list[Piece],
        parts: Sequence[StoredPart],
        state: GuestState | None,
        host: TraceId | None,
        index: AnchorIndex | None,
        now: UnixNano,
        recalled: Mapping[bytes, bytes],
        *,
        final: bool,
        late: bool,
    ) -> list[Memory]:
        """A Realtime call: each session is a guest of its own. What is to be remembered of them.

        ``index``: None where nothing is known of the host.
        """
        # While a call runs its session's span, under which all others are, has yet to come.
        sessions = mapped_sessions(parts, recalled, self._policy, final=final)
        final = final or has_ended(sessions[0][0].head)
        policy = replace(self._policy, mode=Mode.HOLD if final else Mode.STREAM)
        filed = None if host is None else Key(host)
        memories = []
        for mapped, earlier in sessions:
            guest = mapped.guest
            if guest.link is None and mapped.weak is not None and mapped.weak.host == host:
                guest = replace(guest, link=mapped.weak)
            key = call_key(guest.trace_id)
            if not guest.spans:
                memories.append(Memory(key, without_spans(guest, host, earlier, mapped).encode(), filed))
                continue
            out.read += len(guest.spans)
            first = earlier is None or not earlier.sent
            if host is not None and index is None and self._drops(guest, state):
                out.dropped += len(guest.spans)
                out.dropped_reason = "host_missing"
                memories.append(_dropped(key, host, mapped.head))
                continue
            if host is None:
                grafted = join.alone(guest, policy, earlier, mapped.head)
            else:
                spans = index or AnchorIndex.of((), policy)
                grafted = join.graft(guest, spans, host, policy, earlier, mapped.head)
            came = len(guest.spans)
            self._add(out, pieces, came, guest, grafted, state, now, late=late, linked=host is not None, first=first)
            memories.append(Memory(key, grafted.memory.encode(), filed))
        if not final:
            facts = parts[0].guest
            assert facts is not None
            again = Part(guest_key(facts.guest), b"[]", 0, guest=GuestFacts(facts.guest, facts.source, host))
            out.follow_ups = (*out.follow_ups, again)
        return memories

    def anchor_known(self, parts: Sequence[StoredPart], host: TraceId, recalled: Mapping[bytes, bytes]) -> bool:
        """Stream mode: whether the host span under which the guest will hang has left already."""
        earlier = _guest_memory(recalled, parts)
        if earlier is not None and earlier.anchor is not None:
            return True
        if Key(host) not in recalled:
            return False
        if is_call(parts):
            guest = mapped_sessions(parts, recalled, self._policy, final=True)[0][0].guest
        else:
            guest = self._map(parts, earlier).guest
        index = AnchorIndex.of((), self._policy, TraceMemory.decode(recalled[Key(host)]))
        return find(guest, index).how in ("named", "selector", "root")

    @property
    def takes_bundles(self) -> bool:
        """Plain traces leave as they came."""
        return not self._redacts and self._policy.mode is Mode.HOLD

    def _as_it_came(
        self, key: Key, state: TraceState, parts: Sequence[StoredPart], reason: ReleaseReason, now: UnixNano
    ) -> Assembled:
        """The path of every trace without a guest: nothing is decoded but the head of its root."""
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
        return Assembled(OutTrace(key, pieces, spans), size, (Memory(key, memory.encode()),), repeated)

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

    def _decode(self, parts: Iterable[StoredPart]) -> tuple[list[Piece], list[HostSpan], int]:
        """Pieces without the spans that came more than once, the decoded spans, and how many were left out."""
        pieces: list[Piece] = []
        decoded: list[HostSpan] = []
        seen: set[tuple[bytes, bytes, bytes]] = set()
        repeated = 0
        for part in parts:
            envelope = part.envelope
            assert envelope is not None
            kept: list[bytes] = []
            for raw, span in zip(
                spans_of(part.payload), otlp.decode(part.payload, envelope, self._wanted), strict=True
            ):
                identity = (raw, envelope.resource, envelope.scope)
                if identity in seen:
                    repeated += 1
                    continue
                seen.add(identity)
                decoded.append(span)
                kept += (PREFIX[len(raw)], raw)
            if kept:
                pieces.append(Piece(envelope, b"".join(kept), len(kept) // 2))
        return pieces, decoded, repeated

    def _drops(self, guest: Guest, facts: GuestState | None) -> bool:
        """Its host never came, and it is not to leave without it; the flag may stand in an earlier trace object."""
        if facts is None:
            return False
        if guest.link is not None and facts.sampled is None:
            facts = replace(facts, sampled=guest.link.sampled)
        return join.host_missing_drops(facts, self._policy)

    def _map(self, parts: Sequence[StoredPart], earlier: GuestMemory | None) -> Mapped:
        facts = parts[0].guest
        assert facts is not None
        payloads = [p.payload for p in parts]
        head = earlier.head if earlier is not None else None
        if facts.source is Source.SESSIONS:
            return map_session(facts.guest, payloads, self._policy, head)
        return map_guest(facts.guest, facts.source, payloads, self._policy, head)

    def _add(
        self,
        out: Assembled,
        pieces: list[Piece],
        came: int,
        guest: Guest,
        grafted: join.Grafted,
        state: GuestState | None,
        now: UnixNano,
        *,
        late: bool,
        first: bool,
        linked: bool = True,
    ) -> None:
        """One guest's grafted spans, as pieces by resource. ``came``: how many spans of it had come."""
        runs: dict[bytes | None, list[bytes]] = {}
        envelopes: dict[bytes | None, Envelope] = {None: self._openai}
        for span in grafted.spans:
            resource = span.envelope.resource if span.envelope is not None else None
            if resource is not None and resource not in envelopes:
                envelopes[resource] = Envelope(resource, self._scope)
            raw = otlp.encode(span)
            runs.setdefault(resource, []).extend((PREFIX[len(raw)], raw))
        for resource, run in runs.items():
            pieces.append(Piece(envelopes[resource], b"".join(run), len(run) // 2))
        real = len(grafted.spans) - grafted.synthetic
        notes = out.guests if isinstance(out.guests, list) else []
        out.guests = notes
        out.merged += came - real
        out.synthetic += grafted.synthetic
        waited = (now - state.first) / 1e9 if state is not None else 0.0
        match = grafted.match if linked else ""
        malformed = bool(grafted.memory.head.get("malformed"))
        notes.append(GuestNote(guest.source, real, match, waited, late, first and real > 0, malformed))

    def _finish(self, out: Assembled, key: Key, pieces: list[Piece]) -> Assembled:
        if not pieces:
            return out
        if self._redacts:
            pieces, left_out = self._redacted(pieces)
            if left_out:
                out.dropped += left_out
                out.dropped_reason = "unreadable"
            if not pieces:
                return out
        spans = sum(p.spans for p in pieces)
        out.trace = OutTrace(key, tuple(pieces), spans)
        out.size = sum(len(p.payload) for p in pieces) + sum(map(envelope_size, {p.envelope for p in pieces}))
        return out

    def _redacted(self, pieces: Iterable[Piece]) -> tuple[list[Piece], int]:
        """The pieces without what must not be read behind grafter, and how many spans had to go for it."""
        rules = self._policy.redact

        def rewrite(value: AttributeValue) -> AttributeValue | None:
            return redact(value, rules)

        kept = []
        left_out = 0
        for piece in pieces:
            run, gone = otlp.redacted_run(piece.payload, rules.keys, rewrite)
            left_out += gone
            if run:
                envelope = otlp.redacted_envelope(piece.envelope, rules.keys, rewrite)
                kept.append(Piece(envelope, run, piece.spans - gone))
        return kept, left_out


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


def _drop(out: Assembled, parts: Iterable[StoredPart]) -> None:
    out.dropped += sum(p.spans for p in parts)
    out.dropped_reason = "host_missing"


def _dropped(key: Key, host: TraceId, head: Mapping[str, object]) -> Memory:
    """What makes the rest of a dropped guest go the same way."""
    return Memory(key, GuestMemory(host, host, head=head).encode(), Key(host))


def _by_guest(parts: Iterable[StoredPart]) -> list[list[StoredPart]]:
    """The guest parts, by guest, in order of arrival; guests in order of their ids."""
    guests: dict[str, list[StoredPart]] = {}
    for part in parts:
        if part.guest is not None:
            guests.setdefault(part.guest.guest, []).append(part)
    return [guests[name] for name in sorted(guests)]


def _first(earlier: GuestMemory | None) -> bool:
    """No span of the guest has left; a trace object, or a session, may have gone before."""
    return earlier is None or not earlier.sent


def _guest_memory(recalled: Mapping[bytes, bytes], parts: Sequence[StoredPart]) -> GuestMemory | None:
    facts = parts[0].guest
    assert facts is not None
    blob = recalled.get(guest_key(facts.guest))
    return GuestMemory.decode(blob) if blob is not None else None
