"""OTLP JSON of a session's traces: sound, nearly sound, and not at all."""

from hypothesis import strategies as st

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
IDS = st.sampled_from(["", "0" * 16, "00000000000000AA", "00000000000000aa", "00000000000000BB", "cc", "odd id"])
TRACE_IDS = st.sampled_from(["", "0" * 32, "AB" * 16, "ab" * 16, "cd" * 16])
TIMES = st.sampled_from(["0", "1800000000000000000", "1800000001000000000", "-5", "9" * 20, "soon"]) | st.integers()
TEXTS = st.sampled_from(["hello there", "stop", "7", "gpt-5.1", "data:audio/wav;base64," + "QUJD" * 20])
VALUES = st.recursive(
    st.fixed_dictionaries({"stringValue": TEXTS})
    | st.fixed_dictionaries({"intValue": st.sampled_from(["1", "x", 3])})
    | st.fixed_dictionaries({"doubleValue": st.floats(allow_nan=False)})
    | st.fixed_dictionaries({"boolValue": st.booleans()})
    | st.fixed_dictionaries({"bytesValue": st.just("aGVsbG8=")})
    | ANY_JSON,
    lambda inner: (
        st.fixed_dictionaries({"arrayValue": st.fixed_dictionaries({"values": st.lists(inner, max_size=3)})})
        | st.fixed_dictionaries(
            {
                "kvlistValue": st.fixed_dictionaries(
                    {
                        "values": st.lists(
                            st.fixed_dictionaries({"key": st.sampled_from(["id", "city"]), "value": inner}), max_size=2
                        )
                    }
                )
            }
        )
    ),
    max_leaves=5,
)
KEYS = st.sampled_from(["agent.name", "model", "input", "result", "grafter.source", "gen_ai.conversation.id"])
ATTRIBUTES = st.lists(st.fixed_dictionaries({"key": KEYS, "value": VALUES}) | ANY_JSON, max_size=4)
SPANS = st.fixed_dictionaries(
    {},
    optional={
        "traceId": TRACE_IDS,
        "spanId": IDS,
        "parentSpanId": IDS,
        "name": st.text(max_size=8) | ANY_JSON,
        "kind": st.integers(-1, 7) | st.just("SPAN_KIND_CLIENT"),
        "startTimeUnixNano": TIMES,
        "endTimeUnixNano": TIMES,
        "attributes": ATTRIBUTES | ANY_JSON,
        "events": st.lists(
            st.fixed_dictionaries({"timeUnixNano": TIMES, "name": st.just("e"), "attributes": ATTRIBUTES}), max_size=2
        ),
        "links": st.lists(st.fixed_dictionaries({"traceId": TRACE_IDS, "spanId": IDS}), max_size=2),
        "status": st.fixed_dictionaries({"code": st.integers(0, 3), "message": TEXTS}) | ANY_JSON,
        "traceState": TEXTS,
        "flags": st.integers(0, 256),
        "novelty": ANY_JSON,
    },
)
SCOPES = st.fixed_dictionaries({"scope": ANY_JSON, "spans": st.lists(SPANS | ANY_JSON, max_size=5) | ANY_JSON})
RESOURCES = st.fixed_dictionaries(
    {
        "resource": st.fixed_dictionaries({"attributes": ATTRIBUTES}) | ANY_JSON,
        "scopeSpans": st.lists(SCOPES, max_size=2),
    }
)
TRACES = st.fixed_dictionaries(
    {
        "id": st.sampled_from(["turn_1", "turn_2"]),
        "object": st.just("agent.session.trace"),
        "created_at": st.integers(0, 2_000_000_000) | ANY_JSON,
        "otlp": st.fixed_dictionaries({"resourceSpans": st.lists(RESOURCES | ANY_JSON, max_size=2)}),
    },
    optional={"novelty": ANY_JSON, "session_id": st.just("s")},
)
