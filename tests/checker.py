"""An independent check of a joined trace: what went in, what came out, and nothing of grafter in between.

It is built from OTLP's messages and the wire's JSON alone and imports nothing of the core, so that a mistake there is
not repeated here. ``check`` raises AssertionError with what is wrong:

- nothing lost, nothing invented: every host span and every item once, and beside them only what says so of itself;
- only announced changes: a host span is what came, with a parent, attributes and links of a known list behind it, and
  counts under another name where the guest's span of the same call, which had left before, has them;
- the same of a trace that a rule moved: each span once, under the host's trace id and an id made of its two old ones,
  with what it came with, its parents and its links inside as they were, its roots in the host's tree;
- one tree: one trace id, unique span ids, every parent there that was there before, no circle, no further root;
- causal order: what a turn asked for does not begin before the turn;
- each step once: of the spans of one response, or of one call, all but one hang below another of them;
- usage counted once: the sum of each column is the sum of the model calls that there were.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

MOVED_FROM, MATCH, TWIN = "grafter.parent.original", "grafter.match", "grafter.duplicate_of"
ENRICHED = ("gen_ai.response.model", "gen_ai.request.model", "gen_ai.response.finish_reasons")
MOVED = ("grafter.guest.trace_id", "grafter.guest.span_id")
MOVED_ROOT = {"grafter.source": "otlp", "grafter.link": "rule"}
UNANCHORED = "grafter.anchor"
WAITED = ("grafter.app_ms", "grafter.openai_ms", "grafter.unknown_ms")
USAGE, BESIDE = "gen_ai.usage.", "grafter.duplicate.usage."
TOTALS = ("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens")
CALL, RESPONSE = "gen_ai.tool.call.id", "gen_ai.response.id"
OPERATION = "gen_ai.operation.name"
ASKED_BY = "gen_ai.attribution.link_type"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass
class Seen:
    """A span with where it stood, its attributes read."""

    span: Span
    resource: bytes
    scope: bytes
    words: dict[str, Any]
    trace: bytes = b""
    """Of a trace that a rule moves: the id that it came with; then the span is the one that has to leave."""
    parent: str = ""
    """The parent that it came with."""


@dataclass
class Call:
    """What went in of one call."""

    host: Sequence[bytes] = ()
    """Requests as the app sent them."""
    items: Sequence[Mapping[str, Any]] = ()
    """OpenAI's items, in any order."""
    events: Sequence[Mapping[str, Any]] = ()
    """Realtime events, as the server and the client sent them."""
    by_rule: Sequence[bytes] = ()
    """Requests of other traces, which a rule moves to the host's."""
    moves: bool = True
    """Steps that are known by an id hang below one another."""


def check(call: Call, result: Iterable[bytes]) -> None:
    """Check the requests that left against what went in. The guests must have been linked to the host, in time."""
    left = _spans(result)
    came = {seen.span.span_id: seen for seen in _spans(call.host)}
    for seen in came.values():
        seen.parent = seen.span.parent_span_id.hex()
    own_roots = {own for own, seen in came.items() if not seen.parent}
    came |= _moved(call, came)
    ids = Counter(seen.span.span_id for seen in left)
    assert not [own.hex() for own, count in ids.items() if count > 1], "a span left twice"
    after = {seen.span.span_id: seen for seen in left}

    _moved_roots_hang(came, after)
    _host_is_whole(came, after)
    guests = {own: seen for own, seen in after.items() if own not in came}
    _guests_are_whole(call, guests)
    _one_tree(came, after, own_roots)
    _causes_come_first(after)
    if call.moves:
        _steps_stand_once(came, after)
    _usage_is_counted_once(call, came, after)


def _moved(call: Call, host: Mapping[bytes, Seen]) -> dict[bytes, Seen]:
    """The spans that have to leave for those that came of traces that a rule moves, by their new ids."""
    to = next((seen.span.trace_id for seen in host.values()), b"")
    expected: dict[bytes, Seen] = {}
    for seen in _spans(call.by_rule):
        span, trace = seen.span, seen.span.trace_id
        seen.trace, seen.parent = trace, span.parent_span_id.hex()
        span.trace_id, span.span_id = to, _new_id(trace, span.span_id)
        if span.parent_span_id:
            span.parent_span_id = _new_id(trace, span.parent_span_id)
        for link in span.links:
            if link.trace_id == trace:
                link.trace_id, link.span_id = to, _new_id(trace, link.span_id)
        expected[span.span_id] = seen
    return expected


def _new_id(trace: bytes, span_id: bytes) -> bytes:
    return hashlib.sha256(trace.hex().encode() + b"\0" + span_id.hex().encode()).digest()[:8]


