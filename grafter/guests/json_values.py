"""Reading JSON values of which nothing is certain: bounded, tolerant, the same every time; times among them.

Items come from many SDKs in several languages and from whoever else reaches the receiver. Every walk over a value stops
at a depth, so that no nesting can exhaust the stack, and every result is something that orjson can write.

Times are ISO 8601 as the SDKs write it: Python with microseconds and ``+00:00``, and without a fraction where that is
zero, JavaScript with milliseconds and ``Z``, Go with up to nanoseconds. A double holds a nanosecond clock only to a
quarter of a microsecond, so all is integers.
"""

import ast
import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from hashlib import sha256

import orjson

from grafter.core.large_json import MANY_VALUES, read_in_turns, values_in
from grafter.core.model import OWN_MARKS, UnixNano
from grafter.core.policy import SECOND

MAX_DEPTH = 64
"""Levels of nesting that are kept; what lies deeper becomes null. orjson writes no more than 254."""

MAX_TIME = (1 << 63) - 1
"""The latest time that leaves (year 2262). OTLP's field is unsigned, but most who read it are not."""

EARLIEST = 1_577_836_800_000_000_000
"""2020, years before there were Realtime calls or an Agents SDK: a time before it is a zero, a clock that was never
set, or one that counts from its start; taken at its word it would stretch a call over half a century."""

LATEST = 4_102_444_800_000_000_000
"""2100."""

_DAY = 86_400
_EPOCH = date(1970, 1, 1).toordinal()
_BEGIN = datetime(1970, 1, 1, tzinfo=UTC)
_SDKS = {len("2026-11-22T21:27:56.123456+00:00"): "+00:00", len("2026-11-22T21:27:56.123Z"): "Z"}
"""Ends of the times that the SDKs in Python and JavaScript write, by their lengths."""
_ISO = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})"
    r"[Tt ]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:[.,]([0-9]+))?)?"
    r" ?(?:[Zz]|([+-])([0-9]{2}):?([0-9]{2})?)?"
)

INPUT_DIGEST = "grafter.input.sha256"
"""In a function span's data, instead of ``input``: what it was called with, so that the call can be recognised."""
ARGUMENTS_DIGEST = "grafter.arguments.sha256"
"""The same in a model's tool call, instead of its arguments. Equal arguments give equal digests on both sides."""

OTHER_ERROR = "_OTHER"
"""OpenTelemetry's word for an error that has no known type."""

MAX_ID = 1_000
"""Characters of an id; a longer one is no id, and would be kept and remembered as often as it is named."""

# Ids are compared and printed, and are part of a URL. OpenAI's are short ASCII words.
_MAX_PLAIN_ID = 256

_PLAIN_DIGITS = 18
"""Digits, and a sign, that are an integer of 64 bits whatever they are."""
_HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")
"""An escape of half a surrogate pair, which may stand alone."""

_MAX_LITERAL = 200_000
"""Characters of a Python literal that are read; more stays a string."""
_MAX_TOKENS = 5_000
"""Strings, numbers, words and signs of one: each costs ast.literal_eval some microseconds and a kilobyte."""

# What repr() of plain data is made of. Names other than these, and signs of a call or a comprehension, mean that it is
# no such repr; so ast.literal_eval never sees (and never warns about) odd code. Each is matched once, where the last
# one ended: a text takes no longer than its length, whatever it is made of.
_TOKEN = re.compile(
    r"'(?:[^'\\]|\\[\\'\"nrtxuU])*+'|\"(?:[^\"\\]|\\[\\'\"nrtxuU])*+\""
    r"|[,:\s]++|(?:True|False|None)\b|-?\d++(?:\.\d*+)?(?:e[+-]?\d++)?(?!\w)|[\[{(]|[\]})]"
)


def parse_json(body: bytes) -> object:
    """A request body as a JSON value, leniently: what SDKs and their languages get wrong costs no batch.

    NaN, infinities and numbers past a double become null, lone surrogates and bytes that are not UTF-8 U+FFFD,
    integers of more than 64 bits doubles; a byte order mark is skipped. Raises ValueError, without the payload, for
    what is no JSON, nesting past all measure included.
    """
    if not body:
        raise ValueError("body is empty, expected JSON")
    if values_in(body) > MANY_VALUES:
        return _parse_leniently(body, read_in_turns)
    try:
        value: object = orjson.loads(body)
    except orjson.JSONDecodeError:
        # Only what strict JSON refuses pays for the slower parser.
        value = _parse_leniently(body, json.loads)
    return value


def text_of(value: object) -> str | None:
    """The value when it is a string that says something."""
    return value if isinstance(value, str) and value else None


