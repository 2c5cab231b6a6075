"""Records as bytes, for the store's tasks and the database; what is empty is left out."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from grafter.calls.model import CallId, CallRecord, Origin, TurnRow
from grafter.core.calls import Phone

VERSION = 1


def encode(record: CallRecord) -> bytes:
    """One JSON object; what a newer version adds, this one leaves alone."""
    fields: dict[str, Any] = {
        "v": VERSION,
        "name": record.name,
        "origin": record.origin.value,
        "at": record.at,
        "ids": [[one.kind, one.value] for one in record.ids],
        "traces": [trace.hex() for trace in record.traces],
        "guests": list(record.guests),
        "caller": record.caller and record.caller.encode(),
        "callee": record.callee and record.callee.encode(),
        "numbers": list(record.numbers) if any(record.numbers) else None,
        "start": record.start,
        "end": record.end,
        "outcome": record.outcome,
        "turns": [_turn(turn) for turn in record.turns],
        "app_ms": record.app_ms,
        "openai_ms": record.openai_ms,
        "unknown_ms": record.unknown_ms,
        "tools": {name: list(figures) for name, figures in record.tools.items()},
        "errors": record.errors,
        "barge_ins": record.barge_ins,
        "spans": record.spans,
        "unjoined": list(record.unjoined),
        "policy": record.policy,
        "dropped": not record.kept,
        "recording": record.recording,
        "addition": record.addition,
        "number_key": record.number_key,
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
            name=read["name"],
            origin=Origin(read["origin"]),
            at=read["at"],
            ids=tuple(CallId(kind, value) for kind, value in read.get("ids", ())),
            traces=tuple(bytes.fromhex(trace) for trace in read.get("traces", ())),
            guests=tuple(read.get("guests", ())),
            caller=_phone(read, "caller"),
            callee=_phone(read, "callee"),
            numbers=(numbers[0], numbers[1]),
            start=read.get("start"),
            end=read.get("end"),
            outcome=read.get("outcome", ""),
            turns=tuple(_read_turn(turn) for turn in read.get("turns", ())),
            app_ms=read.get("app_ms"),
            openai_ms=read.get("openai_ms"),
            unknown_ms=read.get("unknown_ms"),
            tools={name: (count, ms) for name, (count, ms) in read.get("tools", {}).items()},
            errors=read.get("errors", 0),
            barge_ins=read.get("barge_ins", 0),
            spans=read.get("spans", 0),
            unjoined=tuple(read.get("unjoined", ())),
            policy=read.get("policy", ""),
            kept=not read.get("dropped", False),
            recording=read.get("recording"),
            addition=read.get("addition", False),
            number_key=read.get("number_key", ""),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("no record of a call") from error


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


def _read_turn(read: Sequence[Any]) -> TurnRow:
    number, start, wait_ms, error_ms, parts, first_token_ms, sentence = read
    return TurnRow(number, start, wait_ms, error_ms, parts, first_token_ms, sentence)
