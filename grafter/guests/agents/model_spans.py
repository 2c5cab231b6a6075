"""How model calls are mapped: chat by either API, speech to text, text to speech.

These are the only spans that carry ``gen_ai.usage.*``: whoever adds tokens up adds them up here.
"""

from collections.abc import Mapping
from urllib.parse import urlsplit

from grafter.core import semconv
from grafter.core.model import SPAN_KIND_CLIENT, AttributeValue
from grafter.core.policy import SECOND
from grafter.guests.attributes import Json, SpanDraft, titled
from grafter.guests.json_values import count_of, float_of, list_of, mapping_of, moment, text_of
from grafter.guests.media import audio_summary
from grafter.guests.messages import answers, messages, text_message, tool_calls_in
from grafter.guests.usage import call_usage

_PORTS = {"https": 443, "http": 80}

# gen_ai.provider.name, well-known values. First by where the request went, then by the ``provider/model`` form that
# LiteLLM and any-llm give model names.
_PROVIDER_HOSTS = (
    ("openai.azure.com", "azure.ai.openai"),
    ("services.ai.azure.com", "azure.ai.inference"),
    ("openai.com", "openai"),
    ("anthropic.com", "anthropic"),
    ("generativelanguage.googleapis.com", "gcp.gemini"),
    ("aiplatform.googleapis.com", "gcp.vertex_ai"),
    ("amazonaws.com", "aws.bedrock"),
    ("cohere.com", "cohere"),
    ("deepseek.com", "deepseek"),
    ("groq.com", "groq"),
    ("mistral.ai", "mistral_ai"),
    ("perplexity.ai", "perplexity"),
    ("x.ai", "x_ai"),
)
_PROVIDER_PREFIXES = {
    "anthropic": "anthropic",
    "azure": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "bedrock": "aws.bedrock",
    "cohere": "cohere",
    "deepseek": "deepseek",
    "gemini": "gcp.gemini",
    "groq": "groq",
    "mistral": "mistral_ai",
    "openai": "openai",
    "perplexity": "perplexity",
    "vertex_ai": "gcp.vertex_ai",
    "xai": "x_ai",
}
_ROUTERS = frozenset({"any-llm", "litellm"})
_DEFAULT_PROVIDER = "openai"

_NUMBERS = {
    "temperature": semconv.GEN_AI_REQUEST_TEMPERATURE,
    "top_p": semconv.GEN_AI_REQUEST_TOP_P,
    "frequency_penalty": semconv.GEN_AI_REQUEST_FREQUENCY_PENALTY,
    "presence_penalty": semconv.GEN_AI_REQUEST_PRESENCE_PENALTY,
}
_COUNTS = {
    "max_tokens": semconv.GEN_AI_REQUEST_MAX_TOKENS,
    "max_completion_tokens": semconv.GEN_AI_REQUEST_MAX_TOKENS,
    "max_output_tokens": semconv.GEN_AI_REQUEST_MAX_TOKENS,
}
_CAMEL = {
    "topP": "top_p",
    "maxTokens": "max_tokens",
    "frequencyPenalty": "frequency_penalty",
    "presencePenalty": "presence_penalty",
    "reasoningEffort": "reasoning_effort",
    "baseURL": "base_url",
}
"""JavaScript's own spelling of settings."""


def generation(draft: SpanDraft) -> None:
    """A call of a chat completions API: OpenAI's, or any provider's behind LiteLLM and its like."""
    model = _chat(draft, "chat_completions")
    settings = _settings(draft)
    address = _address(draft, settings)
    draft.put(semconv.GEN_AI_PROVIDER_NAME, _provider(address, model))
    _request(draft, settings)
    output = draft.take("output")
    draft.tool_calls = tool_calls_in(output)
    completion = _completion(draft, output)
    _usage(draft, completion)
    _messages(draft, output)


def response(draft: SpanDraft) -> None:
    """A call of the Responses API. The wire holds its id and its tokens; a model only where an app added one."""
    _chat(draft, "responses")
    draft.put(semconv.GEN_AI_PROVIDER_NAME, _DEFAULT_PROVIDER)
    draft.put(semconv.GEN_AI_RESPONSE_ID, draft.take_text("response_id"))
    settings = _settings(draft)
    _address(draft, settings)
    _request(draft, settings)
    _usage(draft, {})
    output = draft.take("output")
    draft.tool_calls = tool_calls_in(output)
    _messages(draft, output)