def usable_id(value: object) -> str | None:
    """The value when it can name a trace or a span."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_ID or value.startswith(OWN_MARKS):
        return None
    return value


def plain_id(value: object) -> str | None:
    """The value when it can name a call or a session: up to 256 printable ASCII characters without a blank."""
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_PLAIN_ID:
        return None
    return value if value.isascii() and value.isprintable() and " " not in value else None


def number_of(value: object) -> int | float | None:
    """The value when it is a finite number that OTLP's 64 bits can hold; a boolean is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, int):
        return value if -(1 << 63) <= value < 1 << 63 else float_of(value)
    return value if math.isfinite(value) else None


def float_of(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def count_of(value: object) -> int | None:
    """The value when it counts something: a whole number, not negative, of 63 bits."""
    if value is None:
        # What is looked for and not there, mostly.
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not value.is_integer():
        return None
    return int(value) if 0 <= value < 1 << 63 else None


def scalar_of(value: object) -> str | bool | int | float | None:
    """The value when it can be an attribute as it is."""
    return value if isinstance(value, str | bool) else number_of(value)


def mapping_of(value: object) -> Mapping[str, object]:
    """The value when it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def list_of(value: object) -> list[object]:
    """The value when it is a JSON array, else an empty one."""
    return value if isinstance(value, list) else []


def in_order(value: object) -> object:
    """An object with its keys in order, so that equal ones read alike."""
    return dict(sorted(value.items())) if isinstance(value, Mapping) else value


def names_of(value: object) -> tuple[str, ...] | None:
    """The value when it is an array of strings alone."""
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        return None
    return tuple(value)


def nanoseconds(value: object) -> int | None:
    """The time that a value says, possibly before 1970 or past MAX_TIME; None when it says none.

    A string is ISO 8601 (without a zone: UTC; digits past nanoseconds are cut), a number is Unix seconds.
    """
    if isinstance(value, str):
        return _iso(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return int(Decimal(repr(value)) * SECOND)
    except (ArithmeticError, ValueError):
        return None


def moment(value: object) -> int | None:
    """The same of whoever may count in another unit: a number is seconds; where these cannot be meant but milliseconds,
    microseconds or nanoseconds can, it is those. Between 2020 and 2100 no number is two of them."""
    at = nanoseconds(value)
    if at is None or isinstance(value, str):
        return at
    for unit in (1, 1_000, 1_000_000, 1_000_000_000):
        if EARLIEST <= at // unit <= LATEST:
            return at // unit
    return at


def span_times(start: int | None, end: int | None, unknown: UnixNano) -> tuple[UnixNano, UnixNano, bool]:
    """Start and end of a span from what its two times say, and whether they are other than that.

    A time that is missing or unreadable is the other one, or ``unknown`` when both are; a time outside 1970 to 2262
    becomes the nearest inside. An end that came before its start stays there, unless it is the zero of one
    that was not set.
    """
    first = _clamped(start if start is not None else end if end is not None else unknown)
    last = _clamped(end) if end is not None and end > 0 else first
    return UnixNano(first), UnixNano(last), (first, last) != (start, end)


def json_safe(value: object, depth: int = MAX_DEPTH) -> object:
    """A copy that orjson can write: numbers of 64 bits, no lone surrogates, no more than ``depth`` levels.

    NaN, infinities and what lies too deep become null, integers of more than 64 bits doubles (null past those), lone
    surrogates U+FFFD. Never raises for a JSON value.
    """
    if isinstance(value, str):
        return _json_safe_text(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if -(1 << 63) <= value < 1 << 64 else float_of(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if depth <= 0:
        return None
    if isinstance(value, dict):
        return {_json_safe_text(str(key)): json_safe(member, depth - 1) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(member, depth - 1) for member in value]
    if isinstance(value, set | frozenset):
        # repr's order of a set differs from process to process; the result may not.
        return [json_safe(member, depth - 1) for member in sorted(value, key=repr)]
    return _json_safe_text(value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value))


def numbers_within(value: object, depth: int) -> object:
    """A copy with its numbers and flags under their keys, ``depth`` levels of them, that orjson can write; strings and
    what lies deeper are null. Never raises for a JSON value."""
    if isinstance(value, dict):
        if depth <= 0:
            return None
        found: dict[str, object] = {}
        for key, member in value.items():
            # Nearly all that a usage holds, and within 32 bits: a call into the general case costs as much as the rest.
            plain = type(member) is int and -(1 << 31) <= member < 1 << 31
            found[_json_safe_text(key)] = member if plain else numbers_within(member, depth - 1)
        return found
    if isinstance(value, list):
        return [numbers_within(member, depth - 1) for member in value] if depth > 0 else None
    return None if isinstance(value, str) else json_safe(value)


def canonical(value: object) -> bytes:
    """Compact JSON with sorted keys: equal values give equal bytes. Never raises for a JSON value."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        return orjson.dumps(json_safe(value), option=orjson.OPT_SORT_KEYS)


def digest(value: object) -> str:
    """SHA-256 (hex) over the canonical JSON of tool arguments, so that equal calls are known without their content.

    Arguments come as an object or as a string that holds JSON; both forms of equal arguments give equal digests.
    """
    if isinstance(value, str):
        value = _json(value, value)
    return sha256(canonical(value)).hexdigest()


def structure(text: str) -> object:
    """The object or list that a string stands for, as JSON or as the repr() of plain Python data; else the string.

    The Python SDK sends a tool's result as ``str(result)``, so a dict arrives as ``{'ok': True}``. A repr is read
    within 200,000 characters, 5,000 strings, numbers and signs, and 64 levels. Never raises.
    """
    stripped = text.strip()
    if stripped[:1] not in ("{", "[", "("):
        return text
    value = None if stripped[0] == "(" else _json(stripped, None)
    return _literal(stripped, text) if value is None else value


def _json(text: str, otherwise: object) -> object:
    try:
        return orjson.loads(text)
    except ValueError:
        pass
    try:
        return json_safe(json.loads(text))
    except (ValueError, RecursionError):
        return otherwise


def _literal(text: str, otherwise: object) -> object:
    if len(text) > _MAX_LITERAL or not _is_literal(text):
        return otherwise
    try:
        return json_safe(ast.literal_eval(text))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return otherwise


def _is_literal(text: str) -> bool:
    """Whether a text is made of what a repr() of plain data is made of, and of no more than may be read."""
    at = depth = tokens = 0
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None:
            return False
        sign = text[at]
        depth += (sign in "([{") - (sign in ")]}")
        tokens += 1
        at = token.end()
        if depth > MAX_DEPTH or tokens > _MAX_TOKENS:
            return False
    return True


def _json_safe_text(text: str) -> str:
    if text.isascii():
        return text
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _iso(text: str) -> int | None:
    # What the SDKs write themselves Python's own reader knows, in a tenth of the time; it takes other signs, too.
    if text.endswith(_SDKS.get(len(text), "?")) and text[7:20:3] == "-T::.":
        try:
            since = datetime.fromisoformat(text) - _BEGIN
        except ValueError:
            return _any_iso(text)
        return (since.days * _DAY + since.seconds) * SECOND + since.microseconds * 1000
    return _any_iso(text)


def _any_iso(text: str) -> int | None:
    match = _ISO.fullmatch(text.strip())
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, sign, zone_hours, zone_minutes = match.groups()
    try:
        days = date(int(year), int(month), int(day)).toordinal() - _EPOCH
    except ValueError:
        return None
    # 24:00 ends a day and :60 is a leap second: both are legal and a plain sum says the right thing.
    if int(hour) > 24 or int(minute) > 59 or int(second or 0) > 60:
        return None
    seconds = days * _DAY + int(hour) * 3600 + int(minute) * 60 + int(second or 0)
    if sign is not None:
        offset = int(zone_hours) * 3600 + int(zone_minutes or 0) * 60
        seconds -= offset if sign == "+" else -offset
    return seconds * SECOND + int((fraction or "0")[:9].ljust(9, "0"))


def _clamped(time: int) -> int:
    return time if 0 <= time <= MAX_TIME else min(max(time, 0), MAX_TIME)


def _parse_leniently(body: bytes, read: Callable[..., object]) -> object:
    text = body.decode("utf-8-sig", "replace")
    odd = _HALF_PAIR.search(text) is not None

    def integer(digits: str) -> int | float:
        nonlocal odd
        if len(digits) <= _PLAIN_DIGITS:
            return int(digits)
        odd = True
        # Python refuses to read an int of thousands of digits; no 64 bits need more than twenty characters.
        return int(digits) if len(digits) <= 20 else float(digits)

    def real(digits: str) -> float:
        nonlocal odd
        value = float(digits)
        odd |= math.isinf(value)
        return value

    try:
        value = read(text, parse_constant=lambda _: None, parse_int=integer, parse_float=real)
        # A second walk over all of it takes twice as long as the reading.
        return json_safe(value) if odd else value
    except json.JSONDecodeError as error:
        raise ValueError(f"body is not JSON: {error.msg.lower()} at character {error.pos}") from None
    except RecursionError:
        raise ValueError("body is nested too deeply") from None
