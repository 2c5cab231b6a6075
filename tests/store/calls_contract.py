"""What every store must do with notes of calls."""

import asyncio
from dataclasses import replace

import pytest

from grafter.core.calls import CallNote, Phone
from grafter.core.model import UnixNano
from grafter.core.policy import SECOND, Waits
from tests.store.contract import HOST, START, Place, Settings, held_texts, host_part

CALLER = Phone("0123456789abcdef" * 2, "0123")
CALLEE = Phone("fedcba9876543210" * 2, "")
OTHER = Phone("0" * 32, "9999")
TRACEPARENT = f"00-{'a' * 32}-{'b' * 16}-01"
REMEMBER = 1000 * SECOND


def note(call_id: str = "rtc_1", at: int = START, **said: object) -> CallNote:
    return CallNote(call_id, UnixNano(at), **said)  # type: ignore[arg-type]


class CallContract:
    """Claims about what any store keeps of calls. Subclasses give the fixture ``place``."""

    async def test_what_was_told_of_a_call_is_read_back(self, place: Place, settings: Settings) -> None:
        """All of it, by its call id; of a call that nobody told of, nothing. It is no part of any trace."""
        whole = note("rtc_1", caller=CALLER, callee=CALLEE, traceparent=TRACEPARENT)
        bare = note("rtc_{2}:")
        async with place.open(settings) as store:
            await store.put_calls([], START)
            await store.put_calls([whole, bare], START)
            assert await store.find_calls(["rtc_{2}:", "rtc_1", "rtc_3"], START) == [bare, whole, None]
            assert store.stats().traces == 0
            await store.append([host_part()], START)
            assert await held_texts(store) == {HOST: ["part"]}

    async def test_the_first_to_say_something_of_a_call_says_it_for_good(
        self, place: Place, settings: Settings
    ) -> None:
        """A later note fills in what was left open, also within one request."""
        async with place.open(settings) as store:
            await store.put_calls([note(caller=CALLER), note(caller=OTHER, callee=CALLEE)], START)
            later = UnixNano(START + SECOND)
            await store.put_calls([note(at=later, caller=OTHER, callee=OTHER, traceparent=TRACEPARENT)], later)
            assert await store.find_calls(["rtc_1"], later) == [
                note(caller=CALLER, callee=CALLEE, traceparent=TRACEPARENT)
            ]

    async def test_the_first_link_of_a_guest_stands(self, place: Place, settings: Settings) -> None:
        """Whoever says another one later, or leaves it open; of two at once one stands, for everybody."""
        async with place.open(settings) as store:
            await store.put_calls([note(caller=CALLER)], START)
            links = [f"api {n:032x}  " for n in range(1, 21)]
            await asyncio.gather(*(store.put_calls([note(link=link)], START) for link in links))
            (first,) = await store.find_calls(["rtc_1"], START)
            assert first is not None
            assert first.link in links
            await store.put_calls([note(link="other"), note(callee=CALLEE)], START)
            assert await store.find_calls(["rtc_1"], START) == [replace(first, callee=CALLEE)]

    async def test_of_many_links_at_once_all_get_the_one_that_stands(self, place: Place, settings: Settings) -> None:
        """Nobody thinks that it was first while somebody else does, and whoever asks later gets the same."""
        async with place.open(settings) as store:
            said = ["waits", "runs"] * 10
            answers = await asyncio.gather(*(store.first_link("grafter.sums 00", link, START) for link in said))
            (stands,) = set(answers)
            assert stands in said
            assert await store.find_calls(["grafter.sums 00"], START) == [note("grafter.sums 00", link=stands)]
            assert await store.first_link("grafter.sums 01", "other", START) == "other"
            await store.put_calls([note("rtc_1", caller=CALLER, link="noted")], START)
            assert await store.first_link("rtc_1", "later", START) == "noted"
            await store.put_calls([note("rtc_2", caller=CALLER)], START)
            assert await store.first_link("rtc_2", "open", START) == "open"
            assert await store.find_calls(["rtc_2"], START) == [note("rtc_2", caller=CALLER, link="open")]

    async def test_the_first_link_stands_for_as_long_as_its_row(self, place: Place, settings: Settings) -> None:
        """Counted from who asked last; then the next one is the first. Past their number the oldest rows go."""
        async with place.open(replace(settings, waits=Waits(remember=REMEMBER, remember_limit=64))) as store:
            assert await store.first_link("a", "first", START) == "first"
            again = UnixNano(START + 10 * SECOND)
            assert await store.first_link("a", "second", again) == "first"
            last = UnixNano(again + REMEMBER - 1)
            assert await store.first_link("b", "third", last) == "third"
            assert await store.find_calls(["a"], last) == [note("a", link="first")]
            over = UnixNano(again + REMEMBER)
            assert await store.first_link("a", "fourth", over) == "fourth"
            assert await store.find_calls(["a", "b"], over) == [
                note("a", over, link="fourth"),
                note("b", last, link="third"),
            ]
            for n in range(1000):
                await store.first_link(f"rtc_{n}", "link", UnixNano(over + n))
            found = await store.find_calls([f"rtc_{n}" for n in range(1000)], UnixNano(over + 1000))
            assert 32 <= sum(one is not None for one in found) <= 64
            assert found[-1] is not None

    async def test_notes_of_one_call_at_once_are_one(self, place: Place, settings: Settings) -> None:
        async with place.open(settings) as store:
            phones = [Phone(f"{n:032x}", "1234") for n in range(20)]
            await asyncio.gather(*(store.put_calls([note(caller=phone)], START) for phone in phones))
            (first,) = await store.find_calls(["rtc_1"], START)
            assert first is not None
            assert first.caller in phones
            await store.put_calls([note(caller=OTHER)], START)
            assert await store.find_calls(["rtc_1"], START) == [first]

    @pytest.mark.parametrize("first", ["a", "b"])
    async def test_a_call_is_forgotten_when_its_time_is_over(
        self, place: Place, settings: Settings, first: str
    ) -> None:
        """Counted from when it was told of last; what was said of it does not stand for the next call of that id,
        also where an older call is still told of."""
        async with place.open(settings) as store:
            both = [note(one, caller=CALLER) for one in sorted("ab", reverse=first == "b")]
            await store.put_calls(both, START)
            await store.put_calls([note("b")], UnixNano(START + 10 * SECOND))
            last = UnixNano(START + REMEMBER - 1)
            assert await store.find_calls(["a", "b"], last) == [note("a", caller=CALLER), note("b", caller=CALLER)]
            over = UnixNano(START + REMEMBER)
            assert await store.find_calls(["a", "b"], over) == [None, note("b", caller=CALLER)]
            await store.put_calls([note("a", over, callee=CALLEE)], over)
            assert await store.find_calls(["a"], over) == [note("a", over, callee=CALLEE)]

    async def test_past_their_number_the_oldest_go_first(self, place: Place, settings: Settings) -> None:
        """Whoever sends calls without end does not choose how much room they take."""
        async with place.open(replace(settings, waits=Waits(remember=REMEMBER, remember_limit=64))) as store:
            for n in range(0, 1000, 100):
                now = UnixNano(START + n * SECOND // 100)
                await store.put_calls([note(f"rtc_{i}", caller=CALLER) for i in range(n, n + 100)], now)
            found = await store.find_calls([f"rtc_{n}" for n in range(1000)], now)
            assert 32 <= sum(one is not None for one in found) <= 64
            assert found[-1] is not None
            assert not any(found[:500])


class DurableCallContract:
    """Claims about notes that outlive their process."""

    async def test_notes_outlive_a_stop_and_a_kill(self, place: Place, settings: Settings) -> None:
        """And what another process said first still stands."""
        first = note(caller=CALLER, link=f"backward {'a' * 32}  ")
        async with place.open(settings) as store:
            await store.put_calls([first], START)
            crashed = place.crashed()
        for left in (crashed, place):
            async with left.open(settings) as store:
                assert await store.find_calls(["rtc_1"], START) == [first]
                await store.put_calls([note(caller=OTHER, callee=CALLEE, link="api")], START)
                assert await store.find_calls(["rtc_1"], START) == [replace(first, callee=CALLEE)]
