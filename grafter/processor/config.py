"""``processors.graft``: its keys, and what they are in the core's own units."""

from collections.abc import Iterator, Sequence
from enum import StrEnum

from pydantic import Field

from grafter.config.model import AttributeText, Component, Count, Model, PositiveDuration, Text, Word
from grafter.config.problems import Finding
from grafter.config.units import Duration
from grafter.core.policy import (
    GUEST_ID_KEYS,
    Content,
    GraftPolicy,
    HostMissing,
    Mode,
    Redact,
    RedactAction,
    Rule,
    Selector,
    Tools,
    Unlinked,
    Waits,
)


class Anchor(Model):
    """Picks the host spans under which guests hang; all that is given must match."""

    name: Text = ""
    """The span's name; empty: any."""
    attributes: dict[str, AttributeText] = Field(default_factory=dict)
    """Attributes that the span must have, with these values."""

    def findings(self) -> Iterator[Finding]:
        if not self.name and not self.attributes:
            yield Finding((), "needs a name or attributes; it would match any span")


class Wait(Model):
    """How long to wait for what, from the arrival of parts and never from span times."""

    after_root: Duration = Duration.parse("10s")
    """Quiet time after which a trace is released whose root has come and whose guests are whole."""
    for_guest: Duration = Duration.parse("30s")
    """How much longer to wait for a guest that is not whole."""
    guest_quiet: Duration = Duration.parse("6s")
    """Quiet time after which a guest that looks whole is whole: an SDK's flush and a second."""
    local_root: Duration = Duration.parse("10m")
    """Quiet time after which a trace is released whose root is in another process."""
    idle: PositiveDuration = Duration.parse("10m")
    """Quiet time after which any trace is released."""
    max: PositiveDuration = Duration.parse("2h")
    """Time since the first part after which any trace is released."""
    remember: Duration = Duration.parse("24h")
    """How long late parts still find a released trace."""
    remember_limit: Count = 1_000_000
    """Released traces that are remembered at most, in 1 KiB each on average (16 MiB at least); the oldest go first."""


class RedactKeys(Model):
    """Attributes to rewrite on every span, host spans included."""

    keys: tuple[Word, ...] = ()
    """Attribute keys, in maps, lists and JSON within attributes too; empty: nothing is rewritten."""
    action: RedactAction = RedactAction.HMAC
    """`hmac` puts a keyed hash in the value's place, so that equal values stay comparable; `drop` takes the attribute
    away."""


class Match(Model):
    """How a trace is known that belongs to a call."""

    attribute: Word
    """An attribute that one of its spans has, whichever."""


class Join(StrEnum):
    """To what a rule joins."""

    CALL = "call"


class RuleKeys(Model):
    """Moves traces of other systems, with trace ids of their own, under a call's host trace."""

    match: Match
    """The traces that move."""
    join: Join
    """To what: `call`, the host trace that has the same value."""
    host: Word | None = None
    """The attribute in which the host's spans have that value; null: the same, and the first trace is the host."""

    def findings(self) -> Iterator[Finding]:
        if self.host == self.match.attribute:
            yield Finding(("host",), "is the same as match.attribute: leave it out", warning=True)

    def rule(self) -> Rule:
        return Rule(self.match.attribute, self.host or "")


