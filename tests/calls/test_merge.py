"""Which records are of one call, and what is shown of it."""

from dataclasses import replace
from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from grafter.calls.answers import verdict
from grafter.calls.merge import LONGEST_RUN, calls_of, is_slow, key_of, row
from grafter.calls.model import NO_GUEST, NO_TRACE, CallId, CallRecord, CallRow, Origin, TurnRow
from grafter.core.policy import SECOND
from grafter.web.list_view import list_rows
from grafter.web.redaction import Sight
from tests.calls.records import ANNA, BERT, CLINIC, START, any_records, record, trace, wait

SIP = CallId("sip", "a84b4c76e66710@pc33.example.com")
RTC, LIVE = CallId("openai_realtime", "rtc_abcdef"), CallId("openai_live", "live_abcdef")


def rows(*records: CallRecord, now: int = START) -> list[CallRow]:
    return [row(call, now) for call in calls_of(records)]


@given(any_records, st.randoms())
def test_the_order_of_sources_does_not_matter(records: list[CallRecord], random: object) -> None:
    """Any set of records comes to the same calls in any order, and said twice to no more."""
    shuffled = [*records, *records]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert rows(*shuffled) == rows(*records)


@given(any_records)
def test_every_record_is_of_one_call(records: list[CallRecord]) -> None:
    """None is lost and none stands twice; who shares an id or a trace is together."""
    calls = calls_of(records)
    assert sorted(one.name for call in calls for one in call.records) == sorted(one.name for one in records)
    owner = {one.name: call.key for call in calls for one in call.records}
    for one in records:
        for other in records:
            if {*one.ids, *one.traces} & {*other.ids, *other.traces}:
                assert owner[one.name] == owner[other.name]
    assert all(key_of(name) in call.keys for call in calls for name in [one.name for one in call.records])


def test_two_announcements_of_one_call_are_one() -> None:
    """rtc_ and live_ of one SIP Call-ID become one call with two ids."""
    first = record("a", Origin.WEBHOOK, ids=(RTC, SIP), caller=ANNA, callee=CLINIC)
    second = record("b", Origin.WEBHOOK, ids=(LIVE, SIP), caller=ANNA, callee=CLINIC)
    (found,) = rows(first, second)
    assert found.ids == (LIVE, RTC, SIP)
    assert found.outcome == "running"


def test_legs_are_one_call() -> None:
    """Two host traces tied by a posted link; a transfer ends a leg and not the call."""
    first = record("a", ids=(CallId("app", "leg-one"),), traces=(trace(1),), start=START, end=START + 60 * SECOND,
                   outcome="transferred", turns=(wait(1, 700),), spans=3)  # fmt: skip
    turned = START + 61 * SECOND
    second = record("b", ids=(CallId("app", "leg-two"),), traces=(trace(2),), start=turned, end=START + 90 * SECOND,
                    outcome="completed", turns=(wait(1, 800, turned),))  # fmt: skip
    link = record("c", Origin.LINK, ids=(CallId("app", "leg-one"), CallId("app", "leg-two")))
    assert len(rows(first, second)) == 2
    (found,) = rows(first, second, link)
    assert found.traces == (trace(1), trace(2))
    assert found.outcome == "completed"
    assert found.end == START + 90 * SECOND
    assert [(turn.number, turn.wait_ms) for turn in found.turns] == [(1, 700), (2, 800)]


def test_what_a_framework_says_of_the_same_waits_and_interruptions_is_said_once() -> None:
    """A Realtime call, and LiveKit's own trace of it, which left later under the same trace id: OpenAI's two waits and
    its interruption are the call's. A second leg, of which only LiveKit tells, keeps what that says."""
    heard = record("a", traces=(trace(1),), turns=(wait(1, 3000.0), wait(2, 800.0)), barge_ins=1, guest_barge_ins=1)
    told = record("b", traces=(trace(1),), barge_ins=1, told_barge_ins=1, turns=(
        TurnRow(1, START + 1, 2500.0), TurnRow(2, START + 2, None, first_token_ms=700.0)))  # fmt: skip
    leg = record(
        "c", traces=(trace(2),), barge_ins=2, told_barge_ins=2, turns=(TurnRow(1, START + 60 * SECOND, 900.0),)
    )
    link = record("d", Origin.LINK, traces=(trace(1), trace(2)))
    (found,) = rows(told, heard)
    assert ([turn.wait_ms for turn in found.turns], found.barge_ins) == ([3000.0, 800.0], 1)
    (both,) = rows(told, heard, leg, link)
    assert ([turn.wait_ms for turn in both.turns], both.barge_ins) == ([3000.0, 800.0, 900.0], 3)


