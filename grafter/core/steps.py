"""The steps of a call that host and guest both describe: tool calls and model turns, read from attributes.

Every instrumentation has names of its own for them. The tables here say which are read; what is then compared stands
in ``tools`` and ``duplicates``, and knows one name for each thing.

Sources: GenAI semantic conventions; OpenInference's semantic conventions (``llm.*``, ``tool.*``); livekit-agents 1.8
(``lk.*``), pipecat-ai 1.14 (``response.id``, ``tool.call_id``) and logfire 5.4 (``Function: {name}``), each as its
tracing module writes them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from grafter.core import semconv
from grafter.core.model import AttributeValue, GraftedSpan, HostSpan, SpanId, ToolCall, UnixNano

Digest = Callable[[str], str]
"""Tool arguments, as text, to the digest that guests carry of theirs."""

USAGE = "gen_ai.usage."
_KIND = "openinference.span.kind"
_TRACELOOP = "traceloop.span.kind"
"""OpenLLMetry's; of its spans of a Realtime session's tools it is all that says what they are."""
_TEMPLATE, _FUNCTION = "logfire.msg_template", "Function: {name}"
"""Logfire's span of a tool is known by its template alone; it has words of its own for what ran, and with what."""
_FUNCTION_NAME, _FUNCTION_INPUT = "name", "input"
CALL_IDS = (semconv.GEN_AI_TOOL_CALL_ID, "lk.function_tool.id", "tool_call.id", "tool.call_id")
TOOL_NAMES = (semconv.GEN_AI_TOOL_NAME, "lk.function_tool.name", "tool.name", "tool.function_name")
_ARGUMENTS = (semconv.GEN_AI_TOOL_CALL_ARGUMENTS, "input.value")
RESPONSE_IDS = (semconv.GEN_AI_RESPONSE_ID, "response.id")
MODELS = (semconv.GEN_AI_RESPONSE_MODEL, "llm.model_name")
_INPUT = (semconv.GEN_AI_USAGE_INPUT_TOKENS, "gen_ai.usage.prompt_tokens", "llm.token_count.prompt")
_OUTPUT = (semconv.GEN_AI_USAGE_OUTPUT_TOKENS, "gen_ai.usage.completion_tokens", "llm.token_count.completion")

HOST_KEYS = frozenset(
    {
        *(semconv.GEN_AI_OPERATION_NAME, semconv.GEN_AI_RESPONSE_FINISH_REASONS, _KIND, _TRACELOOP),
        *(_TEMPLATE, _FUNCTION_NAME, _FUNCTION_INPUT),
        *(
            *CALL_IDS,
            *TOOL_NAMES,
            *_ARGUMENTS,
            *RESPONSE_IDS,
            *MODELS,
            *_INPUT,
            *_OUTPUT,
            semconv.GEN_AI_REQUEST_MODEL,
        ),
    }
)
"""Attributes of host spans that are read here; those that begin with ``USAGE`` come beside them."""
HOST_MARKS = ("gen_ai.", "token_count", "tool")
"""A host span in whose bytes none of these stands describes no such step: few and short, for each costs every span."""

TOOL = "execute_tool"
CHAT = "chat"
MODEL_CALLS = frozenset({"chat", "generate_content", "text_completion", "responses", "realtime_inference"})
_ANSWERED = frozenset({"llm_response", "realtime"})
"""Pipecat's and OpenLLMetry's spans of a Realtime response, made when that has ended: they count its tokens, and their
times say nothing of it."""


@dataclass(frozen=True, slots=True)
class HostTool:
    """A host span that ran a tool, or served one."""

    span: HostSpan
    call_id: str | None
    name: str | None
    digest: str | None


