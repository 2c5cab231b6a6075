"""Stored parts to what leaves: pure, and the very same for the server and for ``grafter graft``.

A trace without a guest is not decoded: its parts go out as they came in. One with a guest, with an anchor, or with
attributes to redact is decoded once, joined, and its grafted spans are added as pieces of their own.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from grafter.consumer import OutTrace, Piece
from grafter.core import join
from grafter.core.anchor import AnchorIndex, find, wanted_keys
from grafter.core.caller_turns import HOST_MARK, HOST_WAITS
from grafter.core.causality import DATE_KEYS, DATE_MARK, on_host_clock
from grafter.core.crash import StandIns, stand_ins
from grafter.core.explain import MOST_STEPS, Refusal
from grafter.core.left_steps import GuestIndex, step_key
from grafter.core.lifecycle import ReleaseReason
from grafter.core.line_up import LinedUp, line_up, step_index
from grafter.core.memory import NAMED_GUESTS_LIMIT, GuestMemory, TraceMemory, merged
from grafter.core.memory_blobs import decode_trace, encode_trace
from grafter.core.model import (
    Envelope,
    Facts,
    Guest,
    GuestFacts,
    HostSpan,
    Key,
    Part,
    TraceId,
    UnixNano,
    guest_key,
)
from grafter.core.policy import GraftPolicy, Mode, Unlinked
from grafter.core.redact import redact
from grafter.core.sampling.policies import SamplingPolicy
from grafter.core.state import GuestState, TraceState
from grafter.core.steps import CALL_IDS, HOST_KEYS, HOST_MARKS, RESPONSE_IDS, USAGE, HostSteps, host_steps
from grafter.guests.json_values import digest
from grafter.guests.source import Mapped, Reading
from grafter.otlp import spans as otlp
from grafter.otlp.frames import run_of
from grafter.otlp.redaction import Redaction
from grafter.processor.guest_parts import GuestParts, by_guest
from grafter.processor.hung_guests import Hung, Kept, Place, count, memories, pieces_of, unhung
from grafter.processor.latencies import SUMS, with_latencies
from grafter.processor.moving import as_moved, hang, keys_of_steps, steps_left
from grafter.processor.plain_traces import AsItCame
from grafter.processor.release_result import Assembled
from grafter.processor.rules import Target
from grafter.processor.sampling import Sampling
from grafter.store.model import Memory, StoredPart

_Run = tuple[Envelope, list[bytes]]
"""Host spans, serialised, under one envelope."""
_Read = tuple[GuestParts, GuestState | None, Reading]
"""A guest of a host's key, what is known of it, and what its parts came to."""

# An IntFlag's own operators make a member each time.
_ANCHOR = int(Facts.ANCHOR)
_STEP_MARKS = tuple(key.encode() for key in (*CALL_IDS, *RESPONSE_IDS))
# After a restart an export that was begun is made again as COMPLETE; what of it has no root had fallen silent.
_FELL_SILENT = (ReleaseReason.IDLE, ReleaseReason.COMPLETE)


