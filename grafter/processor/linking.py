"""Guests whose host is named by somebody else: by a span of the app that has the guest's id, or by a post.

What was named is noted in the store, by the id that was named; the first note stands for good. A guest takes the note
up by a part of its own that names the host, and from then on nothing tells it from a guest that named its host itself:
it is filed there, waited for there, and found again after a kill. That happens at the first of three occasions: the
note comes while the guest is held; a part of the guest comes; the guest is due and would leave as a trace of its own.
The last one, after which nothing can be missed, also asks by the ids of what is in the guest.

A host that the call's SIP headers name, or the guest's own id spells, comes before what somebody noted, once it has
come.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from grafter.core.calls import CallNote
from grafter.core.link import RESPONSE_ID, TRACEPARENT_KEY, as_text, from_metadata, from_text, is_nameable
from grafter.core.memory_blobs import decode_guest, decode_trace
from grafter.core.model import (
    RULE,
    GuestFacts,
    Key,
    Link,
    NamedLink,
    Part,
    Source,
    TraceId,
    UnixNano,
    call_guest,
    called,
    guest_key,
    openai_trace_id,
)
from grafter.core.rules import is_note_id
from grafter.core.state import GuestState
from grafter.guests.sources import source_of
from grafter.store.base import Store

T = TypeVar("T")

# A request may name as many guests as it has spans; so many are written, or asked for, at a time.
_AT_ONCE = 500
# Of guests that need not be asked for again, and of notes that need not be written again.
_MAX_KNOWN = 100_000
MOST_NOTED = 1_000
"""Of one trace, the notes that are not of a guest's name: ids of answers, and values that rules ask for."""