def _moved_roots_hang(came: Mapping[bytes, Seen], after: Mapping[bytes, Seen]) -> None:
    """Where the roots of moved traces hang is grafter's choice: under a span of another trace, or nowhere and said."""
    for own, seen in came.items():
        if not seen.trace:
            continue
        assert own in after, f"moved span {seen.span.name} was lost"
        words = after[own].words
        assert _says_old_ids(seen.trace, own, words), f"{seen.span.name} does not say what its ids were"
        if seen.parent:
            continue
        said = {key: words.get(key) for key in MOVED_ROOT}
        assert said == MOVED_ROOT, f"{seen.span.name} does not say how it came here: {said}"
        above = after[own].span.parent_span_id
        assert bool(above) != (words.get(UNANCHORED) == "none"), f"{seen.span.name} hangs nowhere and does not say so"
        if above:
            assert above not in came or came[above].trace != seen.trace, f"{seen.span.name} hangs in its own trace"
        seen.span.parent_span_id = above


def _says_old_ids(trace: bytes, own: bytes, words: Mapping[str, Any]) -> bool:
    """Whether a moved span says what its ids were."""
    said = [str(words.get(key, "")) for key in MOVED]
    return said[0] == trace.hex() and _new_id(trace, bytes.fromhex(said[1])) == own


def _host_is_whole(came: Mapping[bytes, Seen], after: Mapping[bytes, Seen]) -> None:
    for own, before in came.items():
        assert own in after, f"host span {before.span.name} was lost"
        now = after[own]
        assert (now.resource, now.scope) == (before.resource, before.scope), f"{before.span.name} changed its resource"
        told = (*MOVED, *MOVED_ROOT, UNANCHORED) if before.trace else ()
        extra = now.span.attributes[len(before.span.attributes) :]
        links = now.span.links[len(before.span.links) :]
        for attribute in extra:
            known = attribute.key in (MOVED_FROM, MATCH, TWIN, *ENRICHED, *WAITED, *told)
            announced = known or attribute.key.startswith(USAGE)
            assert announced, f"{before.span.name} was given {attribute.key}"
            assert attribute.key not in before.words, f"{before.span.name} has {attribute.key} twice"
        assert all(_words(link.attributes).keys() == {ASKED_BY} for link in links)
        undone = Span()
        undone.CopyFrom(now.span)
        for attribute in undone.attributes[: len(before.span.attributes)]:
            if attribute.key.startswith(BESIDE):
                assert TWIN in now.words, f"{before.span.name} counts under another name, and is nobody's twin"
                attribute.key = USAGE + attribute.key.removeprefix(BESIDE)
        del undone.attributes[len(before.span.attributes) :]
        del undone.links[len(before.span.links) :]
        if MOVED_FROM in now.words:
            assert now.words[MOVED_FROM] == before.parent, f"{before.span.name}: a wrong old parent"
            undone.parent_span_id = before.span.parent_span_id
        assert undone == before.span, f"{before.span.name} was changed"


def _guests_are_whole(call: Call, guests: Mapping[bytes, Seen]) -> None:
    items = {(item["trace_id"], item["id"]): item for item in call.items if item.get("object") == "trace.span"}
    by_item: dict[tuple[str, str], Seen] = {}
    allowed = _event_ids(call.events)
    for seen in guests.values():
        name = (seen.words.get("openai.agents.trace.id"), seen.words.get("openai.agents.span.id"))
        if name in items:
            assert name not in by_item, f"item {name[1]} left twice"
            by_item[name] = seen  # type: ignore[index]
            continue
        own = str(seen.words.get("grafter.guest.span_id", "")).removesuffix("/audio")
        assert seen.words.get("grafter.synthetic") is True or own in allowed, f"{seen.span.name} was invented"
    assert by_item.keys() == items.keys(), f"lost items: {items.keys() - by_item.keys()}"
    for (trace, _), seen in by_item.items():
        item = items[trace, seen.words["openai.agents.span.id"]]
        start, end = _moment(item.get("started_at")), _moment(item.get("ended_at"))
        if start is not None and end is not None and start <= end:
            assert (seen.span.start_time_unix_nano, seen.span.end_time_unix_nano) == (start, end)
        parent = by_item.get((trace, str(item.get("parent_id"))))
        if parent is not None and not seen.words.get("grafter.parent.missing"):
            assert seen.span.parent_span_id == parent.span.span_id, f"{seen.span.name} lost its parent"
    ended = {event["response"]["id"] for event in call.events if event.get("type") == "response.done"}
    found = Counter(seen.words.get(RESPONSE) for seen in guests.values() if seen.words.get(OPERATION) == "chat")
    assert all(found[response] == 1 for response in ended), f"responses {ended} and {found} differ"