def transcription(draft: SpanDraft) -> None:
    """Speech to text, by the voice pipeline."""
    settings = _speech(draft, "speech_to_text")
    draft.put(semconv.GEN_AI_SPEECH_INPUT_LANGUAGE, text_of(settings.pop("language", None)))
    _request(draft, settings)
    _audio(draft, "input")
    heard = draft.take("output")
    if isinstance(heard, str) and heard:
        draft.put_content(semconv.GEN_AI_OUTPUT_MESSAGES, Json([text_message("assistant", heard)]))
    elif heard:
        draft.rest["output"] = heard


def speech(draft: SpanDraft) -> None:
    """Text to speech, by the voice pipeline; the only span of the SDK that says when its first audio came."""
    settings = _speech(draft, "text_to_speech")
    draft.put(semconv.GEN_AI_OUTPUT_TYPE, "speech")
    draft.put(semconv.GEN_AI_SPEECH_VOICE, text_of(settings.pop("voice", None)))
    _request(draft, settings)
    first = moment(draft.rest.get("first_content_at"))
    if first is not None and first >= draft.start:
        draft.put(semconv.GEN_AI_REQUEST_STREAM, True)
        draft.put(semconv.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK, (first - draft.start) / SECOND)
        draft.take("first_content_at")
    elif draft.rest.get("first_content_at") is None:
        draft.take("first_content_at")
    _audio(draft, "output")
    _spoken_text(draft)


def speech_group(draft: SpanDraft) -> None:
    """What was spoken in one turn; its parts are speech spans below it."""
    draft.name = "speech_group"
    _spoken_text(draft)


def _chat(draft: SpanDraft, api: str) -> str | None:
    model = draft.take_text("model")
    draft.name = titled("chat", model)
    draft.kind = SPAN_KIND_CLIENT
    draft.put(semconv.GEN_AI_OPERATION_NAME, "chat")
    draft.put(semconv.OPENAI_API_TYPE, api)
    draft.put(semconv.GEN_AI_REQUEST_MODEL, model)
    return model


def _speech(draft: SpanDraft, operation: str) -> dict[str, object]:
    model = draft.take_text("model")
    draft.name = titled(operation, model)
    draft.kind = SPAN_KIND_CLIENT
    draft.put(semconv.GEN_AI_OPERATION_NAME, operation)
    draft.put(semconv.GEN_AI_REQUEST_MODEL, model)
    settings = _settings(draft)
    draft.put(semconv.GEN_AI_PROVIDER_NAME, _provider(_address(draft, settings), model))
    _usage(draft, {})
    return settings


def _settings(draft: SpanDraft) -> dict[str, object]:
    """The model's settings that were set, under Python's spelling."""
    settings = draft.take_object("model_config")
    return {_CAMEL.get(key, key): value for key, value in settings.items() if value is not None}


def _request(draft: SpanDraft, settings: dict[str, object]) -> None:
    """Settings that the conventions know by their names there, the others under the SDK's."""
    if not settings:
        return
    for key, name in _NUMBERS.items():
        _take(draft, settings, key, name, float_of(settings.get(key)))
    for key, name in _COUNTS.items():
        _take(draft, settings, key, name, count_of(settings.get(key)))
    seed = settings.get("seed")
    if isinstance(seed, int) and not isinstance(seed, bool) and -(1 << 63) <= seed < 1 << 63:
        _take(draft, settings, "seed", semconv.GEN_AI_REQUEST_SEED, seed)
    choices = count_of(settings.get("n"))
    if choices is not None:
        _take(draft, settings, "n", semconv.GEN_AI_REQUEST_CHOICE_COUNT, choices)
        if choices == 1:
            del draft.attributes[semconv.GEN_AI_REQUEST_CHOICE_COUNT]
    stop = settings.get("stop")
    if isinstance(stop, str):
        _take(draft, settings, "stop", semconv.GEN_AI_REQUEST_STOP_SEQUENCES, (stop,))
    elif isinstance(stop, list) and all(isinstance(word, str) for word in stop):
        _take(draft, settings, "stop", semconv.GEN_AI_REQUEST_STOP_SEQUENCES, tuple(stop))
    effort = text_of(settings.get("reasoning_effort"))
    _take(draft, settings, "reasoning_effort", semconv.GEN_AI_REQUEST_REASONING_LEVEL, effort)
    reasoning = settings.get("reasoning")
    if isinstance(reasoning, Mapping):
        left = {key: value for key, value in reasoning.items() if value is not None}
        _take(draft, left, "effort", semconv.GEN_AI_REQUEST_REASONING_LEVEL, text_of(left.get("effort")))
        settings["reasoning"] = left
        if not left:
            del settings["reasoning"]
    unread = draft.put_each(semconv.AGENTS_MODEL_CONFIG, settings)
    draft.keep("model_config", unread)


