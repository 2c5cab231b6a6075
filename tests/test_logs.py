"""One line an event, for people or as JSON."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from grafter import logs

LIBRARIES = ("aiohttp", "asyncio", "grpc")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """The process's logging as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in LIBRARIES}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


def configured(level: str, encoding: str) -> io.StringIO:
    """The stream that the log goes into."""
    stream = io.StringIO()
    logs.configure(level, encoding, stream)
    return stream


def test_console_has_a_line_an_event_with_its_data() -> None:
    """Time, level, logger, message, then the extras as key=value."""
    stream = configured("info", "console")
    logging.getLogger("grafter.service").info("started %s", "0.1", extra={"otlp_grpc": 4317, "openai": 4319})
    (line,) = stream.getvalue().splitlines()
    assert line.endswith("INFO grafter.service: started 0.1 otlp_grpc=4317 openai=4319")


def test_a_line_break_begins_no_further_event() -> None:
    """Text from outside cannot write lines of its own into the log."""
    stream = configured("info", "console")
    logging.getLogger("grafter").warning("the peer said %s", "no\nERROR all is lost", extra={"why": "a\r\nb"})
    (line,) = stream.getvalue().splitlines()
    assert line.endswith(r"the peer said no\nERROR all is lost why=a\r\nb")


def test_json_has_an_object_an_event_with_its_data() -> None:
    """The same for a program; what JSON cannot say is written as text."""
    stream = configured("info", "json")
    logging.getLogger("grafter.tee").warning("dropped %d\nitems", 3, extra={"items": 3, "error": ValueError("x")})
    (line,) = stream.getvalue().splitlines()
    event = json.loads(line)
    time = event.pop("time")
    assert event == {
        "level": "warning",
        "logger": "grafter.tee",
        "message": "dropped 3\nitems",
        "items": 3,
        "error": "x",
    }
    assert len(time) == len("2026-11-23T16:00:00+0000")


@pytest.mark.parametrize("encoding", ["console", "json"])
def test_an_exception_comes_with_its_traceback(encoding: str) -> None:
    """In JSON it stays inside the one line."""
    stream = configured("info", encoding)
    try:
        raise LookupError("gone")
    except LookupError:
        logging.getLogger("grafter").exception("a round failed", extra={"round": 7})
    text = stream.getvalue()
    if encoding == "json":
        (line,) = text.splitlines()
        event = json.loads(line)
        assert (event["message"], event["round"], event["level"]) == ("a round failed", 7, "error")
        text = event["exception"]
    else:
        assert "a round failed" in text.splitlines()[0]
        assert "round=7" in text.splitlines()[0]
    assert "Traceback (most recent call last)" in text
    assert "LookupError: gone" in text


@pytest.mark.parametrize(
    ("level", "said"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warn", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_the_level_is_the_least_that_is_said(level: str, said: list[str]) -> None:
    """Below it nothing is written."""
    stream = configured(level, "json")
    for one in ("debug", "info", "warning", "error"):
        getattr(logging.getLogger("grafter.x"), one)("line")
    assert [json.loads(line)["level"] for line in stream.getvalue().splitlines()] == said


@pytest.mark.parametrize(("level", "lines"), [("info", 1), ("debug", 2)])
def test_libraries_speak_from_warnings_on(level: str, lines: int) -> None:
    """What aiohttp, asyncio and grpc say at info level is left out unless somebody debugs."""
    for library in LIBRARIES:
        stream = configured(level, "console")
        logging.getLogger(f"{library}.server").info("a connection")
        logging.getLogger(f"{library}.server").warning("a broken one")
        assert len(stream.getvalue().splitlines()) == lines


def test_configuring_again_replaces() -> None:
    """A second call does not double the lines."""
    first, second = configured("info", "console"), configured("info", "json")
    logging.getLogger("grafter").info("once")
    assert first.getvalue() == ""
    assert len(second.getvalue().splitlines()) == 1


def test_one_line_a_minute_for_each_thing_and_none_is_uncounted() -> None:
    """The first time may be said at once, the next a minute later with all that came between; other keys are apart."""
    now = 0.0
    throttle = logs.Throttle(clock=lambda: now)
    assert [throttle.due("a"), throttle.due("a", 5), throttle.due("a"), throttle.due("b", 3)] == [1, 0, 0, 3]
    now = 60.0
    assert [throttle.due("a"), throttle.due("a", 2), throttle.rest("a"), throttle.rest("a")] == [7, 0, 2, 0]
