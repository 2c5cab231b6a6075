"""Two versions of grafter on one Redis: what a later one writes, and a step back."""

import logging
from collections.abc import Iterator
from itertools import count
from struct import unpack_from

import pytest

from grafter.core.model import Facts, Key, UnixNano, guest_key
from grafter.errors import UnavailableError
from grafter.store.model import Memory, Outcome, PlainBatch, PlainSettlement, Settlement
from grafter.store.redis.layout import HEAD, Layout
from grafter.store.redis.store import RedisStore
from tests.store.contract import (
    ENVELOPE,
    HOST,
    LATER,
    LEASE,
    OTHER,
    START,
    Settings,
    claim_one,
    claim_plain,
    guest_part,
    held_texts,
    host_part,
    texts,
)
from tests.store.redis.later import NEWS, later_store
from tests.store.redis.places import store
from tests.store.redis.servers import Server, server

_NUMBERS = count()
SETTINGS = Settings()
TALLY_BYTES = 80
AFTER = UnixNano(LATER + 2 * LEASE)


@pytest.fixture(scope="module")
def redis() -> Iterator[Server]:
    with server() as running:
        yield running


@pytest.fixture
def prefix() -> str:
    return f"versions-{next(_NUMBERS)}"


async def both(now: RedisStore, later: RedisStore) -> None:
    """Parts of the same traces by either, in turn, whoever begins."""
    for i, (first, second) in enumerate(((now, later), (later, now))):
        host, plain = Key(bytes([i]) * 16), Key(bytes([i]) * 15 + b"p")
        await first.append([host_part(f"{i} first", host), host_part(f"{i} root", plain, Facts.ROOT)], START)
        await second.append([host_part(f"{i} second", host), host_part(f"{i} more", plain)], START)
        # A guest's parts that come before its link is known, by the other one.
        await second.append([guest_part(f"{i} early", f"trace_{i}")], START)
        await first.append([guest_part(f"{i} linked", f"trace_{i}", host=host)], START)
        await second.append([guest_part(f"{i} late", f"trace_{i}")], START)
        await first.append([guest_part(f"{i} alone", f"alone_{i}")], START)
        await second.append([guest_part(f"{i} alone too", f"alone_{i}")], START)


def expected() -> dict[Key, list[str]]:
    found = {}
    for i in range(2):
        host = [f"{i} {text}" for text in ("first", "second", "early", "linked", "late")]
        found |= {Key(bytes([i]) * 16): host, Key(bytes([i]) * 15 + b"p"): [f"{i} root", f"{i} more"]}
        found[guest_key(f"alone_{i}")] = [f"{i} alone", f"{i} alone too"]
    return found


async def test_a_step_back_reads_everything_that_is_held(redis: Server, prefix: str) -> None:
    """Both write at once; then the later one is gone, and this one has every part, every link and every moment."""
    async with store(redis.url, prefix, SETTINGS) as now, later_store(redis.url, prefix, SETTINGS) as later:
        await both(now, later)
        assert await held_texts(later) == await held_texts(now) == expected()
    async with store(redis.url, prefix, SETTINGS) as back:
        claims = await back.claim(LATER, 100)
        parts = dict(zip([claim.key for claim in claims], await back.read(claims), strict=True))
        assert {key: texts(read) for key, read in parts.items()} == expected()
        for claim in claims:
            assert claim.state.bytes == sum(len(part.payload) for part in parts[claim.key])
            if len(claim.key) == 16:
                assert {part.envelope for part in parts[claim.key] if part.guest is None} == {ENVELOPE}
                assert all(part.span_ids == bytes(range(8)) for part in parts[claim.key] if part.guest is None)
        guests = {name: state.host for claim in claims for name, state in claim.state.guests.items()}
        assert guests == {"trace_0": b"\0" * 16, "trace_1": b"\x01" * 16, "alone_0": None, "alone_1": None}
        assert all(await back.settle([Settlement(claim, (Memory(claim.key, b"m"),)) for claim in claims], LATER))
        await back.engine.refresh_totals()
        stats = back.stats()
        assert (stats.traces, stats.spans, stats.bytes, stats.unreadable) == (0, 0, 0, 0)


