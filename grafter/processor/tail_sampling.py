"""``processors.tail_sampling``: its keys, and what they are in the core's own words.

One map of keys serves all kinds of policies; which of them a kind has stands in one table, so that a key in the wrong
place is named, and a new kind is its class in the core and its row here.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from grafter.config.model import AttributeText, Component, Count, Flag, Model, Number, Ratio, Text
from grafter.config.problems import Finding
from grafter.config.units import Duration
from grafter.core.sampling import policies as core
from grafter.core.sampling.policies import SamplingPolicy


class PolicyType(StrEnum):
    ERROR = "error"
    FIRST_TOKEN = "first_token"
    LATENCY = "latency"
    ATTRIBUTE = "attribute"
    SPAN_COUNT = "span_count"
    GUEST = "guest"
    BARGE_IN = "barge_in"
    PROBABILISTIC = "probabilistic"
    RATE_LIMIT = "rate_limit"
    ALWAYS = "always"
    DROP = "drop"


class Upstream(StrEnum):
    ALL = "all"
    UNKNOWN = "unknown"


class Policy(Model):
    """One policy; the first in the list that matches decides."""

    type: PolicyType
    """What it asks: `error`, `first_token`, `latency`, `attribute`, `span_count`, `guest`, `barge_in`; or what it does
    with everything: `probabilistic`, `rate_limit`, `always`, `drop`."""
    name: Text = ""
    """What stands in `grafter.policy`; empty: the type."""
    threshold_ms: Number | None = None
    """`first_token`, `latency`: keeps what took longer. Of `first_token` null is 1500."""
    upper_threshold_ms: Count | None = None
    """`latency`: and what took no longer than this."""
    key: Text = ""
    """`attribute`: the attribute's key, on a span or its resource."""
    values: tuple[AttributeText, ...] = ()
    """`attribute`: its values, any of them; empty: it is enough that it is there."""
    min_spans: Count | None = None
    """`span_count`: keeps traces with so many spans."""
    max_spans: Count | None = None
    """`span_count`: and with no more than these."""
    present: Flag = True
    """`guest`: keeps traces with a guest, or (false) without one."""
    complete: Flag | None = None
    """`guest`: and with whole guests, or (false) with some that are not; null: either."""
    one_of: Count | None = None
    """`probabilistic`: keeps one of so many traces, by their trace ids."""
    sampling_percentage: Annotated[Ratio, Field(ge=0, le=100)] | None = None
    """`probabilistic`: the same as a percentage; it becomes the nearest `one_of`."""
    spans_per_second: Count | None = None
    """`rate_limit`: keeps about so many spans a second, in each process."""

    @model_serializer(mode="wrap")
    def _own_keys(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The keys of its type; a name where there is one."""
        known = {"type", *_KINDS[self.type].keys} | ({"name"} if self.name else set())
        return {key: value for key, value in handler(self).items() if key in known}

    def findings(self) -> Iterator[Finding]:
        kind = _KINDS[self.type]
        for key in self.model_fields_set - {"type", "name", *kind.keys}:
            of = ", ".join(type_ for type_, other in _KINDS.items() if key in other.keys)
            yield Finding((key,), f"is no key of {self.type}, but of {of}")
        for key in kind.needs:
            if not getattr(self, key):
                yield Finding((), f"{self.type} needs {key}", also=(("type",),))
        if self.type is PolicyType.SPAN_COUNT and not (self.min_spans or self.max_spans):
            yield Finding((), "span_count needs min_spans, max_spans or both", also=(("type",),))
        if self.type is PolicyType.PROBABILISTIC:
            yield from self._share()

    def _share(self) -> Iterator[Finding]:
        share = self.sampling_percentage
        if (share is None) == (self.one_of is None):
            yield Finding((), "probabilistic needs one_of or sampling_percentage, one of the two", also=(("type",),))
        elif share is not None:
            where = ("sampling_percentage",)
            if share == 0:
                yield Finding(where, "0 keeps nothing: that is the policy drop")
            elif 50 < share < 100:
                yield Finding(
                    where,
                    f"{share:g} is no one of N: the nearest are one_of: 1 (100 %) and one_of: 2 (50 %)",
                )
            elif abs(100 / share - self.n) > 1e-9:
                yield Finding(where, f"{share:g} becomes one_of: {self.n} ({100 / self.n:.4g} %)", warning=True)

    @property
    def n(self) -> int:
        """One of how many it keeps."""
        if self.one_of is not None:
            return self.one_of
        return max(1, round(100 / self.sampling_percentage)) if self.sampling_percentage else 1

    def policy(self) -> core.Policy:
        """The same for the core."""
        return _KINDS[self.type].made(self, self.name or self.type.value)


@dataclass(frozen=True, slots=True)
class _Kind:
    """A row of the table."""

    made: Callable[[Policy, str], core.Policy]
    """By its keys, and under its name."""
    keys: tuple[str, ...] = ()
    """Beside its type and its name."""
    needs: tuple[str, ...] = ()
    """Those of them that it cannot do without."""
    last: bool = False
    """It decides about every trace that reaches it."""


def _first_token(own: Policy, name: str) -> core.Policy:
    return core.FirstToken(name) if own.threshold_ms is None else core.FirstToken(name, own.threshold_ms)


_KINDS: Mapping[PolicyType, _Kind] = {
    PolicyType.ERROR: _Kind(lambda _, name: core.Error(name)),
    PolicyType.FIRST_TOKEN: _Kind(_first_token, ("threshold_ms",)),
    PolicyType.LATENCY: _Kind(
        lambda own, name: core.Latency(name, own.threshold_ms or 0, own.upper_threshold_ms),
        ("threshold_ms", "upper_threshold_ms"),
        needs=("threshold_ms",),
    ),
    PolicyType.ATTRIBUTE: _Kind(
        lambda own, name: core.Attribute(name, own.key, frozenset(own.values)), ("key", "values"), needs=("key",)
    ),
    PolicyType.SPAN_COUNT: _Kind(
        lambda own, name: core.SpanCount(name, own.min_spans or 1, own.max_spans), ("min_spans", "max_spans")
    ),
    PolicyType.GUEST: _Kind(lambda own, name: core.HasGuest(name, own.present, own.complete), ("present", "complete")),
    PolicyType.BARGE_IN: _Kind(lambda _, name: core.BargeIn(name)),
    PolicyType.PROBABILISTIC: _Kind(
        lambda own, name: core.Probabilistic(name, own.n), ("one_of", "sampling_percentage"), last=True
    ),
    PolicyType.RATE_LIMIT: _Kind(
        lambda own, name: core.RateLimit(name, own.spans_per_second or 1),
        ("spans_per_second",),
        needs=("spans_per_second",),
        last=True,
    ),
    PolicyType.ALWAYS: _Kind(lambda _, name: core.Always(name), last=True),
    PolicyType.DROP: _Kind(lambda _, name: core.Drop(name), last=True),
}


class TailSamplingProcessor(Component):
    """Decides which traces are kept when they are whole, and writes on each span how many it stands for."""

    dry_run: Flag = False
    """True: nothing is dropped; spans say what would have become of their trace."""
    regret: Duration = Duration.parse("15m")
    """How much longer than its waits a trace is held that is not complete and would be dropped; `0`: it is kept."""
    upstream: Upstream = Upstream.ALL
    """What came without a weight and was kept for what it is: `all` says that nothing has sampled it before (rate 1),
    `unknown` says nothing."""
    policies: tuple[Policy, ...] = (
        Policy(type=PolicyType.ERROR),
        Policy(type=PolicyType.FIRST_TOKEN, threshold_ms=1500),
        Policy(type=PolicyType.ALWAYS),
    )
    """The first that matches decides; the last one decides about everything. A set that can drop nothing is not
    looked at."""

    def describe(self) -> str:
        what = ", ".join(policy.name or policy.type for policy in self.policies)
        return what + (" (dry run)" if self.dry_run else "" if self.policy().looks else " (keeps everything)")

    def findings(self) -> Iterator[Finding]:
        names: dict[str, int] = {}
        for at, policy in enumerate(self.policies):
            name = policy.name or policy.type.value
            if names.setdefault(name, at) != at:
                yield Finding(("policies", at), f"is called {name}, as another is: give it a name")
            before = next((one for one in self.policies[:at] if _KINDS[one.type].last), None)
            # Behind one of N a drop says in words what happens to the others.
            if before is not None and not (policy.type is PolicyType.DROP and before.type is not PolicyType.ALWAYS):
                yield Finding(("policies", at), f"is never reached: {before.type} decides about every trace")
        if not self.policies or not _KINDS[self.policies[-1].type].last:
            last = ", ".join(type_ for type_, kind in _KINDS.items() if kind.last)
            yield Finding(("policies",), f"decides nothing where none of them matches: end with one of {last}")

    def policy(self) -> SamplingPolicy:
        """The same for the core; what a rate limit counts belongs to this one object."""
        return SamplingPolicy(
            tuple(policy.policy() for policy in self.policies),
            self.dry_run,
            int(self.regret),
            self.upstream is Upstream.ALL,
        )
