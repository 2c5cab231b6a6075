"""Records as bytes, for the store's tasks and the database; what is empty is left out."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import orjson

from grafter.calls.model import CallId, CallRecord, Origin, TurnRow
from grafter.core.calls import Phone

VERSION = 1

_OTHERWISE = frozenset(
    {"origin", "ids", "traces", "guests", "caller", "callee", "numbers", "turns", "tools", "unjoined", "kept"}
)
"""Members of a record that have a form of their own in JSON, which ``encode`` and ``decode`` say."""
_AS_THEY_ARE = tuple(one.name for one in fields(CallRecord) if one.name not in _OTHERWISE)
"""The others: numbers, text and flags, by their names. What is left out has its default, so that has to be empty."""


def encode(record: CallRecord) -> bytes:
    """One JSON object; what a newer version adds, this one leaves alone."""
    fields: dict[str, Any] = {
        "v": VERSION,
        **{name: getattr(record, name) for name in _AS_THEY_ARE},
        "origin": record.origin.value,
        "ids": [[one.kind, one.value] for one in record.ids],
        # Beside them: a grafter that does not know of systems takes ids in pairs.
        "systems": {one.value: one.system for one in record.ids if one.system},
        "traces": [trace.hex() for trace in record.traces],
        "guests": list(record.guests),
        "caller": record.caller and record.caller.encode(),
        "callee": record.callee and record.callee.encode(),
        "numbers": list(record.numbers) if any(record.numbers) else None,
        "turns": [_turn(turn) for turn in record.turns],
        "tools": {name: list(figures) for name, figures in record.tools.items()},
        "unjoined": list(record.unjoined),
        "dropped": not record.kept,
    }
    return orjson.dumps({key: value for key, value in fields.items() if value or (key.endswith("_ms") and value == 0)})


def decode(data: bytes) -> CallRecord:
    """What ``encode`` made. Raises ValueError for anything else."""
    try:
        read = orjson.loads(data)
        if not isinstance(read, dict) or not 0 < read["v"] <= VERSION:
            raise ValueError("no record of this version")
        numbers = read.get("numbers") or [None, None]
        return CallRecord(
            **{name: read[name] for name in _AS_THEY_ARE if name in read},
            origin=Origin(read["origin"]),
            ids=_ids(read),
            traces=tuple(bytes.fromhex(trace) for trace in read.get("traces", ())),
            guests=tuple(read.get("guests", ())),
            caller=_phone(read, "caller"),
            callee=_phone(read, "callee"),
            numbers=(numbers[0], numbers[1]),
            turns=tuple(
                TurnRow(number, start, wait_ms, error_ms, parts, first_token_ms, sentence)
                for number, start, wait_ms, error_ms, parts, first_token_ms, sentence in read.get("turns", ())
            ),
            tools={name: (count, ms) for name, (count, ms) in read.get("tools", {}).items()},
            unjoined=tuple(read.get("unjoined", ())),
            kept=not read.get("dropped", False),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("no record of a call") from error


def _ids(read: Mapping[str, Any]) -> tuple[CallId, ...]:
    systems = read.get("systems", {})
    return tuple(
        CallId(kind, value, systems.get(value, "") if kind == "app" else "") for kind, value in read.get("ids", ())
    )


def _phone(read: Mapping[str, Any], name: str) -> Phone | None:
    text = read.get(name)
    return None if text is None else Phone.decode(text)


def _turn(turn: TurnRow) -> Sequence[Any]:
    return [
        turn.number,
        turn.start,
        turn.wait_ms,
        turn.error_ms,
        dict(turn.parts),
        turn.first_token_ms,
        turn.sentence,
    ]
