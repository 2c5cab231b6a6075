"""What a release says of a call, written down before its claim is settled.

Whoever keeps calls has it in the store then: should the process die between the two, the same release says the same
again, under the same name. Nothing here waits for a database.
"""

import logging
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Protocol

from grafter.calls.ids import GUEST_KEYS, call_id, distinct, openai_id, outcome_of
from grafter.calls.model import NEVER_CAME, NO_GUEST, CallId, CallRecord, Origin, TurnRow
from grafter.consumer import OutTrace, Piece
from grafter.core.call_latency import CallerTurn, CallLatency, ModelTurn
from grafter.core.calls import Phone
from grafter.core.lifecycle import ReleaseReason
from grafter.core.model import AttributeValue, Facts, Key, Source, is_guest_key
from grafter.otlp import build
from grafter.otlp.call_facts import CallFacts, CallSearch, Turn, call_facts
from grafter.otlp.redaction import Redaction
from grafter.processor.plain_traces import PlainRelease
from grafter.processor.release_result import Work
from grafter.store.model import Outcome
from grafter.tasks import in_thread_if

logger = logging.getLogger(__name__)

_THREAD_BYTES = 256 << 10
_MOST_DOCUMENT = 48 << 20
_MOST_IDS = 32
_MOST_TURNS = 1_000
_MOST_KNOWN = 100_000
_HASH = re.compile(r"[0-9a-f]{32}")

Entry = tuple[CallRecord, bytes]
"""A record, and the trace that goes with it; empty: none."""


class CallSink(Protocol):
    async def put(self, entries: Sequence[Entry], /) -> None:
        """Returns when they are stored. Raises UnavailableError."""
        ...


@dataclass(frozen=True, slots=True)
class CallKeys:
    """Attributes of host spans, and keys of OpenAI's metadata, that say something of a call."""

    ids: tuple[str, ...]
    caller: tuple[str, ...]
    callee: tuple[str, ...]
    outcome: tuple[str, ...]
    recording: tuple[str, ...]

    def every(self) -> frozenset[str]:
        """All of them, and those in which OpenAI's ids stand."""
        return frozenset((*self.ids, *self.caller, *self.callee, *self.outcome, *self.recording, *GUEST_KEYS))


