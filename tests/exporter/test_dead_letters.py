"""Letters that are sent again: each leaves the box when it was taken, and of one that was taken in part the rest stays
there."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from grafter.core.model import Key, UnixNano, guest_key
from grafter.errors import RejectedError
from grafter.exporter.answer import Accepted, ExportAnswer, Later, Refused
from grafter.exporter.dead_letters import PAGE, UNASSEMBLED, DeadLetters
from grafter.otlp.build import request
from grafter.store.model import DeadLetter, DeadLetterCounts
from tests.exporter.doubles import Clock, Script, count, spans_in, trace
from tests.exporter.test_sending import sending
from tests.rig import START, Rig, rig


def letter(number: int, spans: int = 2, exporter: str = "out", reason: str = "HTTP 400") -> DeadLetter:
    one = trace(number, spans)
    return DeadLetter(one.key, exporter, reason, UnixNano(START + number), spans, request([one]))


@asynccontextmanager
async def opened_box(
    *letters: DeadLetter, script: Script, clock: Clock | None = None
) -> AsyncIterator[tuple[DeadLetters, Rig]]:
    """The answers over a store with these letters and an exporter ``out`` over a script."""
    async with rig() as rooms:
        rooms.now[0] = START + 10**12
        await rooms.store.add_dead_letters(letters)
        exporter = sending(script, clock, rooms.metrics)
        yield DeadLetters(rooms.store, {"out": exporter}, rooms.metrics, lambda: rooms.now[0]), rooms


async def left(rooms: Rig) -> list[int]:
    return [int.from_bytes(one.key, "big") for one in await rooms.store.dead_letters(1 << 20, oldest=True)]


async def test_what_is_taken_leaves_the_box_with_its_bytes() -> None:
    """The spans go out as they are in the letter; sent and revived count them, and the books balance."""
    script = Script(lambda _: Accepted())
    async with opened_box(letter(1), letter(2, 3), script=script) as (answers, rooms):
        answer = await answers.answer("retry", {})
        assert (answer["taken"], answer["spans"], answer["left"], answer["next"]) == (2, 5, {}, 0)
        assert (await answers.answer("retry", {"skip": 0}))["next"] is None
        assert sorted(s.SerializeToString() for b in script.bodies for s in spans_in(b)) == sorted(
            s.SerializeToString() for one in (letter(1), letter(2, 3)) for s in spans_in(one.payload)
        )
        assert await left(rooms) == []
        assert count(rooms.metrics, "exporter_sent_spans") == count(rooms.metrics, "revived_spans") == 5
        assert rooms.store.stats().dead_letters["out"] == DeadLetterCounts(0, 0, 0)


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ({}, {1, 2, 3}),
        ({"ids": [trace(2).key.hex().upper()]}, {2}),
        ({"exporter": "other"}, {3}),
        ({"reason": "TOO large"}, {2}),
        ({"reason": "too large", "exporter": "other"}, set()),
    ],
)
async def test_letters_are_chosen_by_id_exporter_and_reason(asked: dict[str, object], meant: set[int]) -> None:
    letters = [letter(1), letter(2, reason="HTTP 413: too large"), letter(3, exporter="other")]
    async with opened_box(*letters, script=Script(lambda _: Accepted())) as (answers, rooms):
        found = await answers.answer("list", asked)
        assert isinstance(found["letters"], list)
        assert {int(one["trace_id"], 16) for one in found["letters"]} == meant
        answer = await answers.answer("drop", asked)
        assert (answer["dropped"], answer["spans"]) == (len(meant), 2 * len(meant))
        assert set(await left(rooms)) == {1, 2, 3} - meant
        assert rooms.count("grafter_dropped_spans_total", reason="dead_letters_dropped") == 2 * len(meant)


async def test_a_large_box_is_gone_through_page_by_page() -> None:
    """Each letter is asked for once, whatever stays; letters that come meanwhile are not meant."""
    asked: list[int] = []

    def answer(body: bytes) -> ExportAnswer:
        numbers = {int.from_bytes(span.trace_id, "big") for span in spans_in(body)}
        if any(n % 3 == 0 for n in numbers):
            return Refused("HTTP 400")
        asked.extend(numbers)
        return Accepted()

    letters = [letter(n, 1) for n in range(1, 2 * PAGE + 50)]
    async with opened_box(*letters, script=Script(answer)) as (answers, rooms):
        said = await answers.answer("retry", {})
        rooms.now[0] += 10
        await rooms.store.add_dead_letters(
            [DeadLetter(Key(bytes(16)), "out", "new", UnixNano(rooms.now[0]), 1, letter(4, 1).payload)]
        )
        pages = 1
        while said["next"] is not None:
            said = await answers.answer("retry", {"skip": said["next"], "until": said["until"]})
            pages += 1
        assert 3 <= pages <= 5
        assert sorted(asked) == [n for n in range(1, 2 * PAGE + 50) if n % 3]
        assert await left(rooms) == [*(n for n in range(1, 2 * PAGE + 50) if n % 3 == 0), 0]


async def test_what_may_have_arrived_is_marked_when_it_is_sent_once_more() -> None:
    """No answer came: the letter stays, and its spans say at the next attempt that they may be repeats."""
    answers_of: Iterator[ExportAnswer] = iter((Later("no answer", unknown=True), Later("UNAVAILABLE"), Accepted()))
    script, clock = Script(lambda _: next(answers_of)), Clock()
    async with opened_box(letter(1), script=script, clock=clock) as (answers, rooms):
        said = await answers.answer("retry", {})
        assert (said["taken"], said["stopped"], said["waiting"]) == (0, {"out": "no answer"}, 1)
        assert (await rooms.store.dead_letters(1))[0].retried
        # While the peer is known to be down nothing is sent.
        assert (await answers.answer("retry", {}))["waiting"] == 1
        assert len(script.bodies) == 1
        clock.now += 10
        await answers.answer("retry", {})
        clock.now += 20
        assert (await answers.answer("retry", {}))["taken"] == 1
        assert await left(rooms) == []
        marked = [[a.key for s in spans_in(body) for a in s.attributes] for body in script.bodies]
        assert marked == [[], ["grafter.resend"] * 2, ["grafter.resend"] * 2]


async def test_what_was_certainly_not_taken_is_not_marked() -> None:
    """A refused connection, a refusal: the letter stays as it was."""
    for answer in (Later("HTTP 503", retry_after=9.0), Refused("HTTP 400")):
        async with opened_box(letter(1), script=Script(lambda _, answer=answer: answer)) as (answers, rooms):
            await answers.answer("retry", {})
            (found,) = await rooms.store.dead_letters(9)
            assert found == letter(1)
            assert not found.retried


async def test_of_a_letter_that_is_taken_in_part_the_rest_stays() -> None:
    """With the spans that are refused still, and why; the others have arrived once."""
    arrived: list[bytes] = []

    def answer(body: bytes) -> ExportAnswer:
        ids = [span.span_id for span in spans_in(body)]
        if bytes((0, 0, 0, 1, 0, 0, 0, 3)) in ids:
            return Refused("HTTP 400: still")
        arrived.extend(ids)
        return Accepted()

    async with opened_box(letter(1, 5), script=Script(answer)) as (answers, rooms):
        said = await answers.answer("retry", {})
        assert (said["taken"], said["spans"]) == (0, 4)
        assert isinstance(said["left"], dict)
        assert [*said["left"].values()] == ["in part: HTTP 400: still"]
        (rest,) = await rooms.store.dead_letters(9)
        assert (rest.spans, [span.span_id[7] for span in spans_in(rest.payload)]) == (1, [3])
        assert len(arrived) == len(set(arrived)) == 4
        assert rooms.store.stats().dead_letters["out"].spans == 1
        assert (await answers.answer("retry", {"skip": said["next"], "until": said["until"]}))["next"] is None


async def test_a_letter_that_cannot_be_read_stays() -> None:
    """It is not taken for sent."""
    odd = DeadLetter(Key(bytes(15) + b"o"), "out", "why", START, 3, b"\x0a\xff")
    async with opened_box(odd, letter(1), script=Script(lambda _: Accepted())) as (answers, rooms):
        said = await answers.answer("retry", {})
        assert isinstance(said["left"], dict)
        assert [*said["left"].values()] == ["its spans cannot be read"]
        assert said["taken"] == 1
        assert list(await rooms.store.dead_letters(9)) == [odd]


async def test_letters_of_an_exporter_that_is_gone_stay() -> None:
    """They say so, and hold up no others."""
    script = Script(lambda _: Accepted())
    async with opened_box(letter(1, exporter="gone"), letter(2), script=script) as (answers, rooms):
        said = await answers.answer("retry", {})
        assert isinstance(said["left"], dict)
        assert [*said["left"].values()] == ["no exporter gone is configured"]
        assert said["taken"] == 1
        assert await left(rooms) == [1]


async def test_what_could_not_be_assembled_is_held_once_more() -> None:
    """The app's spans go back to where they were held; OpenAI's items alone stay, and can be read."""
    items = DeadLetter(guest_key("trace_1"), UNASSEMBLED, "could not (OpenAI items)", START, 1, b'[{"id": "x"}]')
    script = Script(lambda _: Accepted())
    async with opened_box(letter(1, exporter=UNASSEMBLED), items, script=script) as (answers, rooms):
        said = await answers.answer("retry", {})
        assert (said["taken"], said["spans"]) == (1, 2)
        assert rooms.store.stats().spans == 2
        (shown,) = (await answers.answer("show", {"ids": [(await rooms.store.dead_letters(1))[0].id]}))["letters"]  # type: ignore[misc]
        assert shown["tree"] == '[{"id": "x"}]'
        assert rooms.books(0)[0] == 2


@pytest.mark.parametrize("asked", [{"ids": "one"}, {"ids": [1]}, {"exporter": 7}, {"skip": -1}, {"limit": "9"}])
async def test_what_is_no_question_is_refused(asked: dict[str, object]) -> None:
    async with opened_box(script=Script(lambda _: Accepted())) as (answers, _):
        with pytest.raises(RejectedError, match="expected"):
            await answers.answer("list", asked)
        with pytest.raises(RejectedError):
            await answers.answer("bury", {})
