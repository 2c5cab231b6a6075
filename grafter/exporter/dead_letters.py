"""What ``grafter dead`` asks: what lies in the dead-letter box, send it again, drop it.

A letter leaves the box when its exporter's peer has taken it, and not before. A large box is not one long request:
what changes it is done a page at a time, and whoever asks comes again with ``next`` as ``skip``, until it is null.
"""

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import orjson

from grafter.consumer import Batch, Exporter, OutTrace, Piece, Result, Verdict
from grafter.core.model import JsonObject, Part, UnixNano, is_guest_key
from grafter.errors import RejectedError
from grafter.exporter.tree import render
from grafter.otlp import build
from grafter.otlp.split import Splitter
from grafter.otlp.to_json import trace_request_to_json
from grafter.store.base import Store
from grafter.store.model import DeadLetter
from grafter.telemetry import Metrics

logger = logging.getLogger(__name__)

UNASSEMBLED = "none"
"""The exporter of letters that no exporter was ever given: traces that could not be assembled."""
DROPPED = "dead_letters_dropped"
"""The reason under which spans count that a command dropped."""
PAGE = 100
_BATCH_SPANS, _BATCH_BYTES = 4000, 3 << 20


@dataclass(frozen=True, slots=True)
class Selection:
    """Which letters a command is about, and where in the box it goes on."""

    ids: frozenset[str] = frozenset()
    """Of letters, or of their traces; empty: of all."""
    exporter: str = ""
    reason: str = ""
    """A part of it, in any case."""
    without: frozenset[str] = frozenset()
    """Exporters whose letters are not worth a try now."""
    limit: int = 0
    """List: how many at most; 0: all."""
    skip: int = 0
    until: int = 0
    """Letters that came after this moment are not meant; 0: now."""

    @classmethod
    def read(cls, body: Mapping[str, object]) -> "Selection":
        """From JSON. Raises RejectedError."""
        ids, without = _texts(body, "ids"), _texts(body, "without")
        return cls(
            frozenset(map(str.lower, ids)),
            _text(body, "exporter"),
            _text(body, "reason"),
            frozenset(without),
            _number(body, "limit"),
            _number(body, "skip"),
            _number(body, "until"),
        )

    def selects(self, letter: DeadLetter) -> bool:
        return (
            (not self.ids or not self.ids.isdisjoint((letter.id, letter.key.hex(), _trace_id(letter))))
            and (not self.exporter or letter.exporter == self.exporter)
            and self.reason.lower() in letter.reason.lower()
        )


@dataclass(slots=True)
class _Retried:
    """What came of a page of letters."""

    taken: int = 0
    spans: int = 0
    gone: int = 0
    """Letters that have left their place."""
    left: dict[str, str] = field(default_factory=dict)
    """What was tried and stays in the box, by id, and why."""
    stopped: dict[str, str] = field(default_factory=dict)
    """Exporters that take nothing now, and why."""
    waiting: int = 0
    """Letters of those."""