@pytest.mark.parametrize("settler", ["now", "later"])
async def test_either_settles_what_the_other_began(redis: Server, prefix: str, settler: str) -> None:
    """Plain batches, intents, moves and settlements by one, of what both stored; the books of both balance."""
    async with store(redis.url, prefix, SETTINGS) as now, later_store(redis.url, prefix, SETTINGS) as later:
        await both(now, later)
        one, other = (now, later) if settler == "now" else (later, now)
        await one.engine.refresh_totals()
        batch = await claim_plain(one)
        assert isinstance(batch, PlainBatch)
        assert sorted(plain[0] for plain in await one.read(batch)) == [
            [b"0 root", b"0 more"],
            [b"1 root", b"1 more"],
        ]
        assert await one.record(batch, "peer", Outcome.INTENDED) == [True]
        # Its lease ends, and the other one knows of the intent.
        claims = await other.claim(AFTER, 100)
        pinned = {claim.key for claim in claims if claim.outcomes == {"peer": Outcome.INTENDED}}
        assert pinned == set(batch.keys)
        alone = [claim for claim in claims if len(claim.key) == 17]
        assert len(alone) == 2
        for claim in alone:
            assert await other.move(claim, OTHER)
        rest = [claim for claim in claims if len(claim.key) == 16]
        assert all(await other.settle([Settlement(claim) for claim in rest], AFTER))
        last = await claim_one(one, UnixNano(AFTER + LATER - START))
        assert sorted(texts((await one.read([last]))[0])) == ["0 alone", "0 alone too", "1 alone", "1 alone too"]
        assert all(await one.settle([Settlement(last)], AFTER))
        for each in (now, later):
            await each.replicas.check(still=await each.engine.refresh_totals())
        assert now.stats().spans == 0
        taken = sum(each.stats().taken_over_spans for each in (now, later))
        assert taken == sum(each.stats().handed_over_spans for each in (now, later)) > 0


async def test_what_is_new_is_passed_over_and_kept(redis: Server, prefix: str) -> None:
    """This version changes a head and a tally in which a later one keeps something of its own: that stays."""
    layout = Layout(prefix)
    async with store(redis.url, prefix, SETTINGS) as now, later_store(redis.url, prefix, SETTINGS) as later:
        await later.append([host_part("later")], START)
        number = later.engine.numbers[0]

        def news() -> tuple[int, int, bool]:
            head, tally, part = redis.ask(
                [
                    ("GET", layout.name(b"m", HOST)),
                    ("HGET", layout.name(b"m", HOST).split(b"m:")[0] + b"s", number),
                    ("LINDEX", layout.name(b"p", HOST), 0),
                ]
            )
            assert isinstance(head, bytes)
            assert isinstance(tally, bytes)
            assert isinstance(part, bytes)
            return unpack_from("<I", head, HEAD.size)[0], unpack_from("<I", tally, TALLY_BYTES)[0], NEWS in part

        assert news() == (1, 1, True)
        await now.append([host_part("now")], START)
        claim = await claim_one(now)
        await now.record([claim], "peer", Outcome.INTENDED)
        await now.postpone([(claim, LATER)])
        assert news() == (1, 1, True)
        await later.append([host_part("again")], START)
        assert news() == (2, 2, True)
        # The export that was begun covers what was there then.
        assert await held_texts(now) == {HOST: ["later", "now"]}


LEFT_ALONE = {
    "head": ("m", lambda raw: b"\x02" + raw[1:]),
    "part": ("p", lambda raw: b"\x03" + raw[1:]),
    "guest's facts": ("g", lambda raw: raw.replace(b"sdk", b"sdx")),
    "outcome": ("x", lambda raw: b"not known yet"),
}