class GraftProcessor(Component):
    """Hangs OpenAI's spans under the app's trace."""

    mode: Mode = Mode.HOLD
    """`hold` keeps a trace until it is complete, `stream` lets host spans through at once."""
    trace_id_keys: tuple[Word, ...] = ("trace_id",)
    """Keys of OpenAI's trace metadata under which the app put its trace id, in this order."""
    guest_id_keys: tuple[Word, ...] = GUEST_ID_KEYS
    """Attributes of host spans in which an app, or what instruments it, wrote OpenAI's id of a call (`rtc_…`,
    `live_…`), a session (`sess_…`), a trace (`trace_…`) or a response (`resp_…`): a guest that names no host belongs to
    the first trace that has such an id of it. Empty: none is looked for."""
    anchors: tuple[Anchor, ...] = (Anchor(name="gen_ai.realtime.session"),)
    """Host spans under which guests hang, and which make a trace wait for a guest."""
    wait: Wait = Wait()
    """How long to wait for what."""
    unlinked: Unlinked = Unlinked.FORWARD
    """A guest that names no host trace: `forward` it as a trace of its own, `drop` it, or `keep` it until `wait.max`
    has passed."""
    host_missing: HostMissing = HostMissing.FOLLOW_FLAGS
    """A guest whose host trace never came: `forward` or `drop` it; `follow_flags` forwards it unless its traceparent
    says that the host was sampled away."""
    openai_service_name: Word = "openai"
    """`service.name` of guest spans that take no resource from a host span."""
    content: Content = Content.NONE
    """Prompts, answers and arguments: `none` keeps them off disk and wire, `text` exports text, `full` exports all but
    audio."""
    metadata_keys: tuple[Word, ...] = ()
    """Keys of the trace metadata that become attributes of their own."""
    tools: Tools = Tools.UNDER_TURN
    """Host spans of steps that a guest describes too, tools and model calls: `under_turn` hangs them under the guest's
    span of the same step, `siblings` leaves them where they are and links tools to the turn that asked; `off` matches
    no tools and moves nothing."""
    redact: RedactKeys = RedactKeys()
    """Attributes to rewrite on every span."""
    rules: tuple[RuleKeys, ...] = ()
    """Traces of other systems that belong to a call, such as LiveKit's and Pipecat's."""

    def findings(self) -> Iterator[Finding]:
        """Rules where nothing is held, those that are there twice, and those that lead back to where they began."""
        if self.rules and self.mode is Mode.STREAM:
            yield Finding(("rules",), "need mode: hold, for a trace that has left moves nowhere", also=(("mode",),))
        first: dict[str, int] = {}
        for at, one in enumerate(self.rules):
            rule = one.rule()
            if first.setdefault(rule.match, at) != at:
                yield Finding(("rules", at), f"matches {rule.match}, as another does")
            if rule.host and _leads_back(rule, [each.rule() for each in self.rules[: at + 1]]):
                message = f"leads back to {rule.match}: traces would wait for each other"
                yield Finding(("rules", at, "host"), message)

    def describe(self) -> str:
        rules = f", rules that match {', '.join(rule.match.attribute for rule in self.rules)}" if self.rules else ""
        return f"mode {self.mode}, content {self.content}{rules}"

    def policy(self, max_trace_bytes: int) -> GraftPolicy:
        """The same for the core. ``redact.secret`` is left empty: it belongs to the store."""
        return GraftPolicy(
            mode=self.mode,
            trace_id_keys=self.trace_id_keys,
            guest_id_keys=self.guest_id_keys,
            anchors=tuple(Selector(anchor.name, tuple(anchor.attributes.items())) for anchor in self.anchors),
            waits=Waits(**{name: int(value) for name, value in self.wait}),
            unlinked=self.unlinked,
            host_missing=self.host_missing,
            openai_service_name=self.openai_service_name,
            content=self.content,
            metadata_keys=self.metadata_keys,
            tools=self.tools,
            rules=tuple(one.rule() for one in self.rules),
            redact=Redact(frozenset(self.redact.keys), self.redact.action),
            max_trace_bytes=int(max_trace_bytes),
        )


def _leads_back(rule: Rule, rules: Sequence[Rule]) -> bool:
    """From host key to match key, rule after rule, one comes to where the rule began."""
    following = {each.match: each.host for each in rules if each.host}
    key, seen = rule.host, set[str]()
    while key and key not in seen:
        if key == rule.match:
            return True
        seen.add(key)
        key = following.get(key, "")
    return False