@dataclass(frozen=True, slots=True)
class HostTurn:
    """A host span of a model call."""

    span: HostSpan
    response_id: str | None
    usage: tuple[int, int] | None
    """Input and output tokens, where both are there."""
    counts: Mapping[str, AttributeValue]
    """Everything under ``gen_ai.usage.``, by its key."""
    model: tuple[str, str] | None
    """The model that answered, else the one that was asked, behind the conventions' key for which it is."""
    reasons: tuple[str, ...]

    @property
    def counted(self) -> bool:
        """It says something of what was used."""
        return self.usage is not None or bool(self.counts)


@dataclass(frozen=True, slots=True)
class HostSteps:
    """The steps that a host's spans describe, each kind by start, then id."""

    tools: Sequence[HostTool] = ()
    turns: Sequence[HostTurn] = ()


@dataclass(slots=True)
class GuestTool:
    span_id: SpanId
    parent: bytes
    guest: int
    """Which of the guests that leave together it is of."""
    start: UnixNano
    end: UnixNano
    name: str | None
    digest: str | None
    call_id: str | None
    """The wire's; else what ``tools`` found for it."""
    turn: SpanId | None = None
    """The model turn that asked for it, where that is known."""


@dataclass(frozen=True, slots=True)
class GuestTurn:
    span_id: SpanId
    parent: bytes
    guest: int
    start: UnixNano
    end: UnixNano
    response_id: str | None
    usage: tuple[int, int] | None
    tool_calls: tuple[ToolCall, ...]


@dataclass(slots=True)
class GuestSteps:
    """The steps of all guests that leave together."""

    tools: list[GuestTool] = field(default_factory=list)
    turns: list[GuestTurn] = field(default_factory=list)


def host_steps(spans: Iterable[HostSpan], digest: Digest) -> HostSteps:
    """What these spans describe. ``digest``: of tool arguments, as guests have it."""
    described = [span for span in spans if span.attributes]
    return HostSteps(_host_tools(described, digest), _host_turns(described))


def _host_tools(spans: Iterable[HostSpan], digest: Digest) -> list[HostTool]:
    found = []
    for span in spans:
        attributes = span.attributes
        call_id = call_of(attributes)
        kind, function = attributes.get(_KIND), attributes.get(_TEMPLATE) == _FUNCTION
        described = kind == "TOOL" or attributes.get(_TRACELOOP) == "tool"
        if call_id is None and not (function or described or attributes.get(semconv.GEN_AI_OPERATION_NAME) == TOOL):
            continue
        name = _text(attributes, (_FUNCTION_NAME,) if function else TOOL_NAMES)
        if call_id is None and name is None:
            continue
        # What other kinds of spans have under these keys is a prompt.
        with_what = _ARGUMENTS if kind == "TOOL" else _ARGUMENTS[:1]
        arguments = _text(attributes, (_FUNCTION_INPUT,) if function else with_what)
        found.append(HostTool(span, call_id, name, None if arguments is None else digest(arguments)))
    found.sort(key=lambda tool: (tool.span.start, tool.span.span_id))
    return found


def call_of(attributes: Mapping[str, AttributeValue]) -> str | None:
    """The id of the tool call that a host's span names."""
    return _text(attributes, CALL_IDS)


def is_tool(attributes: Mapping[str, AttributeValue]) -> bool:
    """The host's span describes a tool, and does not only name a call of one."""
    if attributes.get(semconv.GEN_AI_OPERATION_NAME) == TOOL or attributes.get(_KIND) == "TOOL":
        return True
    if attributes.get(_TEMPLATE) == _FUNCTION:
        return True
    return _text(attributes, TOOL_NAMES) is not None


def is_model_call(attributes: Mapping[str, AttributeValue]) -> bool:
    """The host's span describes a call of a model, and does not only name its response."""
    return attributes.get(semconv.GEN_AI_OPERATION_NAME) in MODEL_CALLS or attributes.get(_KIND) == "LLM"


