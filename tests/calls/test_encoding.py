"""Records of calls as they are stored: all that was said is read back, under names that other versions know."""

from dataclasses import MISSING, Field, fields
from typing import Any

import orjson

from grafter.calls.encoding import decode, encode
from grafter.calls.model import CallId, CallRecord, Origin
from tests.calls.records import ANNA, CLINIC, START, record, trace, wait

WHOLE = CallRecord(
    name="release:a",
    origin=Origin.RELEASE,
    at=START,
    ids=(CallId("app", "7", system="crm"), CallId("sip", "id-one")),
    traces=(trace(1), trace(2)),
    guests=("trace_a",),
    caller=ANNA,
    callee=CLINIC,
    numbers=("+49301234001", None),
    start=START + 1,
    end=START + 2,
    outcome="completed",
    turns=(wait(1, 900.0, model=700.0, tool=200.0),),
    app_ms=200.0,
    openai_ms=700.0,
    unknown_ms=0.0,
    unanswered_ms=4700.0,
    tools={"book_slot": (1, 200.0)},
    errors=1,
    barge_ins=2,
    guest_barge_ins=2,
    told_barge_ins=1,
    spans=24,
    unjoined=("nothing came",),
    policy="first_token",
    kept=False,
    recording="https://example.com/r",
    number_key="0011",
    addition=True,
)
"""Something in each member."""

STORED = {
    *("v", "name", "origin", "at", "ids", "systems", "traces", "guests", "caller", "callee", "numbers", "start", "end"),
    *("outcome", "turns", "app_ms", "openai_ms", "unknown_ms", "tools", "errors", "barge_ins", "spans", "unjoined"),
    *("policy", "dropped", "recording", "number_key", "addition", "guest_barge_ins", "told_barge_ins"),
    "unanswered_ms",
}
"""What stands in databases and stores; a name may be added, and never changed."""


def test_all_of_a_record_is_read_back() -> None:
    """Whatever member it is: one that is new has to stand in ``WHOLE``."""
    given = {one.name for one in fields(CallRecord) if getattr(WHOLE, one.name) != _default(one)}
    assert given == {one.name for one in fields(CallRecord)}
    read = decode(encode(WHOLE))
    assert read == WHOLE
    # Of no part in what is equal.
    assert [one.system for one in read.ids] == ["crm", ""]


def test_names_in_what_is_stored_stay() -> None:
    """Databases and other versions have them."""
    assert set(orjson.loads(encode(WHOLE))) == STORED


def test_what_is_empty_is_left_out() -> None:
    """And is the default when it is read: no other default could be told from it."""
    bare = record("a")
    assert set(orjson.loads(encode(bare))) == {"v", "name", "origin", "at"}
    assert decode(encode(bare)) == bare
    full = [one.name for one in fields(CallRecord) if _default(one) is not MISSING and _default(one)]
    assert full == ["numbers", "kept"]  # Both have a form of their own.


def test_what_a_newer_version_adds_is_left_alone() -> None:
    """Its record is of the same form, with something more in it."""
    assert decode(orjson.dumps(orjson.loads(encode(WHOLE)) | {"more": [1]})) == WHOLE


def _default(member: Field[Any]) -> object:
    """MISSING where it has none."""
    return member.default if member.default_factory is MISSING else member.default_factory()