class DeadLetters:
    """Answers over a store and the exporters that run, by name. Methods raise UnavailableError and RejectedError."""

    def __init__(
        self, store: Store, exporters: Mapping[str, Exporter], metrics: Metrics, clock: Callable[[], int]
    ) -> None:
        self._store = store
        self._exporters = exporters
        self._metrics = metrics
        self._clock = clock
        # Two that sent the same letters again at once would send them twice.
        self._one = asyncio.Lock()

    async def answer(self, what: str, body: Mapping[str, object]) -> JsonObject:
        """To one command: a JSON object in, a JSON object out."""
        selection = Selection.read(body)
        match what:
            case "list":
                return await self._list(selection)
            case "show":
                return await self._show(selection)
            case "retry":
                async with self._one:
                    return await self._retry(selection)
            case "drop":
                return await self._drop(selection)
        raise RejectedError(f"there is no command dead {what}", reason="shape")

    async def _list(self, selection: Selection) -> JsonObject:
        """The newest first, the groups of all that are meant, and what the box has in all."""
        letters: list[JsonObject] = []
        groups: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        async for letter in self._newest(selection):
            groups[letter.exporter, letter.reason].update(letters=1, spans=letter.spans, bytes=len(letter.payload))
            if not selection.limit or len(letters) < selection.limit:
                letters.append(_as_json(letter))
        return {
            "letters": letters,
            "groups": [
                {"exporter": exporter, "reason": reason, **counts}
                for (exporter, reason), counts in sorted(groups.items(), key=lambda one: -one[1]["letters"])
            ],
            "box": {
                name: {"letters": of.letters, "spans": of.spans, "bytes": of.bytes}
                for name, of in sorted(self._store.stats().dead_letters.items())
                if of.letters
            },
        }

    async def _show(self, selection: Selection) -> JsonObject:
        """The letters of one id, each as OTLP JSON and as a tree to read; what is no OTLP as it is."""
        if not selection.ids:
            raise RejectedError("expected the id of a letter, or of a trace", reason="shape")
        shown: list[JsonObject] = []
        async for letter in self._newest(selection):
            try:
                document = orjson.loads(trace_request_to_json(letter.payload))
                shown.append({**_as_json(letter), "tree": render(letter.payload, "detailed"), "document": document})
            except (RejectedError, ValueError):
                shown.append({**_as_json(letter), "tree": letter.payload.decode("utf-8", "replace"), "document": None})
        return {"letters": shown}

    async def _retry(self, selection: Selection) -> JsonObject:
        """One page, the oldest first: each letter through its exporter; what is taken leaves the box."""
        page, meant, answer = await self._page(selection)
        result = _Retried()
        by_exporter: dict[str, list[DeadLetter]] = defaultdict(list)
        for letter in meant:
            by_exporter[letter.exporter].append(letter)
        for name, letters in by_exporter.items():
            if name == UNASSEMBLED:
                await self._hold_again(letters, result)
            elif name not in self._exporters:
                why = f"no exporter {name} is configured"
                result.left |= {letter.id: why for letter in letters}
            else:
                for some in _batches(letters):
                    if name in selection.without or name in result.stopped:
                        result.waiting += len(some)
                    else:
                        await self._send(self._exporters[name], some, result)
        if result.spans:
            logger.info("%d dead letters, %d spans, were sent again and taken", result.taken, result.spans)
        return {
            **answer,
            "next": selection.skip + len(page) - result.gone if page else None,
            "taken": result.taken,
            "spans": result.spans,
            "left": result.left,
            "stopped": result.stopped,
            "waiting": result.waiting,
        }

    async def _drop(self, selection: Selection) -> JsonObject:
        page, meant, answer = await self._page(selection)
        removed = await self._store.remove_dead_letters(meant) if meant else []
        gone = [letter for letter, done in zip(meant, removed, strict=True) if done]
        spans = sum(letter.spans for letter in gone)
        if gone:
            self._metrics.dropped_spans.labels(DROPPED).inc(spans)
            logger.warning("%d dead letters, %d spans, were dropped by command", len(gone), spans)
        after = selection.skip + len(page) - len(meant)
        return {**answer, "next": after if page else None, "dropped": len(gone), "spans": spans}

    async def _page(self, selection: Selection) -> tuple[Sequence[DeadLetter], list[DeadLetter], JsonObject]:
        """The next letters of the box that are not too new, those of them that are meant, and what goes back."""
        until = selection.until or self._clock()
        page = await self._store.dead_letters(PAGE, skip=selection.skip, oldest=True)
        page = [letter for letter in page if letter.at <= until]
        return page, [letter for letter in page if selection.selects(letter)], {"until": until}

    async def _newest(self, selection: Selection) -> AsyncIterator[DeadLetter]:
        skip = 0
        while page := await self._store.dead_letters(PAGE, skip=skip):
            for letter in page:
                if selection.selects(letter):
                    yield letter
            skip += len(page)

    async def _send(self, exporter: Exporter, letters: Sequence[DeadLetter], result: _Retried) -> None:
        """As one batch. What is known of each attempt is kept, so that only what may have arrived is marked."""
        read = [(letter, _trace(letter)) for letter in letters]
        result.left |= {letter.id: "its spans cannot be read" for letter, trace in read if trace.spans != letter.spans}
        letters = [letter for letter, trace in read if trace.spans == letter.spans]
        traces = [trace for letter, trace in read if trace.spans == letter.spans]
        batch = Batch(traces, sum(t.spans for t in traces), sum(len(x.payload) for x in letters), letters=True)
        await self._store.record_retry(letters, begun=True)
        taken: list[DeadLetter] = []
        untouched: list[DeadLetter] = []
        for letter, trace, got in zip(letters, traces, await exporter.export(batch), strict=True):
            if got.verdict is Verdict.ACCEPTED:
                taken.append(letter)
                result.spans += trace.spans
                self._metrics.revived_spans.labels(exporter.name).inc(trace.spans)
                continue
            if got.verdict is Verdict.LATER:
                result.stopped[exporter.name] = got.reason
                result.waiting += 1
            else:
                result.left[letter.id] = got.reason
            if got.part is not None:
                await self._keep_rest(letter, got, exporter, result)
            elif not got.unknown and not letter.retried:
                untouched.append(letter)
        if taken:
            await self._store.remove_dead_letters(taken)
            result.taken += len(taken)
            result.gone += len(taken)
        if untouched:
            await self._store.record_retry(untouched, begun=False)

    async def _keep_rest(self, letter: DeadLetter, got: Result, exporter: Exporter, result: _Retried) -> None:
        """Of a letter that was taken in part the rest takes its place."""
        assert got.part is not None
        spans = letter.spans - got.part.spans
        result.spans += spans
        self._metrics.revived_spans.labels(exporter.name).inc(spans)
        # Newer than what is meant, so that it is not met once more.
        at = UnixNano(self._clock() + 1)
        rest = replace(letter, reason=got.reason, at=at, spans=got.part.spans, payload=build.request([got.part]))
        # Where there is no room for both, the letter stays whole, and says that some of it may have arrived.
        if (await self._store.add_dead_letters([rest])).kept:
            await self._store.remove_dead_letters([letter])
            result.gone += 1

    async def _hold_again(self, letters: Sequence[DeadLetter], result: _Retried) -> None:
        """What could not be assembled is held once more, for a version that can."""
        for letter in letters:
            parts = Splitter(()).split(letter.payload).parts if not letter.payload.startswith((b"[", b"{")) else ()
            if not parts:
                result.left[letter.id] = "OpenAI's items alone cannot be joined again"
                continue
            await self._store.append(parts, UnixNano(self._clock()))
            await self._store.remove_dead_letters([letter])
            self._metrics.revived_spans.labels(UNASSEMBLED).inc(letter.spans)
            result.taken += 1
            result.gone += 1
            result.spans += letter.spans


