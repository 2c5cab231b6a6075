"""``processors.tail_sampling``: its keys, and what they are in the core's own words.

One map of keys serves all kinds of policies; which of them a kind has it says itself, in its own room, so that a key in
the wrong place is named. What values a key takes, and what it means to people, stands here.
"""

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from grafter.config.model import AttributeText, Component, Count, Flag, Model, Number, Ratio, Text
from grafter.config.problems import Finding
from grafter.config.units import Duration
from grafter.core.sampling import policy as core
from grafter.core.sampling.kinds import KINDS
from grafter.core.sampling.policies import SamplingPolicy
from grafter.core.sampling.policy import Kind


class PolicyType(StrEnum):
    """Every kind of policy that there is."""

    _ignore_ = "kind"
    for kind in KINDS:
        vars()[kind.upper()] = kind


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
        known = {"type", *self.kind.keys} | ({"name"} if self.name else set())
        return {key: value for key, value in handler(self).items() if key in known}

    def findings(self) -> Iterator[Finding]:
        kind = self.kind
        for key in self.model_fields_set - {"type", "name", *kind.keys}:
            of = ", ".join(type_ for type_, other in KINDS.items() if key in other.keys)
            yield Finding((key,), f"is no key of {self.type}, but of {of}")
        for key in kind.needs:
            if not getattr(self, key):
                yield Finding((), f"{self.type} needs {key}", also=(("type",),))
        for problem in kind.problems(self._set_keys()):
            where, also = ((), (("type",),)) if problem.key is None else ((problem.key,), ())
            yield Finding(where, problem.text, also=also, warning=problem.warning)

    @property
    def kind(self) -> Kind:
        """What the core says of its type."""
        return KINDS[self.type]

    @property
    def called(self) -> str:
        """What stands in `grafter.policy`."""
        return self.name or self.type.value

    def policy(self) -> core.Policy:
        """The same for the core."""
        return self.kind.made(self.called, **self._set_keys())

    def _set_keys(self) -> dict[str, Any]:
        return {key: value for key in self.kind.keys if (value := getattr(self, key)) is not None}


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
        Policy(type=PolicyType("error")),
        Policy(type=PolicyType("first_token"), threshold_ms=1500),
        Policy(type=PolicyType("always")),
    )
    """The first that matches decides; the last one decides about everything. A set that can drop nothing is not
    looked at."""

    def describe(self) -> str:
        what = ", ".join(policy.called for policy in self.policies)
        return what + (" (dry run)" if self.dry_run else "" if self.policy().looks else " (keeps everything)")

    def findings(self) -> Iterator[Finding]:
        names: dict[str, int] = {}
        for at, policy in enumerate(self.policies):
            name = policy.called
            if names.setdefault(name, at) != at:
                yield Finding(("policies", at), f"is called {name}, as another is: give it a name")
            before = next((one for one in self.policies[:at] if one.kind.last), None)
            # Behind one of N a drop says in words what happens to the others.
            if before is not None and not (policy.type == "drop" and before.type != "always"):
                yield Finding(("policies", at), f"is never reached: {before.type} decides about every trace")
        if not self.policies or not self.policies[-1].kind.last:
            last = ", ".join(type_ for type_, kind in KINDS.items() if kind.last)
            yield Finding(("policies",), f"decides nothing where none of them matches: end with one of {last}")

    def policy(self) -> SamplingPolicy:
        """The same for the core; what a rate limit counts belongs to this one object."""
        return SamplingPolicy(
            tuple(policy.policy() for policy in self.policies),
            self.dry_run,
            int(self.regret),
            self.upstream is Upstream.ALL,
        )
