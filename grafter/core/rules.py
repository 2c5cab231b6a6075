"""Traces of other systems that belong to a call, though they have trace ids of their own.

Such a trace and the call's host trace have one value in common: an id of the call, which the one has under the rule's
``match`` and the other under its ``host`` (the same key, should nothing else be said). The first trace that has a value
under a host key is its host, for good; it moves nowhere, so there are neither circles nor chains. Another one with the
value under a match key leaves under the host's trace id, with all that hangs in it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from grafter.core.model import RULE, NamedLink, SpanId, TraceId, guest_span_id
from grafter.core.policy import Rule

_LONGEST = 256
MOST_VALUES = 100
"""Of a trace under one key, the first that are read: a call has one id of a kind, and each costs a row in the store."""
_NOTE = "call "
"""What a note of a value begins with; no guest has a name with a blank in it, as far as notes go (``is_nameable``)."""


@dataclass(frozen=True, slots=True)
class Moved:
    host: TraceId
    parent: SpanId | None
    """The host span under which its roots hang; None: they are roots there."""
    anchor: str
    """How that was found."""


@dataclass(frozen=True, slots=True)
class Values:
    """What the spans of one trace have under the keys of the rules: key and value."""

    match: frozenset[tuple[str, str]] = frozenset()
    host: frozenset[tuple[str, str]] = frozenset()


class RuleSet:
    def __init__(self, rules: Sequence[Rule]) -> None:
        self.match_keys = frozenset(rule.match for rule in rules)
        self.host_keys = frozenset(rule.host_key for rule in rules)
        self._rules = tuple(rules)

    def __bool__(self) -> bool:
        return bool(self._rules)

    def values(self, attributes: Iterable[tuple[str, str]]) -> Values:
        """Those that count, of the attributes of any spans of a trace."""
        usable = [pair for pair in attributes if pair[1].strip() and len(note_id(*pair)) <= _LONGEST]
        return Values(
            frozenset(pair for pair in usable if pair[0] in self.match_keys),
            frozenset(pair for pair in usable if pair[0] in self.host_keys),
        )

    def notes(self, host: TraceId, values: Values) -> list[NamedLink]:
        """What is noted of a trace that may be a host."""
        return [NamedLink(note_id(*pair), host, how=RULE) for pair in sorted(values.host)]

    def note_ids(self, values: Values) -> list[str]:
        """The notes by which the host of a trace is found."""
        matched = {note_id(rule.host_key, value) for key, value in values.match for rule in self._rules_of(key)}
        return sorted(matched.union(note_id(*pair) for pair in values.host))

    def hosts(self, trace: TraceId, values: Values, noted: Mapping[str, NamedLink]) -> frozenset[TraceId]:
        """The host traces that it may belong to; itself where it is one."""
        if any(noted[name].host == trace for name in (note_id(*pair) for pair in values.host) if name in noted):
            return frozenset({trace})
        names = (note_id(rule.host_key, value) for key, value in values.match for rule in self._rules_of(key))
        return frozenset(noted[name].host for name in names if name in noted)

    def _rules_of(self, key: str) -> Iterable[Rule]:
        return (rule for rule in self._rules if rule.match == key)


def note_id(key: str, value: str) -> str:
    """Under which id the host of a value is noted."""
    return f"{_NOTE}{key} {value}"


def is_note_id(text: str) -> bool:
    return text.startswith(_NOTE)


def moved_span_id(trace: bytes, span_id: bytes) -> SpanId:
    """The id under which a span of a moved trace leaves: by the rule for all guests, of both ids as hex."""
    return guest_span_id(trace.hex(), span_id.hex())
