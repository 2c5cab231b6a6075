"""The JavaScript helpers for jobs and telephone carriers: what they write is what the Python ones write and read."""

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest

from grafter_propagation.telephony import client_state, read_client_state, sip_headers, sip_uri, twiml_parameters
from tests.e2e.process import REPO
from tests.propagation.apps import installed
from tests.propagation.test_context import CONTEXT, HERE, SPAN, TRACE
from tests.store.redis.servers import server

DEADLINE = 60.0
BULL = REPO / "examples/call/node_modules/bull"
PLACE = {"trace_id": TRACE, "span_id": SPAN, "traceparent": HERE}
REMOTE = {"traceId": TRACE, "spanId": SPAN, "traceFlags": 1, "isRemote": True}


@pytest.fixture
def program(tmp_path: Path) -> str:
    """The scenes where the packages are installed."""
    return installed("calls.mjs", tmp_path)


async def play(program: str, *scene: str, given: object = None) -> Any:
    """What a scene answers."""
    process = await asyncio.create_subprocess_exec(
        *("node", program, *scene),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, error = await asyncio.wait_for(process.communicate(json.dumps(given).encode()), DEADLINE)
    assert process.returncode == 0, error.decode()
    return json.loads(out)


async def test_carriers_get_what_they_get_from_python(program: str) -> None:
    """Parameters, SIP headers and addresses are equal; a client state is read by Python; without a span nothing."""
    uris = ["sip:a@b", "sip:a@b?X-Order=7", "sip:a@b?x-traceparent=old&X-Order=7", f"sip:a@b?X-Order={'7' * 960}"]
    states = ["", "order 7", '{"order": 7}', "für Ältere 😀"]
    written = await play(program, "written", given={"place": PLACE, "uris": uris, "states": states})
    assert written["parameters"] == [twiml_parameters(CONTEXT), {}]
    assert written["headers"] == [sip_headers(CONTEXT), {}]
    assert written["uris"] == [sip_uri(uri, CONTEXT) for uri in uris] + uris
    assert [read_client_state(text) for text in written["states"]] == [(CONTEXT, state) for state in states]


async def test_a_client_state_is_read_as_in_python(program: str) -> None:
    """What Python wrote, what the app wrote before, and what nobody should have written."""
    ours = [client_state(state, CONTEXT) for state in ("", "order 7", "für Ältere 😀")]
    others = ["order 7", '{"order": 7}', "[7]", "7", '{"state": "a"}', '{"traceparent": "x"}', "null"]
    texts: list[Any] = [*ours, *(base64.b64encode(one.encode()).decode() for one in others)]
    texts += [None, "", "no base64!", "YQ", base64.b64encode(b"\xff").decode()]
    read = await play(program, "read", given=texts)
    assert read[:3] == [[REMOTE, ""], [REMOTE, "order 7"], [REMOTE, "für Ältere 😀"]]
    assert read[3:] == [list(read_client_state(text)) for text in texts[3:]]
    assert all(place is None for place, _ in read[3:])


def shape(spans: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Name, parent, links and whether it is in another trace than the call."""
    return [(span["name"], span["parent"], span["links"], span["apart"]) for span in spans]


async def test_a_span_goes_on_with_what_it_was_given(program: str) -> None:
    """A child, a retry and a delayed run apart with a link, an error that stands on it; without a tracer only work."""
    seen = await play(program, "spans")
    assert (seen["before"], seen["thrown"]) == ([True, 7], "RangeErrorTypeError")
    assert shape(seen["ended"]) == [
        ("alone", None, [], True),
        ("call", None, [], False),
        ("failing", "call", [], False),
        ("failing at once", "call", [], False),
        ("first", "call", [], False),
        ("inner", "first", [], False),
        ("late", None, ["call"], True),
        ("of the active span", "call", [], False),
        ("retry", None, ["call"], True),
    ]
    by_name = {span["name"]: span for span in seen["ended"]}
    assert (by_name["failing"]["error"], by_name["failing at once"]["error"]) == ("no", "never")
    assert by_name["first"]["attributes"] == {"a": 1}
    assert (by_name["first"]["kind"], by_name["of the active span"]["kind"]) == (4, 2)


async def test_a_job_of_classic_bull(program: str) -> None:
    """On a real Redis: the first attempt is the call's, another and a delayed job are linked, a foreign job is done."""
    if not BULL.is_dir():
        pytest.skip("bull is not installed in examples/call: `make test` fetches it")
    modules = Path(program).parent / "node_modules"
    for package in BULL.parent.iterdir():
        if not (modules / package.name).exists():
            (modules / package.name).symlink_to(package)
    with server() as redis:
        spans = await play(program, "bull", redis.url, "letters")
    assert sorted(shape(spans), key=str) == sorted(
        [
            ("call", None, [], False),
            ("foreign 9", "process letters", [], True),
            ("late 8", "process letters", [], True),
            ("letter 7", "process letters", [], True),
            ("process letters", "call", [], False),
            ("process letters", None, ["call"], True),
            ("process letters", None, ["call"], True),
            ("process letters", None, [], True),
        ],
        key=str,
    )
    assert [span["error"] for span in spans if span["error"]] == ["not yet"]
    worked = [span["attributes"] for span in spans if span["name"] == "process letters"]
    assert {attributes["messaging.system"] for attributes in worked} == {"bull"}
