"""Addresses of the same call elsewhere, with its times. Pure.

A backend's link without times looks only at the last hours (Honeycomb, "share a trace"), so each gets them.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import quote

from grafter.calls.model import CallRow
from grafter.web.words import MINUTE, SECOND

FIELDS = {
    "trace_id": "the host trace, 32 hex digits",
    "start": "Unix seconds, a minute before the call",
    "end": "Unix seconds, a minute after it",
    "start_us": "the same in microseconds",
    "end_us": "the same in microseconds",
    "call_sid": "Twilio's CallSid",
    "openai_id": "OpenAI's trace, session or call",
    "openai_trace_id": "OpenAI's trace, trace_…",
    "key": "grafter's own key of the call",
}
"""What may stand in braces in a template."""

_FIELD = re.compile(r"\{([a-z_]*)\}")


@dataclass(frozen=True, slots=True)
class Link:
    label: str
    address: str


def unknown_fields(template: str) -> list[str]:
    """What stands in braces and is no field."""
    return [name for name in _FIELD.findall(template) if name not in FIELDS]


def links(row: CallRow, templates: Mapping[str, str], last: int) -> Iterator[Link]:
    """One a template whose fields this call all has, and one for each of its host traces. ``last``: when it ended, or
    the latest that is known of it."""
    fields = {
        "start": str((row.start - MINUTE) // SECOND),
        "end": str((last + MINUTE) // SECOND),
        "start_us": str((row.start - MINUTE) // 1000),
        "end_us": str((last + MINUTE) // 1000),
        "key": row.key,
    }
    ids = {each.kind: each.value for each in reversed(row.ids)}
    if "twilio" in ids:
        fields["call_sid"] = ids["twilio"]
    guests = [*row.guests, *(value for kind, value in ids.items() if kind.startswith("openai"))]
    if guests:
        fields["openai_id"] = guests[0]
    if trace := next((guest for guest in guests if guest.startswith("trace_")), None):
        fields["openai_trace_id"] = trace
    for label, template in templates.items():
        needed = set(_FIELD.findall(template))
        traces = [trace.hex() for trace in row.traces] if "trace_id" in needed else [""]
        for number, trace in enumerate(traces, 1):
            given = {**fields, "trace_id": trace}
            if template and needed <= given.keys():
                name = label if len(traces) == 1 else f"{label}, trace {number}"
                yield Link(name, _FIELD.sub(lambda match, given=given: quote(given[match[1]], safe=""), template))  # type: ignore[misc]