@pytest.mark.parametrize("what", LEFT_ALONE)
async def test_what_cannot_be_read_is_left_alone(
    redis: Server, prefix: str, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is counted and said, nothing of it changes, all others leave; and who can read it has it at once."""
    kind, change = LEFT_ALONE[what]
    name = Layout(prefix).name(kind.encode(), HOST)
    async with store(redis.url, prefix, SETTINGS) as now:
        await now.append([host_part("a"), guest_part("g", host=HOST), host_part("b", OTHER)], START)
        claims = await now.claim(LATER, 100)
        await now.record([claim for claim in claims if claim.key == HOST], "peer", Outcome.INTENDED)
        await now.postpone([(claim, LATER) for claim in claims])
        place: tuple[bytes | str | int, ...] = (name, "peer") if kind == "x" else (name, 0)
        get = ("GET", name) if kind == "m" else ("HGET" if kind == "x" else "LINDEX", *place)
        put = {"m": "SETRANGE", "x": "HSET"}.get(kind, "LSET")
        (raw,) = redis.ask([get])
        assert isinstance(raw, bytes)
        redis.ask([(put, *place, change(raw))])
        (changed,) = redis.ask([get])
        assert changed != raw
        with caplog.at_level(logging.WARNING):
            left = await now.claim(LATER, 100)
            assert [claim.key for claim in left if claim.key != HOST] == [OTHER]
            if len(left) > 1:
                # Only its parts show it.
                with pytest.raises(UnavailableError, match="newer version"):
                    await now.read(left)
        assert all(await now.settle([Settlement(claim) for claim in left if claim.key == OTHER], LATER))
        assert await now.claim(LATER, 100) == []
        assert now.stats().unreadable == 1
        assert now.up
        assert HOST.hex() in caplog.text
        assert redis.ask([get]) == [changed]
        redis.ask([(put, *place, raw)])
        async with store(redis.url, prefix, SETTINGS) as able:
            claim = await claim_one(able)
            assert texts((await able.read([claim]))[0]) == ["a", "g"]
            assert claim.outcomes == {"peer": Outcome.INTENDED}


@pytest.mark.parametrize("how", ["claims", "batch"])
async def test_what_a_newer_one_took_while_it_left_holds_up_nothing(redis: Server, prefix: str, how: str) -> None:
    """It is no longer this one's, which is an answer; what is beside it is kept and settled."""
    name = Layout(prefix).name(b"m", HOST)
    async with store(redis.url, prefix, SETTINGS) as now:
        await now.append([host_part("a", facts=Facts.ROOT), host_part("b", OTHER, Facts.ROOT)], START)
        if how == "batch":
            batch = await claim_plain(now)
            assert batch is not None
            redis.ask([("SETRANGE", name, 0, b"\x02")])
            await now.renew(batch, LATER)
            assert await now.settle(PlainSettlement(batch, [b"m", b"m"]), LATER) == [False]
        else:
            claims = await now.claim(LATER, 10)
            redis.ask([("SETRANGE", name, 0, b"\x02")])
            await now.renew(claims, LATER)
            settled = await now.settle([Settlement(claim, (Memory(claim.key, b"m"),)) for claim in claims], LATER)
            assert {claim.key: done for claim, done in zip(claims, settled, strict=True)} == {HOST: False, OTHER: True}
        assert now.up


async def test_what_stands_behind_a_link_stays(redis: Server, prefix: str) -> None:
    """By either way to a guest's host: in the step that stores its part, and in one before it."""
    name = Layout(prefix).name(b"l", guest_key("g"))
    async with store(redis.url, prefix, SETTINGS) as now:
        await now.append([guest_part("one", "g", host=HOST)], START)
        (link,) = redis.ask([("GET", name)])
        assert isinstance(link, bytes)
        redis.ask([("SET", name, link + NEWS)])
        await now.append([guest_part("two", "g", host=HOST)], START)
        now._placement._whole = False
        await now.append([guest_part("three", "g", host=HOST)], START)
        (after,) = redis.ask([("GET", name)])
    assert isinstance(after, bytes)
    assert after.endswith(HOST + NEWS)