def _take(draft: SpanDraft, settings: dict[str, object], key: str, name: str, value: AttributeValue | None) -> None:
    if value is not None:
        draft.put(name, value)
        del settings[key]


def _address(draft: SpanDraft, settings: dict[str, object]) -> str:
    """The host that the request went to, empty when it is not known."""
    base = text_of(settings.get("base_url"))
    if base is None:
        return ""
    try:
        parts = urlsplit(base)
        host, port = parts.hostname or "", parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return ""
    if host:
        draft.put(semconv.SERVER_ADDRESS, host)
        draft.put(semconv.SERVER_PORT, port)
        del settings["base_url"]
    return host


def _provider(host: str, model: str | None) -> str:
    for ending, provider in _PROVIDER_HOSTS:
        if host == ending or host.endswith(f".{ending}"):
            return provider
    prefix, _, rest = (model or "").partition("/")
    if prefix in _ROUTERS:
        prefix, _, rest = rest.partition("/")
    return _PROVIDER_PREFIXES.get(prefix, _DEFAULT_PROVIDER) if rest else _DEFAULT_PROVIDER


def _completion(draft: SpanDraft, output: object) -> Mapping[str, object]:
    """What a whole chat.completion object, which JavaScript sends as output, says beside its messages; its usage."""
    found: Mapping[str, object] = {}
    reasons: list[str] = []
    for member in list_of(output):
        answer = mapping_of(member)
        reason = text_of(answer.get("finish_reason"))
        if reason is not None:
            reasons.append(reason)
        for choice in list_of(answer.get("choices")):
            reason = text_of(mapping_of(choice).get("finish_reason"))
            if reason is not None:
                reasons.append(reason)
        if "choices" in answer and not found:
            found = mapping_of(answer.get("usage"))
            draft.put(semconv.GEN_AI_RESPONSE_ID, text_of(answer.get("id")))
            draft.put(semconv.GEN_AI_RESPONSE_MODEL, text_of(answer.get("model")))
            draft.put(semconv.OPENAI_RESPONSE_SERVICE_TIER, text_of(answer.get("service_tier")))
            draft.put(semconv.OPENAI_RESPONSE_SYSTEM_FINGERPRINT, text_of(answer.get("system_fingerprint")))
    if reasons:
        draft.put(semconv.GEN_AI_RESPONSE_FINISH_REASONS, tuple(reasons))
    return found


def _usage(draft: SpanDraft, otherwise: Mapping[str, object]) -> None:
    counts, unread = call_usage(draft.take_object("usage") or otherwise)
    for name, count in counts.items():
        draft.put(name, count)
    draft.keep("usage", unread)


def _messages(draft: SpanDraft, made: object) -> None:
    given = draft.take("input")
    if given:
        draft.put_content(semconv.GEN_AI_INPUT_MESSAGES, Json(messages(given, "user")))
    if made:
        draft.put_content(semconv.GEN_AI_OUTPUT_MESSAGES, Json(answers(made)))


def _spoken_text(draft: SpanDraft) -> None:
    text = draft.take("input")
    if isinstance(text, str) and text:
        draft.put_content(semconv.GEN_AI_INPUT_MESSAGES, Json([text_message("user", text)]))
    elif text:
        draft.rest["input"] = text


def _audio(draft: SpanDraft, direction: str) -> None:
    value = draft.take(direction)
    if value is None:
        return
    summary = audio_summary(value)
    draft.put(semconv.AGENTS_AUDIO_FORMAT.format(direction=direction), text_of(summary.get("format")))
    draft.put(semconv.AGENTS_AUDIO_BYTES.format(direction=direction), count_of(summary.get("bytes")))


MAPPERS = {
    "generation": generation,
    "response": response,
    "speech": speech,
    "speech_group": speech_group,
    "transcription": transcription,
}
"""By type of span data; what of a type may be stored is in ``content``."""