class Linking:
    """Notes links, and has guests take them up. Methods raise UnavailableError when the store cannot be asked."""

    def __init__(self, store: Store, remember: int) -> None:
        """``remember``: nanoseconds for which a note stands."""
        self._store = store
        # Named by each span of a call, a guest would be noted with every request.
        self._fresh = remember // 2
        self._noted: dict[tuple[str, bytes], UnixNano] = {}
        self._linked: dict[str, None] = {}
        self._of_host: dict[bytes, int] = {}

    async def note(self, links: Sequence[NamedLink], now: UnixNano) -> list[NamedLink]:
        """Store them, up to MOST_NOTED of a trace; those that were not stored by this process just now."""
        fresh = [link for link in links if self._noted.get((link.guest, link.host), -self._fresh) + self._fresh <= now]
        of_host: dict[bytes, int] = {}
        new = [link for link in fresh if _is_name(link) or self._has_room(link.host, of_host)]
        for some in _slices(new):
            await self._store.put_calls([CallNote(link.guest, now, link=as_text(link)) for link in some], now)
            if len(self._noted) > _MAX_KNOWN:
                self._noted.clear()
            self._noted.update({(link.guest, link.host): now for link in some})
        if len(self._of_host) > _MAX_KNOWN:
            self._of_host.clear()
        # Only of what is stored: a sender that is refused sends it again.
        self._of_host.update(of_host)
        return new

    def _has_room(self, host: TraceId, of_host: dict[bytes, int]) -> bool:
        """For one more note of this trace, which then counts in ``of_host``."""
        noted = of_host.get(host) or self._of_host.get(host, 0)
        if noted < MOST_NOTED:
            of_host[host] = noted + 1
        return noted < MOST_NOTED

    async def wake(self, links: Iterable[NamedLink], now: UnixNano) -> None:
        """Let guests that are held, and know of no host, take up what was noted for them."""
        names = [name for link in links if _is_name(link) for name in (link.guest, call_guest(link.guest))]
        parts: list[Part] = []
        for some in _slices(names):
            states = await asyncio.gather(*(self._store.peek(guest_key(name)) for name in some))
            held = [guest for state in states if state is not None for guest in state.guests.values()]
            linkless = [guest for guest in held if guest.host is None and _has_begun(guest)]
            found = await self._usable([guest.guest for guest in linkless], now)
            parts += [
                taking_up(guest.guest, guest.source, found[guest.guest]) for guest in linkless if guest.guest in found
            ]
        if parts:
            await self._store.append(parts, now)

    async def linked(self, parts: Sequence[Part], now: UnixNano) -> Sequence[Part]:
        """Guests' parts as they came, but that those of a guest that names no host name the one that was noted."""
        unknown: dict[str, None] = {}
        for part in parts:
            facts = part.guest
            if facts is None:
                continue
            if facts.host is not None:
                self._know(facts.guest)
            elif _has_begun(facts):
                unknown[facts.guest] = None
        wanted = [name for name in unknown if name not in self._linked]
        if not wanted:
            return parts
        found = await self._usable(wanted, now)
        if not found:
            return parts
        return [
            part
            if part.guest is None or part.guest.guest not in unknown or part.guest.guest not in found
            else replace(part, guest=_naming(part.guest, found[part.guest.guest]))
            for part in parts
        ]

    async def find(self, ids: Sequence[str], now: UnixNano) -> Mapping[str, NamedLink]:
        """What was noted for these ids, where something was and nothing better is known."""
        found: dict[str, NamedLink] = {}
        better: dict[str, Key] = {}
        for some in _slices(list(dict.fromkeys(name for name in ids if is_nameable(name) or is_note_id(name)))):
            for note in await self._store.find_calls(some, now):
                link = None if note is None or note.link is None else from_text(note.call_id, note.link)
                if note is None or link is None:
                    continue
                found[link.guest] = link
                hint = _hinted(note)
                if hint is not None and hint != link.host:
                    better[link.guest] = Key(hint)
        for guest in await self._come(better, now) if better else ():
            del found[guest]
        return found

    async def _come(self, hosts: Mapping[str, Key], now: UnixNano) -> list[str]:
        """Those whose host has come, and is held or remembered."""
        held = await asyncio.gather(*(self._store.peek(host) for host in hosts.values()))
        left = await self._store.recall(list(hosts.values()), now)
        return [
            guest
            for guest, state, memory in zip(hosts, held, left, strict=True)
            if (state is not None and state.host_spans) or (memory is not None and decode_trace(memory.blob))
        ]

    async def _usable(self, guests: Sequence[str], now: UnixNano) -> Mapping[str, NamedLink]:
        """What was noted for these guests, by their names; the rest of one that left alone goes where that went."""
        noted = await self.find([called(guest) for guest in guests], now)
        found = {guest: noted[called(guest)] for guest in guests if called(guest) in noted}
        if found:
            memories = await self._store.recall([guest_key(guest) for guest in found], now)
            for guest, memory in zip(list(found), memories, strict=True):
                if memory is not None and left_alone(memory.blob):
                    del found[guest]
        return found

    def _know(self, guest: str) -> None:
        if len(self._linked) > _MAX_KNOWN:
            self._linked.clear()
        self._linked[guest] = None


def _is_name(link: NamedLink) -> bool:
    """Of a guest; none is called like a response, or like a value that a rule asks for."""
    return link.how != RULE and not link.guest.startswith(RESPONSE_ID)


def _hinted(note: CallNote) -> TraceId | None:
    """The host that a call's SIP headers name, or that the id of an OpenAI trace spells."""
    link = None if note.traceparent is None else from_metadata({TRACEPARENT_KEY: note.traceparent}, ())
    return link.host if isinstance(link, Link) else openai_trace_id(note.call_id)


def _has_begun(guest: GuestFacts | GuestState) -> bool:
    """A call of which nothing is known but that it came in may never begin: its host would wait for it in vain."""
    return not source_of(guest.source).has_hints or guest.head or guest.top_level or guest.ended


def left_alone(blob: bytes) -> bool:
    """By its memory a guest left as a trace of its own, or some of it did."""
    memory = decode_guest(blob)
    return memory is not None and memory.host is None and bool(memory.sent)


def taking_up(guest: str, source: Source, link: NamedLink) -> Part:
    """The part by which a guest of this name takes up a link."""
    return Part(guest_key(guest), b"[]", 0, guest=_naming(GuestFacts(guest, source), link))


def _naming(facts: GuestFacts, link: NamedLink) -> GuestFacts:
    return replace(facts, host=link.host, sampled=link.sampled, how=link.how, anchor=link.span_id)


def _slices(items: Sequence[T]) -> Iterable[Sequence[T]]:
    return (items[i : i + _AT_ONCE] for i in range(0, len(items), _AT_ONCE))