class CallRecords:
    def __init__(
        self,
        sink: CallSink,
        keys: CallKeys,
        read_number: Callable[[str], tuple[Phone | None, str | None]],
        clock: Callable[[], int],
        hashed: Collection[str] = (),
        *,
        plain: bool = False,
    ) -> None:
        """``read_number``: a number as it is kept, and in clear where that is kept too; ``hashed``: attributes that
        ``redact`` has replaced by the very hash under which a number is kept; ``plain``: numbers stay in the trace that
        is kept with a call."""
        self._sink = sink
        self._keys = keys
        self._read_number = read_number
        self._clock = clock
        self._hashed = frozenset(hashed)
        self._known: dict[Key, None] = {}
        self._masking = None if plain else Redaction(frozenset((*keys.caller, *keys.callee)), self._masked)
        self._wanted = keys.every()
        self._search = CallSearch(keys.ids)

    async def keep(self, works: Iterable[Work]) -> None:
        """Write down those releases that are of a call. Raises UnavailableError."""
        releases = [_release(work, by_key=by_key) for work in works if (by_key := self._is_call(work)) is not None]
        await self._write(releases)

    async def keep_plain(self, plain: PlainRelease) -> None:
        """The same of a plain batch, of which nothing was decoded."""
        # Without its repeats a trace's runs are no longer counted as they came.
        envelopes = (envelope for envelope, _ in plain.runs)
        found = self._search.among(plain.traces.parts, envelopes, whole=plain.merged > 0)
        if found:
            kept = [_Release(plain.traces[at], ReleaseReason.COMPLETE, by_key=True) for at in found]
            await self._write(kept)

    def _is_call(self, work: Work) -> bool | None:
        """None: it is of no call. A guest, or a span that expects one, is a call's (False); else a key of one has to
        stand in it (True). What comes late may be."""
        out, state = work.assembled, work.claim.state
        trace = out.trace or out.left_out
        if trace is None:
            return None
        if is_guest_key(work.claim.key):
            if any(guest.match or guest.source is Source.REALTIME for guest in out.guests):
                return False
        elif state.guests or Facts.ANCHOR in state.facts:
            return False
        elif state.remembered and (work.reason is not ReleaseReason.STREAM or work.claim.key in self._known):
            # Where nothing is held, nearly all of a trace is late: of those that no call was seen of, nothing is asked.
            return False
        return True if self._search.one(piece.payload for piece in trace.pieces) else None

    async def _write(self, releases: Sequence["_Release"]) -> None:
        if not releases:
            return
        size = sum(len(piece.payload) for one in releases for piece in one.trace.pieces)
        if entries := await in_thread_if(size > _THREAD_BYTES, self._entries, releases):
            await self._sink.put(entries)

    def _entries(self, releases: Sequence["_Release"]) -> list[Entry]:
        entries: list[Entry] = []
        for one in releases:
            try:
                record = self._record(one)
                if record is not None:
                    entries.append(record)
                    self._know(one.trace.key)
            except Exception:
                # The trace has left, and is settled all the same.
                logger.exception("what a trace says of its call cannot be read: %s", one.trace.key.hex())
        return entries

    def _record(self, release: "_Release") -> Entry | None:
        trace, latency = release.trace, release.latency
        facts = call_facts(trace.pieces, self._wanted)
        if release.by_key and not any(key in facts.values for key in self._keys.ids):
            return None
        now = self._clock()
        caller, caller_number = self._number(facts, self._keys.caller)
        callee, callee_number = self._number(facts, self._keys.callee)
        ids = self._ids(facts, {phone.hash for phone in (caller, callee) if phone is not None})
        digest = sha256()
        for piece in trace.pieces:
            digest.update(piece.payload)
        document = b""
        unjoined = _unjoined(release, facts)
        size = sum(len(piece.payload) for piece in trace.pieces)
        if release.kept and size <= _MOST_DOCUMENT:
            document = build.request([trace if self._masking is None else _without_numbers(trace, self._masking)])
        record = CallRecord(
            name=f"release:{facts.trace_id.hex()}:{digest.hexdigest()[:16]}",
            origin=Origin.RELEASE,
            at=now,
            ids=ids,
            traces=(facts.trace_id,) if facts.trace_id else (),
            guests=tuple(facts.guests),
            caller=caller,
            callee=callee,
            numbers=(caller_number, callee_number),
            start=facts.start,
            end=facts.end,
            outcome=self._outcome(facts),
            turns=_turns(latency, facts),
            app_ms=None if latency is None else _ms(latency.app_ns),
            openai_ms=None if latency is None else _ms(latency.openai_ns),
            unknown_ms=None if latency is None else _ms(latency.unknown_ns),
            unanswered_ms=facts.unanswered_ms,
            tools=facts.tools,
            errors=facts.errors,
            barge_ins=max(facts.guest_barge_ins, facts.told_barge_ins),
            guest_barge_ins=facts.guest_barge_ins,
            told_barge_ins=facts.told_barge_ins,
            spans=facts.spans,
            unjoined=unjoined,
            policy=release.policy,
            kept=release.kept,
            recording=next(iter(_first(facts, self._keys.recording)), None),
            addition=release.late and not (ids or facts.guests),
        )
        return record, document

    def _ids(self, facts: CallFacts, hashes: set[str]) -> tuple[CallId, ...]:
        keys = self._keys.ids
        found = [call_id(key, value, keys) for key in keys for value in facts.values.get(key, ())]
        found += [openai_id(value) for key in GUEST_KEYS for value in facts.values.get(key, ())]
        found += [openai_id(guest) for guest in facts.guests]
        ids = [one for one in found if one is not None]
        if hashes:
            # Some apps name a call by the number that calls: it is a person's, and the next call has it too.
            ids = [one for one in ids if not (one.value.isdecimal() and self._is_number(one.value, hashes))]
        return distinct(ids[:_MOST_IDS])

    def _is_number(self, value: str, hashes: set[str]) -> bool:
        return any(
            phone is not None and phone.hash in hashes
            for phone, _ in (self._read_number(value), self._read_number(f"+{value}"))
        )

    def _number(self, facts: CallFacts, keys: tuple[str, ...]) -> tuple[Phone | None, str | None]:
        for key in keys:
            for value in facts.values.get(key, ()):
                if key in self._hashed and _HASH.fullmatch(value):
                    return Phone(value, ""), None
                phone, number = self._read_number(value)
                if phone is not None:
                    return phone, number
        return None, None

    def _know(self, key: Key) -> None:
        self._known[key] = None
        if len(self._known) > _MOST_KNOWN:
            del self._known[next(iter(self._known))]

    def _masked(self, value: AttributeValue) -> str:
        phone, _ = self._read_number(str(value))
        return f"…{phone.last_four}" if phone is not None else "…"

    def _outcome(self, facts: CallFacts) -> str:
        for value in _first(facts, self._keys.outcome):
            if outcome := outcome_of(value):
                return outcome
        return "failed" if facts.root_failed else ""