def _one_tree(came: Mapping[bytes, Seen], after: Mapping[bytes, Seen], own_roots: Set[bytes]) -> None:
    assert len({seen.span.trace_id for seen in after.values()}) == 1, "more than one trace"
    broken = {seen.span.parent_span_id for seen in came.values()} - came.keys()
    for own, seen in after.items():
        parent = seen.span.parent_span_id
        assert parent in after or parent in broken, f"{seen.span.name} hangs under a span that is not there"
        walked = {own}
        while parent in after:
            assert parent not in walked, f"{seen.span.name} hangs below itself"
            walked.add(parent)
            parent = after[parent].span.parent_span_id
    roots = {own for own, seen in after.items() if not seen.span.parent_span_id}
    unanchored = {own for own in roots if own in came and came[own].trace and UNANCHORED in after[own].words}
    assert roots - unanchored == own_roots, "a further root"


def _causes_come_first(after: Mapping[bytes, Seen]) -> None:
    for seen in after.values():
        for link in seen.span.links:
            if ASKED_BY not in _words(link.attributes):
                continue
            assert link.span_id in after, f"{seen.span.name} was asked for by a span that is not there"
            turn = after[link.span_id]
            assert turn.words.get(OPERATION) == "chat", f"{seen.span.name} was asked for by {turn.span.name}"
            assert seen.span.start_time_unix_nano + 1_000_000 >= turn.span.start_time_unix_nano


def _steps_stand_once(came: Mapping[bytes, Seen], after: Mapping[bytes, Seen]) -> None:
    """What is known by an id of its own: the spans that have it make one branch, where a guest's is among them."""
    for key, operation in ((CALL, "execute_tool"), (RESPONSE, "chat")):
        steps: dict[str, list[Seen]] = {}
        for seen in after.values():
            if seen.words.get(key):
                steps.setdefault(seen.words[key], []).append(seen)
        for step, spans in steps.items():
            mine = [seen for seen in spans if seen.span.span_id not in came]
            guests = [seen for seen in mine if _is_guest(seen) and seen.words.get(OPERATION) == operation]
            if len(guests) != 1:
                continue
            for seen in spans:
                if seen is guests[0] or MATCH not in seen.words:
                    # A span without a match is inside of one that has it, or the guest hangs inside of it.
                    related = _below(seen, guests[0], after) or _below(guests[0], seen, after)
                else:
                    related = _below(seen, guests[0], after) or MOVED_FROM not in seen.words
                assert seen is guests[0] or related, f"{seen.span.name} shows {step} a second time"


def _usage_is_counted_once(call: Call, came: Mapping[bytes, Seen], after: Mapping[bytes, Seen]) -> None:
    truth = [0, 0]
    twins = {
        seen.words[TWIN]: came[own]
        for own, seen in after.items()
        if own in came and TWIN in seen.words and _counts(came[own])
    }
    late = {
        seen.words[TWIN]
        for own, seen in after.items()
        if own in came and any(key.startswith(BESIDE) for key in seen.words)
    }
    by_response = {seen.words[RESPONSE] for seen in came.values() if RESPONSE in seen.words and _counts(seen)}
    for seen in came.values():
        for at, key in enumerate(TOTALS):
            truth[at] += int(seen.words.get(key, 0))
    known = {
        seen.words.get("openai.agents.span.id") or seen.words.get("grafter.guest.span_id"): own
        for own, seen in after.items()
        if own not in came
    }
    for name, usage in _guest_usage(call).items():
        own = known[name]
        before = twins.get(own.hex())
        same = after[own].words.get(RESPONSE)
        assert before is not None or same not in by_response, f"{same} is counted on both sides"
        if before is not None:
            told = before.words.get(RESPONSE), same
            assert (told[0] == told[1]) if all(told) else _tokens(before) == usage, f"{name} repeats nothing"
            if own.hex() in late:
                # The guest's span had left with its counts: the app's has none of those columns any more.
                for at, key in enumerate(TOTALS):
                    truth[at] += usage[at] - int(before.words.get(key, 0))
                continue
            if before.trace and not any(key in before.words for key in TOTALS):
                # The same, but that the app's span counts in columns of its own: the guest's keep theirs.
                for at in range(2):
                    truth[at] += usage[at]
                continue
            for at, key in enumerate(TOTALS):
                # A column that the app's span lacked moved there from the guest's.
                truth[at] += 0 if key in before.words else usage[at]
            assert not _counts_in(after[own]), f"{after[own].span.name} is counted on both sides"
            continue
        for at in range(2):
            truth[at] += usage[at]
    for at, key in enumerate(TOTALS):
        total = sum(int(seen.words.get(key, 0)) for seen in after.values())
        assert total == truth[at], f"SUM({key}) is {total}, and {truth[at]} were used"


