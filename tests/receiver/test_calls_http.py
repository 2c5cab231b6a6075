"""What POST /api/calls takes, and what it says of a body that it does not."""

from typing import Any

import orjson
import pytest

from grafter.calls.answers import found_lines, ids_answer
from grafter.calls.encoding import decode, encode
from grafter.calls.merge import calls_of, row
from grafter.calls.model import CallId, CallRecord, Origin
from grafter.calls.sql_map import Numbers
from grafter.errors import RejectedError
from grafter.receiver.calls_http import read_call

CALL = {"ids": {"twilio": "CA0123456789abcdef0123456789abcdef"}, "start": 1795874531.2, "outcome": "completed"}
NUMBERS = Numbers(b"0" * 32, "DE")


def test_a_call_is_read() -> None:
    """As docs/calls.md shows it."""
    record = read_call(orjson.dumps({**CALL, "from": "030 1234567"}), NUMBERS.read, 0)
    assert [one.kind for one in record.ids] == ["twilio"]
    assert record.caller is not None
    assert record.caller.last_four == "4567"
    assert record.start == 1_795_874_531_200_000_000


def test_an_id_is_said_to_be_of_the_system_that_the_app_named() -> None:
    """Also where a span gives it as the call's id alone, in any order; grafter's own words stay what they are, and the
    bytes that are stored are read by a grafter that knows of no systems."""
    session = "428c31b6-7af4-11e7-bb31-be2e44b06b34"
    posted = read_call(orjson.dumps({"ids": {"telnyx": session, "call.id": "order-77"}}), NUMBERS.read, 1)
    stored = encode(posted)
    assert orjson.loads(stored)["ids"] == [["app", session], ["app", "order-77"]]
    spans = CallRecord("release:1", Origin.RELEASE, 1, (CallId("app", session),))
    for records in ([decode(stored), spans], [spans, decode(stored)]):
        (call,) = (row(one, 1) for one in calls_of(records))
        assert ids_answer(call.ids) == [
            {"kind": "app", "id": session, "system": "telnyx"},
            {"kind": "app", "id": "order-77"},
        ]
        assert f"  ids telnyx {session}, app order-77" in found_lines([call], session, more=False)
    for key in ("call.sid", "7", "odd\nkey", "k" * 41):
        (one,) = read_call(orjson.dumps({"ids": {key: session}}), NUMBERS.read, 1).ids
        assert (one.kind, one.system) == ("app", "")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({**CALL, "form": "+493012345"}, "unknown key; the keys are call_id, end, from,"),
        ({"ids": {"twilio": "CA1"}}, "string of 6 to 256 printable characters"),
        ({"ids": ["+49301234567"]}, "no number"),
        ({"from": "+493012345"}, "names no call"),
        ({**CALL, "start": "yesterday"}, "start is neither"),
    ],
)
def test_what_cannot_be_used_is_named(body: dict[str, Any], words: str) -> None:
    """The message says what is wrong, and quotes nothing: a number may be in it."""
    with pytest.raises(RejectedError, match=words) as error:
        read_call(orjson.dumps(body), NUMBERS.read, 0)
    assert "+49" not in str(error.value)
    assert "form" not in str(error.value)