@dataclass(frozen=True, slots=True)
class _Release:
    trace: OutTrace
    reason: ReleaseReason
    kept: bool = True
    policy: str = ""
    late: bool = False
    never: bool = False
    refused: bool = False
    latency: CallLatency | None = None
    by_key: bool = False
    """Only the bytes of a key say that it is a call's: they may be some value's."""
    hosted: bool = True
    """It is the host's, or hangs under one."""


def _release(work: Work, *, by_key: bool) -> _Release:
    out, state = work.assembled, work.claim.state
    trace = out.trace or out.left_out
    assert trace is not None
    guest = is_guest_key(work.claim.key)
    return _Release(
        trace,
        work.reason,
        kept=out.trace is not None,
        policy="" if out.sampled is None else out.sampled.decision.policy,
        late=state.remembered and not guest,
        never=out.never,
        refused=Outcome.REFUSED in work.outcomes.values(),
        latency=out.latency,
        by_key=by_key,
        hosted=not guest or any(one.match for one in out.guests),
    )


def _unjoined(release: _Release, facts: CallFacts) -> tuple[str, ...]:
    problems: list[str] = []
    if release.never:
        problems.append(NEVER_CAME)
    elif not facts.guests and not release.late:
        problems.append(NO_GUEST)
    if not release.hosted:
        problems.append("OpenAI's trace names no trace of the app, and left as one of its own")
    elif facts.unanchored:
        problems.append("OpenAI's spans hang under no span of the app, for the one that they name was not seen")
    if facts.missing_parents:
        problems.append(f"the parents of {facts.missing_parents} of OpenAI's spans never came")
    if facts.disconnected:
        problems.append("the connection to OpenAI broke off, so what followed is missing")
    if release.reason is ReleaseReason.OVERSIZE:
        problems.append("the trace grew past its limit and left early, in pieces")
    if release.refused:
        problems.append("a backend refused the trace for good; it is in the dead-letter box")
    return tuple(problems)


def _without_numbers(trace: OutTrace, masking: Redaction) -> OutTrace:
    pieces = tuple(Piece(masking.envelope(one.envelope), masking.run(one.payload), one.spans) for one in trace.pieces)
    return replace(trace, pieces=pieces)


def _first(facts: CallFacts, keys: tuple[str, ...]) -> Iterable[str]:
    return (value for key in keys for value in facts.values.get(key, ()))


def _turns(latency: CallLatency | None, facts: CallFacts) -> tuple[TurnRow, ...]:
    """What was worked out of the release; where nothing was, what its spans say themselves, as frameworks do."""
    if latency is None or not (latency.caller_turns or latency.model_turns):
        return tuple(_turn(at, turn) for at, turn in enumerate(facts.turns, 1))
    answers = {turn.span_id: turn for turn in latency.model_turns}
    waits = [*latency.greetings, *latency.caller_turns]
    if waits:
        return tuple(_wait(turn, answers.get(turn.answer)) for turn in waits[:_MOST_TURNS])
    return tuple(
        _turn(turn.number, Turn(turn.start, first_token_ms=_ms(turn.first_token_ns)))
        for turn in latency.model_turns[:_MOST_TURNS]
    )


def _wait(turn: CallerTurn, answer: ModelTurn | None) -> TurnRow:
    parts: dict[str, float] = {}
    for part in turn.parts:
        parts[part.name] = parts.get(part.name, 0.0) + part.ns / 1e6
    first = None if answer is None else _ms(answer.first_token_ns)
    wait, error = (turn.end - turn.start) / 1e6, turn.error_ns / 1e6
    return TurnRow(turn.number, turn.start, wait, error, parts, first, turn.sentence)


def _ms(ns: int | None) -> float | None:
    return None if ns is None else ns / 1e6


def _turn(number: int, turn: Turn) -> TurnRow:
    sentence = turn.sentence
    if not sentence and turn.wait_ms is not None:
        parts = [f"{turn.parts[name] / 1000:.2f} {word}" for name, word in _WORDS.items() if turn.parts.get(name)]
        sentence = f"waited {turn.wait_ms / 1000:.2f} s" + (f": {', '.join(parts)}" if parts else "")
    elif not sentence and turn.first_token_ms is not None:
        sentence = f"the model's first token took {turn.first_token_ms / 1000:.2f} s"
    return TurnRow(number, turn.start, turn.wait_ms, turn.error_ms, turn.parts, turn.first_token_ms, sentence)


_WORDS = {
    "endpointing": "the voice detector",
    "model": "the model",
    "tool": "your tools",
    "relay": "your app between them",
    "playout": "on the way to the caller's ear",
    "unknown": "nobody knows",
}