def _guest_usage(call: Call) -> dict[str, tuple[int, int]]:
    """Tokens by the id of the model call's item or response."""
    found: dict[str, tuple[int, int]] = {}
    for item in call.items:
        data = item.get("span_data") or {}
        if data.get("type") not in ("generation", "response", "transcription", "speech"):
            continue
        usage = _usage(data.get("usage")) or _usage(_turn_usage(item, call.items))
        for answer in data.get("output") or () if isinstance(data.get("output"), list) else ():
            usage = usage or _usage(answer.get("usage") if isinstance(answer, Mapping) else None)
        if usage is not None:
            found[item["id"]] = usage
    for event in call.events:
        if event.get("type") == "response.done":
            usage = _usage(event["response"].get("usage"))
            if usage is not None:
                found[event["response"]["id"]] = usage
    return found


def _turn_usage(item: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> object:
    """JavaScript's SDK says on the turn what its one model call used."""
    if (item.get("span_data") or {}).get("type") not in ("generation", "response"):
        return None
    calls = [
        other
        for other in items
        if other.get("parent_id") == item.get("parent_id")
        and (other.get("span_data") or {}).get("type") in ("generation", "response")
    ]
    turn = next((other for other in items if other.get("id") == item.get("parent_id")), None)
    data = ((turn or {}).get("span_data") or {}).get("data") or {}
    if len(calls) != 1 or not isinstance(data, Mapping) or data.get("sdk_span_type") != "turn":
        return None
    usage = data.get("usage")
    return usage if isinstance(usage, Mapping) and any(isinstance(v, int) and v for v in usage.values()) else None


def _usage(usage: object) -> tuple[int, int] | None:
    if not isinstance(usage, Mapping):
        return None
    used = usage.get("input_tokens", usage.get("prompt_tokens"))
    made = usage.get("output_tokens", usage.get("completion_tokens"))
    return None if used is None and made is None else (used or 0, made or 0)


def _event_ids(events: Iterable[Mapping[str, Any]]) -> set[str]:
    """Every id that an event names, for a Realtime guest's spans are named by those."""
    found = {"session"}
    waiting: list[object] = list(events)
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            found |= {v for k, v in value.items() if isinstance(v, str) and (k == "id" or k.endswith("_id"))}
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return found


def _counts(seen: Seen) -> bool:
    """It says what was used, by any of the names in use."""
    return any(key in seen.words for key in (*TOTALS, "llm.token_count.prompt", "gen_ai.usage.prompt_tokens"))


def _tokens(seen: Seen) -> tuple[int, ...]:
    used = [seen.words.get(key) for key in (TOTALS[0], "llm.token_count.prompt", "gen_ai.usage.prompt_tokens")]
    made = [seen.words.get(key) for key in (TOTALS[1], "llm.token_count.completion", "gen_ai.usage.completion_tokens")]
    return tuple(next((value for value in values if value is not None), 0) for values in (used, made))


def _counts_in(seen: Seen) -> bool:
    return any(key.startswith(USAGE) for key in seen.words)


def _is_guest(seen: Seen) -> bool:
    return "openai.agents.span.id" in seen.words or "grafter.guest.span_id" in seen.words


def _below(seen: Seen, upper: Seen, after: Mapping[bytes, Seen]) -> bool:
    at: Seen | None = seen
    while at is not None:
        if at is upper:
            return True
        at = after.get(at.span.parent_span_id)
    return False


def _moment(text: object) -> int | None:
    if not isinstance(text, str):
        return None
    return (datetime.fromisoformat(text.replace("Z", "+00:00")) - _EPOCH) // timedelta(microseconds=1) * 1000


def _spans(requests: Iterable[bytes]) -> list[Seen]:
    found = []
    for body in requests:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                found += [
                    Seen(
                        span,
                        resource.resource.SerializeToString(deterministic=True),
                        scope.scope.SerializeToString(deterministic=True),
                        _words(span.attributes),
                    )
                    for span in scope.spans
                ]
    return found


def _words(attributes: Iterable[Any]) -> dict[str, Any]:
    values = {}
    for each in attributes:
        kind = each.value.WhichOneof("value")
        values[each.key] = getattr(each.value, kind) if kind else None
    return values
