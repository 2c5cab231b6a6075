"""ISO 8601 as the SDKs write it, to Unix nanoseconds, without a float in between.

Python writes microseconds with ``+00:00`` and leaves the fraction out when it is zero, JavaScript milliseconds with
``Z``, Go up to nanoseconds. A double holds a nanosecond clock only to a quarter of a microsecond, so all is integers.
"""

import re
from datetime import date
from decimal import Decimal

from grafter.core.model import UnixNano

MAX_TIME = (1 << 63) - 1
"""The latest time that leaves (year 2262). OTLP's field is unsigned, but most who read it are not."""

_SECOND = 1_000_000_000
_DAY = 86_400
_EPOCH = date(1970, 1, 1).toordinal()
_ISO = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})"
    r"[Tt ]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:[.,]([0-9]+))?)?"
    r" ?(?:[Zz]|([+-])([0-9]{2}):?([0-9]{2})?)?"
)


def nanoseconds(value: object) -> int | None:
    """The time that a value says, possibly before 1970 or past MAX_TIME; None when it says none.

    A string is ISO 8601 (without a zone: UTC; digits past nanoseconds are cut), a number is Unix seconds.
    """
    if isinstance(value, str):
        return _iso(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return int(Decimal(repr(value)) * _SECOND)
    except (ArithmeticError, ValueError):
        return None


def span_times(start: int | None, end: int | None, unknown: UnixNano) -> tuple[UnixNano, UnixNano, bool]:
    """Start and end of a span from what its two times say, and whether they are other than that.

    A time that is missing or unreadable is the other one, or ``unknown`` when both are; a time outside 1970 to 2262
    becomes the nearest inside; an end before its start becomes the start.
    """
    first = _clamped(start if start is not None else end if end is not None else unknown)
    last = max(first, _clamped(end if end is not None else first))
    return UnixNano(first), UnixNano(last), (first, last) != (start, end)


def _iso(text: str) -> int | None:
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
    return seconds * _SECOND + int((fraction or "0")[:9].ljust(9, "0"))


def _clamped(time: int) -> int:
    return min(max(time, 0), MAX_TIME)