def _host_turns(spans: Iterable[HostSpan]) -> list[HostTurn]:
    """Model calls; what sums several of them up is none."""
    found = []
    for span in spans:
        attributes = span.attributes
        operation = attributes.get(semconv.GEN_AI_OPERATION_NAME)
        if operation is not None and operation not in MODEL_CALLS and operation not in _ANSWERED:
            continue
        if attributes.get(_KIND, "LLM") != "LLM":
            continue
        response_id = _text(attributes, RESPONSE_IDS)
        usage = _usage(attributes)
        if response_id is None and usage is None:
            continue
        counts = {key: value for key, value in attributes.items() if key.startswith(USAGE)}
        reasons = attributes.get(semconv.GEN_AI_RESPONSE_FINISH_REASONS)
        found.append(
            HostTurn(
                span,
                response_id,
                usage,
                counts,
                model_of(attributes),
                reasons if isinstance(reasons, tuple) else (),
            )
        )
    found.sort(key=lambda turn: (turn.span.start, turn.span.span_id))
    return found


def guest_steps(guests: Sequence[Sequence[GraftedSpan]]) -> GuestSteps:
    steps = GuestSteps()
    for guest, spans in enumerate(guests):
        for each in spans:
            named = each.named
            span = each.span
            operation = named.get(semconv.GEN_AI_OPERATION_NAME)
            if operation == TOOL:
                call_id = _word(named, semconv.GEN_AI_TOOL_CALL_ID)
                steps.tools.append(
                    GuestTool(
                        span.span_id,
                        each.parent_span_id,
                        guest,
                        span.start,
                        span.end,
                        _word(named, semconv.GEN_AI_TOOL_NAME),
                        _word(named, semconv.TOOL_ARGUMENTS_DIGEST),
                        call_id,
                    )
                )
            elif operation == CHAT:
                steps.turns.append(
                    GuestTurn(
                        span.span_id,
                        each.parent_span_id,
                        guest,
                        span.start,
                        span.end,
                        _word(named, semconv.GEN_AI_RESPONSE_ID),
                        _usage(named),
                        span.tool_calls,
                    )
                )
    return steps


def model_of(attributes: Mapping[str, AttributeValue]) -> tuple[str, str] | None:
    """The model that answered, else the one that was asked, behind the key that says which it is."""
    answered = _text(attributes, MODELS)
    if answered is not None:
        return semconv.GEN_AI_RESPONSE_MODEL, answered
    requested = _word(attributes, semconv.GEN_AI_REQUEST_MODEL)
    return None if requested is None else (semconv.GEN_AI_REQUEST_MODEL, requested)


def inner(spans: Mapping[SpanId, HostSpan], marked: Mapping[SpanId, object]) -> dict[SpanId, SpanId]:
    """Of each marked host span the nearest marked one above it, where there is one. Circles end nowhere."""
    above: dict[SpanId, SpanId | None] = {}
    found = {}
    for span_id in marked:
        path = []
        at: SpanId | None = span_id
        nearest: SpanId | None = None
        while at is not None and at in spans:
            if at is not span_id and at in marked:
                nearest = at
                break
            if at in above:
                nearest = above[at]
                break
            path.append(at)
            above[at] = None
            at = SpanId(spans[at].parent_span_id) or None
        for step in path:
            above[step] = nearest
        if nearest is not None and nearest != span_id:
            found[span_id] = nearest
    return found


def _text(attributes: Mapping[str, AttributeValue], keys: Iterable[str]) -> str | None:
    for key in keys:
        value = attributes.get(key)
        if isinstance(value, str) and value:
            return value
    return None


def _word(attributes: Mapping[str, AttributeValue], key: str) -> str | None:
    value = attributes.get(key)
    return value if isinstance(value, str) and value else None


def _usage(attributes: Mapping[str, AttributeValue]) -> tuple[int, int] | None:
    used, made = _count(attributes, _INPUT), _count(attributes, _OUTPUT)
    return None if used is None or made is None else (used, made)


def _count(attributes: Mapping[str, AttributeValue], keys: Iterable[str]) -> int | None:
    for key in keys:
        value = attributes.get(key)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        # Host attributes are read as text.
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19:
            return int(value)
    return None