def _text(body: Mapping[str, object], name: str) -> str:
    found = body.get(name) or ""
    if not isinstance(found, str):
        raise RejectedError(f"expected a string under {name}", reason="shape")
    return found


def _texts(body: Mapping[str, object], name: str) -> list[str]:
    found = body.get(name) or []
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise RejectedError(f"expected a list of strings under {name}", reason="shape")
    return found


def _number(body: Mapping[str, object], name: str) -> int:
    found = body.get(name) or 0
    if not isinstance(found, int) or found < 0:
        raise RejectedError(f"expected a whole number under {name}", reason="shape")
    return found


def _batches(letters: Sequence[DeadLetter]) -> list[list[DeadLetter]]:
    batches: list[list[DeadLetter]] = []
    spans = size = 0
    for letter in letters:
        spans, size = spans + letter.spans, size + len(letter.payload)
        if not batches or spans > _BATCH_SPANS or size > _BATCH_BYTES:
            batches.append([])
            spans, size = letter.spans, len(letter.payload)
        batches[-1].append(letter)
    return batches


def _trace(letter: DeadLetter) -> OutTrace:
    """What of the letter can be read, as it goes out."""
    parts = _parts(letter)
    pieces = tuple(Piece(part.envelope, part.payload, part.spans) for part in parts if part.envelope is not None)
    return OutTrace(letter.key, pieces, sum(piece.spans for piece in pieces), resend=letter.retried)


def _trace_id(letter: DeadLetter) -> str:
    if not is_guest_key(letter.key):
        return letter.key.hex()
    return next((part.key.hex() for part in _parts(letter)), "")


def _parts(letter: DeadLetter) -> Sequence[Part]:
    """None of what cannot be read."""
    try:
        return Splitter(()).split(letter.payload).parts
    except (RejectedError, ValueError):
        return ()


def _as_json(letter: DeadLetter) -> JsonObject:
    return {
        "id": letter.id,
        "trace_id": _trace_id(letter),
        "exporter": letter.exporter,
        "spans": letter.spans,
        "bytes": len(letter.payload),
        "reason": letter.reason,
        "at": datetime.fromtimestamp(letter.at / 1e9, UTC).isoformat(timespec="milliseconds"),
        "may_have_arrived": letter.retried,
    }