def test_interruptions_of_what_came_in_several_parts_add_up() -> None:
    """Two sessions of one trace at two times, and a record of an older version, which does not say who told it; the app
    tells of three of theirs."""
    parts = [
        record("a", traces=(trace(1),), barge_ins=3, guest_barge_ins=1, told_barge_ins=3),
        record("b", traces=(trace(1),), barge_ins=2, guest_barge_ins=2),
        record("c", traces=(trace(1),), barge_ins=1),
    ]
    assert [found.barge_ins for found in rows(*parts)] == [4]


def test_numbers_and_start_join_what_fits_alone() -> None:
    """An announcement and a trace without a common id, from and to the same numbers within seconds."""
    said = {"caller": ANNA, "callee": CLINIC}
    announced = record("a", Origin.WEBHOOK, ids=(RTC,), start=START, **said)
    traced = record("b", ids=(CallId("twilio", "CA" + "1" * 32),), traces=(trace(1),), start=START + 3 * SECOND, **said)
    (found,) = rows(announced, traced)
    assert found.traces == (trace(1),)
    far = record("b", traces=(trace(1),), start=START + 11 * SECOND, **said)
    assert len(rows(announced, far)) == 2
    assert len(rows(announced, record("b", traces=(trace(1),), start=START, caller=BERT, callee=CLINIC))) == 2


def test_where_two_fit_all_stay_apart_and_say_so() -> None:
    """Never guess between two that fit equally, whatever order they come in."""
    said = {"caller": ANNA, "callee": CLINIC}
    three = [
        record("a", Origin.WEBHOOK, ids=(RTC,), start=START, **said),
        record("b", traces=(trace(1),), start=START + 2 * SECOND, **said),
        record("c", traces=(trace(2),), start=START + 4 * SECOND, **said),
    ]
    for order in permutations(three):
        found = rows(*order)
        assert len(found) == 3
        assert all("nothing says whether it is this one" in "".join(one.unjoined) for one in found)


def test_two_traces_of_one_number_are_two_calls() -> None:
    """Somebody who rings again at once: each has a trace, so they are not one."""
    said = {"caller": ANNA, "callee": CLINIC}
    assert len(rows(record("a", traces=(trace(1),), start=START, **said),
                    record("b", traces=(trace(2),), start=START + SECOND, **said))) == 2  # fmt: skip


def test_what_came_later_is_not_missing_any_more() -> None:
    """A late guest takes back that nothing of OpenAI's came; an announced call without a trace says so in the end."""
    host = record("a", traces=(trace(1),), unjoined=(NO_GUEST,))
    late = record("b", traces=(trace(1),), guests=("rtc_abcdef",))
    assert rows(host)[0].unjoined == (NO_GUEST,)
    assert rows(host, late)[0].unjoined == ()
    announced = record("c", Origin.WEBHOOK, ids=(RTC,))
    assert rows(announced)[0].unjoined == ()
    (forgotten,) = rows(announced, now=START + LONGEST_RUN + 1)
    assert forgotten.outcome == "unknown"
    assert forgotten.unjoined == (NO_TRACE,)


def test_the_apps_word_is_believed_first() -> None:
    """Whoever calls writes the From of a webhook; the app knows better."""
    webhook = record("a", Origin.WEBHOOK, ids=(SIP,), caller=BERT)
    app = record("b", Origin.APP, at=START + SECOND, ids=(SIP,), caller=ANNA)
    call = calls_of([webhook, app])[0]
    assert call.caller == ANNA


def test_a_call_of_which_something_was_kept_was_kept() -> None:
    """One leg sampled away does not make the call so; both do."""
    gone = record("a", ids=(SIP,), traces=(trace(1),), kept=False, policy="drop", spans=4)
    kept = record("b", ids=(SIP,), traces=(trace(2),), policy="error", spans=5)
    assert rows(gone)[0].kept is False
    assert rows(gone)[0].policy == "drop"
    assert rows(gone, kept)[0].kept
    assert rows(gone, kept)[0].spans == 9


def test_a_caller_who_hung_up_while_waiting_makes_a_call_slow() -> None:
    """Whatever waits before it were: found by ``--slow``, counted by the report, and said first. Of a longer wait that
    was answered, that is said."""
    (found,) = rows(record("a", traces=(trace(1),), turns=(wait(1, 900.0),), unanswered_ms=4700.0))
    assert is_slow(found)
    assert verdict(found) == "the caller waited at least 4.70 s for an answer, then the call ended"
    assert verdict(replace(found, unanswered_ms=1000.0)).startswith("no answer was slow")
    assert not is_slow(replace(found, unanswered_ms=1000.0))
    assert verdict(replace(found, turns=(wait(1, 6000.0),))).startswith("turn 1 was slow")
    assert verdict(replace(found, turns=())) == verdict(found)
    (shown,) = list_rows([found], Sight(), START)
    assert shown.sentence == "Waited at least 4.70 s for an answer, then the call ended."