class Assembler:
    """Assembles by one policy; keeps only what is the same for every trace."""

    def __init__(self, policy: GraftPolicy, version: str, sampling: SamplingPolicy | None = None) -> None:
        """``sampling``: None, or a set that can drop nothing, leaves every trace as it is."""
        self._policy = policy
        anchors = wanted_keys(policy)
        keys = HOST_KEYS | DATE_KEYS | HOST_WAITS
        self._wanted = otlp.Wanted.of(anchors, keys, *HOST_MARKS, DATE_MARK, HOST_MARK, prefix=USAGE)
        self._scope = otlp.grafter_scope(version)
        self._openai = Envelope(otlp.service_resource(policy.openai_service_name), self._scope)
        self._redacts = bool(policy.redact.keys)
        self._redaction = Redaction(policy.redact.keys, lambda value: redact(value, policy.redact))
        # Where nothing is held back there is no whole trace to decide about.
        decides = sampling is not None and sampling.looks and policy.mode is Mode.HOLD
        self.sampling = Sampling(sampling, self._scope) if sampling is not None and decides else None
        """Decides about what was assembled, where some of it may be dropped; None: all of it leaves."""
        self._as_it_came = AsItCame()

    def host(
        self,
        key: Key,
        state: TraceState,
        parts: Sequence[StoredPart],
        reason: ReleaseReason,
        now: UnixNano,
        recalled: Mapping[bytes, bytes],
        target: Target | None = None,
        summed: str = "",
    ) -> Assembled:
        """A host's key: its spans, and the guests that are held under it.

        ``recalled``: the memories of this key and of its guests' keys, where there are any. ``target``: the other trace
        under which all of it leaves. ``summed``: what the sums are of that were stated beside it since it left.
        """
        if not (state.guests or state.remembered or self._redacts or int(state.facts) & _ANCHOR):
            return self._as_it_came.assemble(key, state, parts, reason, now)
        old = decode_trace(recalled[key]) if key in recalled else None
        mine = [p for p in parts if p.guest is None]
        runs, decoded, repeated = self._decode(mine)
        out = Assembled(None, merged=repeated)
        known = bool(mine) or old is not None
        read = self._read(parts, state, reason, now, recalled, known=known)
        made = self._stand_ins(key, decoded, read) if old is None and reason in _FELL_SILENT else None
        index = AnchorIndex.of(decoded, self._policy, old, None if made is None else made.root)
        kept: list[Kept] = []
        hung: list[Hung] = []
        for guest, facts, reading in read:
            place = Place(TraceId(key), index if known else None, facts, now, late=state.remembered)
            kept += self._guest(out, hung, guest, reading, place)
        expected = Facts.ANCHOR in state.facts.without_rule()
        out.never = expected and not state.guests and not state.remembered
        moved = old.moved if old is not None else None
        if target is not None:
            moved, counted = hang(key, decoded, target, self._policy, waited=(now - state.first) / 1e9)
            out.guests.append(counted)
        steps = host_steps(decoded, digest)
        left = steps_left(key, steps, old, moved, recalled, target)
        pieces, lined, summed = self._lined_up(out, hung, decoded, steps, old, runs, key, left, summed)
        if made is not None:
            pieces += pieces_of(made.spans, self._openai, self._scope)
            out.synthetic += len(made.spans)
        out.memories = tuple(memories(kept, hung))
        if known:
            memory = index.memory(reason, now)
            memory.steps, memory.moved, memory.summed = step_index(steps), moved, summed
            memory.guests = tuple(one.guest.trace_id for one in hung)[:NAMED_GUESTS_LIMIT]
            if made is not None:
                memory.span_ids += b"".join(each.span.span_id for each in made.spans)
            memory.guest_steps, memory.late = lined.index, lined.late[:MOST_STEPS]
            own = Memory(key, encode_trace(merged(old, memory, lined.spoken_for)))
            out.memories = (own, *out.memories)
        if moved is not None:
            pieces = as_moved(pieces, key, moved, self._scope, recalled.values(), decoded, lined)
        if old is not None and not old.summed:
            out.summed = summed
        return self._finish(out, key, pieces)

    def _read(
        self,
        parts: Sequence[StoredPart],
        state: TraceState,
        reason: ReleaseReason,
        now: UnixNano,
        recalled: Mapping[bytes, bytes],
        *,
        known: bool,
    ) -> list[_Read]:
        """Each guest of a host's key of which there is something to hang. ``known``: some of the host has come."""
        read = []
        for one in by_guest(parts):
            guest = GuestParts(one, recalled, self._policy)
            facts = state.guests.get(guest.name)
            reading = guest.read(final=guest.is_final(facts, reason, now))
            if not reading.guests:
                continue
            if not (known or reading.goes_on):
                reading = replace(reading, mode=Mode.HOLD)
            read.append((guest, facts, reading))
        return read

    def _stand_ins(self, key: Key, decoded: Sequence[HostSpan], read: Sequence[_Read]) -> StandIns | None:
        """What stands in for the spans that a host which fell silent never sent; None where nothing has to."""
        if not read or self._policy.mode is not Mode.HOLD:
            return None
        guests = [
            one.guest if one.guest.link is not None else replace(one.guest, link=guest.given)
            for guest, _, reading in read
            for one in reading.guests
        ]
        return stand_ins(TraceId(key), decoded, guests)

    def named_steps(self, host: TraceId, parts: Sequence[StoredPart]) -> list[Key]:
        """The keys under which steps may be remembered that these host spans name: of guests that left apart."""
        mine = [p for p in parts if p.guest is None and any(mark in p.payload for mark in _STEP_MARKS)]
        return keys_of_steps(host, host_steps(self._decode(mine)[1], digest)) if mine else []

    def guest(
        self,
        key: Key,
        state: GuestState,
        guest: GuestParts,
        reason: ReleaseReason,
        now: UnixNano,
        host: TraceId | None,
        recalled: Mapping[bytes, bytes],
        *,
        overdue: bool = False,
        refused: Sequence[Refusal] = (),
        summed: str = "",
    ) -> Assembled:
        """A guest's own key: joined to a host that was released before, or (``host`` None) a trace of its own.

        ``recalled``: the memory of the host, where there is one. ``overdue``: stream mode no longer waits for parents.
        ``refused``: links that were found and not used. ``summed``: what the sums are of that were stated beside the
        host since it left.
        """
        out = Assembled(None)
        if host is None and self._policy.unlinked is Unlinked.DROP and self._dropped_alone(out, guest):
            return out
        index = memory = None
        if host is not None and Key(host) in recalled:
            memory = decode_trace(recalled[Key(host)])
            index = AnchorIndex.of((), self._policy, memory)
        hung: list[Hung] = []
        reading = guest.read(final=guest.is_final(state, reason, now))
        place = Place(host, index, state, now, late=True, overdue=overdue, refused=tuple(refused))
        kept = self._guest(out, hung, guest, reading, place)
        pieces, lined, summed = self._lined_up(out, hung, (), HostSteps(), memory, (), key, summed=summed)
        out.memories = tuple(memories(kept, hung))
        if host is not None and not (memory is not None and memory.summed):
            out.summed = summed
        if host is not None:
            out.memories += tuple(
                Memory(step_key(host, step), encode_trace(TraceMemory(reason, now, guest_steps=steps)))
                for step, steps in lined.index.by_step().items()
            )
        if host is not None and memory is not None and memory.moved is not None:
            pieces = as_moved(pieces, Key(host), memory.moved, self._scope, recalled.values())
        return self._finish(out, key, pieces)

    def _dropped_alone(self, out: Assembled, guest: GuestParts) -> bool:
        """Drop a guest without a host; False where there is nothing to drop, but something to remember."""
        if guest.source.holds_events:
            reading = guest.read(final=True)
            spans = out.made = sum(len(mapped.guest.spans) for mapped in reading.guests)
            out.made_by = guest.facts.source
            if not spans:
                return False
        else:
            spans = guest.came
        out.dropped, out.dropped_reason = spans, "unlinked"
        return True

    def _guest(self, out: Assembled, hung: list[Hung], guest: GuestParts, reading: Reading, place: Place) -> list[Kept]:
        """Everything that one guest's parts came to, hung at its place; what is to be remembered of it."""
        held_under = None if place.host is None else Key(place.host)
        again = reading.goes_on
        kept: list[Kept] = []
        for mapped in reading.guests:
            key = guest.source.key(mapped.guest.trace_id)
            before = len(hung)
            memory = self._hang(out, hung, guest, mapped, guest.memory_of(key), reading.mode, place)
            kept.append((key, held_under, memory, before if len(hung) > before else None))
            if reading.mode is Mode.STREAM and not guest.source.holds_events:
                again |= any(not awaited.stood_in for awaited in memory.awaited.values())
        if again:
            facts = GuestFacts(guest.name, guest.facts.source, place.host)
            out.follow_ups = (*out.follow_ups, Part(guest_key(guest.name), b"[]", 0, guest=facts))
        return kept

    def _hang(
        self,
        out: Assembled,
        hung: list[Hung],
        parts: GuestParts,
        mapped: Mapped,
        earlier: GuestMemory | None,
        mode: Mode,
        place: Place,
    ) -> GuestMemory:
        """One guest of a reading, hung at its place or dropped; what is to be remembered of it."""
        guest, host, head = mapped.guest, place.host, mapped.head
        if earlier is not None and SUMS in earlier.head:
            head = {**head, SUMS: earlier.head[SUMS]}
        refused = place.refused
        given = parts.given
        if given is not None and given.host == host and (guest.link is None or guest.link.host != host):
            if guest.link is not None:
                refused = (*refused, Refusal("link", "came_later"))
            guest = replace(guest, link=given)
        elif guest.link is None and mapped.weak is not None and mapped.weak.host == host:
            guest = replace(guest, link=mapped.weak)
        came = parts.came
        if parts.source.holds_events:
            if not guest.spans:
                # It is hung when there is something to hang.
                return unhung(guest, host, earlier, head)
            came = len(guest.spans)
            out.made += came
            out.made_by = guest.source
        policy = replace(self._policy, mode=mode)
        if host is None:
            grafted = join.alone(guest, earlier, head)
        elif place.index is None and self._drops(guest, place.state):
            out.dropped += came
            out.dropped_reason = "host_missing"
            # It makes the rest of the guest go the same way.
            return GuestMemory(host, host, head=mapped.head)
        else:
            index = place.index or AnchorIndex.of((), policy)
            grafted = join.graft(guest, index, host, policy, earlier, head, overdue=place.overdue)
        if refused:
            grafted = grafted.explained(grafted.record.refusing(refused))
        hung.append(Hung(guest, grafted, came, place, first=earlier is None or not earlier.sent))
        return grafted.memory

    def anchor_known(self, guest: GuestParts, host: TraceId, recalled: Mapping[bytes, bytes], *, final: bool) -> bool:
        """Stream mode: whether the host span under which the guest will hang has left already.

        ``final``: as the release will read it, if there is one now.
        """
        if guest.memory is not None and guest.memory.anchor is not None:
            return True
        if Key(host) not in recalled:
            return False
        index = AnchorIndex.of((), self._policy, decode_trace(recalled[Key(host)]))
        return find(guest.read(final=final).guests[0].guest, index).how in ("named", "selector", "root")

    @property
    def takes_plain(self) -> bool:
        """Plain traces leave as they came."""
        return not self._redacts and self.sampling is None and self._policy.mode is Mode.HOLD

    def _decode(self, parts: Iterable[StoredPart]) -> tuple[list[_Run], list[HostSpan], int]:
        """Runs without the spans that came more than once, the decoded spans in their order, and how many were left
        out."""
        runs: list[_Run] = []
        decoded: list[HostSpan] = []
        came: dict[Envelope, set[bytes]] = {}
        repeated = 0
        for part in parts:
            envelope = part.envelope
            assert envelope is not None
            seen = came.setdefault(envelope, set())
            kept: list[bytes] = []
            for raw, span in otlp.decode(part.payload, envelope, self._wanted):
                if raw in seen:
                    repeated += 1
                    continue
                seen.add(raw)
                decoded.append(span)
                kept.append(raw)
            if kept:
                runs.append((envelope, kept))
        return runs, decoded, repeated

    def _lined_up(
        self,
        out: Assembled,
        hung: list[Hung],
        decoded: Sequence[HostSpan],
        steps: HostSteps,
        memory: TraceMemory | None,
        runs: Sequence[_Run],
        key: Key,
        left: GuestIndex | None = None,
        summed: str = "",
    ) -> tuple[list[Piece], LinedUp, str]:
        """Everything that leaves, each step where it belongs: the host's runs, then the guests; with what was found,
        and what is summed up on it, see ``TraceMemory.summed``.

        ``memory``: of what left before. ``left``: the steps of guests that left before. ``summed``: what those sums are
        of that guests have stated since.
        """
        lined = line_up(decoded, steps, [one.grafted for one in hung], self._policy, memory, left)
        dated = on_host_clock(decoded, lined, [one.first for one in hung], memory)
        edits = dict(lined.host)
        before = (memory.summed if memory is not None else "") or summed
        latencies = with_latencies(hung, dated, decoded, edits, self._policy, before) if hung else None
        out.latency = None if latencies is None else latencies.latency
        pieces = []
        at = 0
        for envelope, raws in runs:
            spans = raws
            if edits:
                names = [span.span_id for span in decoded[at : at + len(raws)]]
                spans = [
                    raw if (edit := edits.get(name)) is None else otlp.edited(raw, edit, key)
                    for raw, name in zip(raws, names, strict=True)
                ]
            at += len(raws)
            pieces.append(Piece(envelope, run_of(spans), len(spans)))
        guests = dated if latencies is None else latencies.guests
        hung[:] = [replace(one, grafted=grafted) for one, grafted in zip(hung, guests, strict=True)]
        for one in hung:
            pieces += pieces_of(one.grafted.spans, self._openai, self._scope)
            count(out, one)
        return pieces, lined, "" if latencies is None else latencies.summed

    def _drops(self, guest: Guest, facts: GuestState | None) -> bool:
        """Its host never came, and it is not to leave without it; the flag may stand in an earlier trace object."""
        if facts is None:
            return False
        if guest.link is not None and facts.sampled is None:
            facts = replace(facts, sampled=guest.link.sampled)
        return join.host_missing_drops(facts, self._policy)

    def _finish(self, out: Assembled, key: Key, pieces: list[Piece]) -> Assembled:
        if not pieces:
            return out
        if self._redacts:
            pieces = [
                Piece(self._redaction.envelope(p.envelope), self._redaction.run(p.payload), p.spans) for p in pieces
            ]
        spans = sum(p.spans for p in pieces)
        out.trace = OutTrace(key, tuple(pieces), spans)
        out.size = sum(len(p.payload) for p in pieces)
        return out
