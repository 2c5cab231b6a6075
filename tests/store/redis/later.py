"""A later version of the store's records: what it writes has fields that this one does not know.

It is this version with other scripts and other frames: heads, tallies, links and the records of replicas are longer,
and before each part's envelope and behind each guest's facts stands something new. It reads what this version wrote,
and counts in fields of its own.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from hashlib import sha1
from typing import Any

from grafter.store.redis.framing import END, Words
from grafter.store.redis.layout import ELEMENT
from grafter.store.redis.scripts import Argument, Item, Scripts
from grafter.store.redis.store import RedisStore
from tests.store.contract import Settings
from tests.store.redis.places import store

NEWS = b"what a later version knows"
_CHANGES = {
    # Heads: how often the later version wrote them.
    "ddddddddBc8": "ddddddddBc8I4",
    """error("NEWER a held key") end
""": """error("NEWER a held key") end
  if #raw == 106 then raw = raw .. string.rep("\\0", 8) end
  if #raw == 114 then raw = raw .. string.char(0, 0, 0, 0) end
""",
    "replica, owner = unpk(HEAD": "replica, owner, writes = unpk(HEAD",
    "owner = owner, was = first": "owner = owner, writes = writes, was = first",
    "        h.replica, h.owner)": "        h.replica, h.owner, (h.writes or 0) + 1)",
    # Tallies: the same.
    """      if type(number) == "number" then
        call("hset", base""": """      if #now == TALLY_BYTES then now = now .. pack("<I4", 0) end
      now = now:sub(1, TALLY_BYTES) .. pack("<I4", unpk("<I4", now, TALLY_BYTES + 1) + 1)
      if type(number) == "number" then
        call("hset", base""",
    # Links and replicas: a word behind them.
    '+ tonumber(ARGV[i + 2])) .. host, "px"': '+ tonumber(ARGV[i + 2])) .. host .. (has == 1 and "new" or ""), "px"',
    "taken, handed, is_noted, was[number] or NOBODY))": 'taken, handed, is_noted, was[number] or NOBODY) .. "new")',
}


def _changed(scripts: Scripts) -> None:
    left = set(_CHANGES)
    for name, text in scripts.texts.items():
        later = text.decode()
        for old, new in _CHANGES.items():
            if old in later:
                left.discard(old)
                later = later.replace(old, new)
        scripts.texts[name] = later.encode()
        scripts.hashes[name] = sha1(scripts.texts[name], usedforsecurity=False).hexdigest().encode()
    assert not left, "the scripts are others by now"


def _framed(part: bytes) -> bytes:
    """The part as a later version writes it."""
    version, flags, more, *rest = ELEMENT.unpack_from(part)
    assert more == 0
    return ELEMENT.pack(version, flags, len(NEWS), *rest) + NEWS + part[ELEMENT.size :]


def _plain(words: Sequence[Argument] | Words) -> list[Argument]:
    """Words that are framed already, as they were before."""
    if not isinstance(words, Words):
        return list(words)
    left, found = b"".join(words.pieces), []
    while left:
        length, _, left = left[1:].partition(END)
        found.append(left[: int(length)])
        left = left[int(length) + len(END) :]
    assert len(found) == words.number
    return list(found)


def _items(items: Sequence[Item]) -> list[Item]:
    found = []
    for bucket, (record, part, *rest) in items:
        words: list[Argument] = [record, part if isinstance(part, int) else _framed(part)]
        if rest and isinstance(rest[0], bytes):
            words += [rest[0] + NEWS, *rest[1:]]
        found.append((bucket, words))
    return found


@asynccontextmanager
async def later_store(url: str, prefix: str, settings: Settings) -> AsyncIterator[RedisStore]:
    """A store of the later version."""
    async with store(url, prefix, settings) as running:
        yield become_later(running)


def become_later(running: RedisStore) -> RedisStore:
    """Let a store that has just been opened be of the later version."""
    engine = running.engine
    _changed(engine._scripts)
    for server in engine.topology.servers():
        # New connections are given the new scripts.
        server.forget()
    run = engine.run

    async def later(name: str, items: Sequence[Item], *head: Any, **more: Any) -> Any:
        if name == "append":
            # Parts that are moved are framed already.
            plain: list[Item] = [(bucket, _plain(own)) for bucket, own in items]
            items = [one if _is_framed(one) else _items([one])[0] for one in plain]
        return await run(name, items, *head, **more)

    engine.run = later  # type: ignore[method-assign]
    return running


def _is_framed(item: Item) -> bool:
    part = item[1][1]
    return isinstance(part, bytes) and ELEMENT.unpack_from(part)[2] > 0
