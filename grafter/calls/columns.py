"""What of a call may stand in a column of somebody else's table, by the names that a config has for it. Pure."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from grafter.calls.answers import verdict
from grafter.calls.model import CallRow, PhoneView
from grafter.core.policy import SECOND

Value = str | int | float | bool | datetime | tuple[str, ...] | None
TRACE_ID = "trace_id"
ID_KINDS = (
    "twilio", "sip", "openai_realtime", "openai_live", "openai_session", "openai_trace", "livekit_room",
    "livekit_call", "pipecat", "app",
)  # fmt: skip
ROW_IDS = (*ID_KINDS, TRACE_ID)
"""By which a row is known to be a call's."""


def _number(side: Callable[[CallRow], PhoneView | None], whole: bool) -> Callable[[CallRow], Value]:
    def read(row: CallRow) -> Value:
        view = side(row)
        return None if view is None else view.number if whole else view.last_four

    return read


def _first_id(kind: str) -> Callable[[CallRow], Value]:
    return lambda row: next((one.value for one in row.ids if one.kind == kind), None)


def _time(moment: int | None) -> Value:
    try:
        return None if moment is None else datetime.fromtimestamp(moment / SECOND, UTC)
    except (OverflowError, ValueError, OSError):
        return None


FIELDS: Mapping[str, Callable[[CallRow], Value]] = {
    "key": lambda row: row.key,
    TRACE_ID: lambda row: row.traces[0].hex() if row.traces else None,
    "trace_ids": lambda row: tuple(trace.hex() for trace in row.traces),
    **{kind: _first_id(kind) for kind in ID_KINDS},
    "start": lambda row: _time(row.start),
    "end": lambda row: _time(row.end),
    "outcome": lambda row: row.outcome,
    "from_last_four": _number(lambda row: row.caller, False),
    "to_last_four": _number(lambda row: row.callee, False),
    "from_number": _number(lambda row: row.caller, True),
    "to_number": _number(lambda row: row.callee, True),
    "verdict": verdict,
    "turns": lambda row: sum(turn.number > 0 for turn in row.turns),
    "longest_wait_ms": lambda row: row.slowest.wait_ms if row.slowest else None,
    "longest_wait_turn": lambda row: row.slowest.number if row.slowest else None,
    "first_token_ms": lambda row: max(
        (turn.first_token_ms for turn in row.turns if turn.first_token_ms is not None), default=None
    ),
    "app_ms": lambda row: row.app_ms,
    "openai_ms": lambda row: row.openai_ms,
    "unknown_ms": lambda row: row.unknown_ms,
    "errors": lambda row: row.errors,
    "barge_ins": lambda row: row.barge_ins,
    "spans": lambda row: row.spans,
    "joined": lambda row: bool(row.guests),
    "unjoined": lambda row: row.unjoined,
    "policy": lambda row: row.policy or None,
    "kept": lambda row: row.kept,
    "recording": lambda row: row.recording,
}
"""What of a call may stand in a column."""
TIMES = frozenset({"start", "end"})
WORDS = frozenset({"key", "trace_ids", TRACE_ID, "outcome", "verdict", "unjoined", "policy"})
"""Those that are never a number."""
WHOLE_NUMBERS = ("from_number", "to_number")
