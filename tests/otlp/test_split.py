"""The split gives what a full parse gives, for every way in which a span can be written: compiled and in Python."""

import random
import re
import shutil
import subprocess
import sys
import sysconfig
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans, Span

from grafter.core.model import Facts
from grafter.core.policy import Selector
from grafter.errors import RejectedError
from grafter.otlp.frames import framed, run_of, spans_of, varint
from grafter.otlp.split import Splitter, compiled
from tests.steps import at_most_steps

SOURCE = Path(__file__).parent.parent.parent / "grafter/otlp/_split.c"
DATA = Path(__file__).parent.parent / "data" / "otlp"
ANCHORS = (Selector(name="gen_ai.realtime.session"), Selector(attributes=(("call.leg", "openai"),)))

TRACES = [bytes([n]) * 16 for n in (1, 2, 3)]
SPANS = [bytes([n]) * 8 for n in (5, 6, 7)]

needs_compiled = pytest.mark.skipif(compiled is None, reason="the compiled split was not built: no compiler here")


@pytest.fixture(params=["python", pytest.param("compiled", marks=needs_compiled)])
def splitter(request: pytest.FixtureRequest) -> Splitter:
    return Splitter(ANCHORS, pure=request.param == "python")


def fixed64(field: int, value: int) -> bytes:
    return varint(field << 3 | 1) + value.to_bytes(8, "little")


def flags(value: int) -> bytes:
    return b"\x85\x01" + value.to_bytes(4, "little")


def attribute(key: str, value: bytes) -> bytes:
    return framed(0x4A, framed(0x0A, key.encode()) + framed(0x12, framed(0x0A, value)))


trace_ids = st.sampled_from([*TRACES, bytes(16), b"short", b""])
span_ids = st.sampled_from([*SPANS, bytes(8), b"tiny", b""])
good_ids = st.builds(lambda t, s: [framed(0x0A, t), framed(0x12, s)], st.sampled_from(TRACES), st.sampled_from(SPANS))
any_ids = st.builds(lambda t, s: [framed(0x0A, t), framed(0x12, s)], trace_ids, span_ids)
# Text that looks like the beginning or the end of a span, in places where it is none.
lures = st.sampled_from(
    [b"\n\x10" + TRACES[2] + b"\x12\x08" + SPANS[2], b"\x12\x08" + SPANS[1] + b"\n\x10" + TRACES[1]]
)
extra_fields = st.one_of(
    st.sampled_from([framed(0x22, p) for p in (SPANS[0], b"", bytes(8), b"odd")]),
    st.sampled_from([flags(f) for f in (0x100, 0x101, 0x300, 0x301)]),
    st.builds(lambda n: framed(0x2A, n), st.sampled_from([b"step", b"gen_ai.realtime.session"])),
    st.sampled_from([fixed64(7, n) for n in (0, 1_790_000_000_000_000_000)]),
    st.sampled_from([fixed64(8, n) for n in (0, 5, 1_790_000_000_000_000_000, (1 << 64) - 1)]),
    st.sampled_from([framed(0x3A, bytes(n)) + framed(0x42, bytes(n)) for n in (0, 7, 8)]),
    st.builds(attribute, st.sampled_from(["a", "call.leg", "sixteen_bytes_ab"]), st.one_of(lures, st.just(b"openai"))),
    st.builds(lambda b: framed(0x1A, b), st.sampled_from([b"ot=th:8", b""])),
    st.builds(lambda b: varint(77 << 3 | 2) + varint(len(b)) + b, lures),
    st.sampled_from([framed(0x0A, t) for t in (*TRACES, b"short")]),
    st.sampled_from([framed(0x12, s) for s in SPANS]),
    st.just(b"\x7a\x00"),
    # As no SDK writes them, and as parsers read them all the same.
    st.sampled_from([b"\x8a\x00\x10" + TRACES[1], b"\x92\x80\x00\x88\x00" + SPANS[2], b"\xaa\x00\x81\x00n"]),
    st.sampled_from([b"\x7b\x0a\x01a\x7c", b"\x0b\x0c", varint((1 << 29) - 1 << 3) + b"\xff" * 9 + b"\x7f"]),
)


@st.composite
def spans(draw: st.DrawFn) -> bytes:
    ids = draw(st.one_of(good_ids, good_ids, any_ids))
    fields = draw(st.lists(extra_fields, max_size=5))
    order = draw(st.sampled_from(["ascending", "descending", "shuffled"]))
    if order == "ascending":
        return b"".join(ids + fields)
    if order == "descending":
        return b"".join([*fields, *reversed(ids)])
    return b"".join(draw(st.permutations(ids + fields)))


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    out = b""
    for _ in range(draw(st.integers(0, 3))):
        scope_runs = []
        for _ in range(draw(st.integers(0, 2))):
            body = b"".join(framed(0x12, s) for s in draw(st.lists(spans(), max_size=6)))
            scope = framed(0x0A, framed(0x0A, draw(st.sampled_from([b"scope-a", b"scope-b"]))))
            scope_runs.append(framed(0x12, draw(st.sampled_from([scope + body, body + scope, body]))))
        resource = framed(0x0A, framed(0x4A, b"")) if draw(st.booleans()) else b""
        schema = framed(0x1A, b"https://example.org/schema") if draw(st.booleans()) else b""
        out += framed(0x0A, b"".join([*scope_runs, resource, schema]))
    return out


def is_anchor(span: Span) -> bool:
    return span.name == "gen_ai.realtime.session" or any(
        a.key == "call.leg" and a.value.string_value == "openai" for a in span.attributes
    )


def by_full_parse(request: bytes) -> tuple[dict[bytes, list[bytes]], dict[bytes, Facts], int]:
    """Span bytes and facts a trace, and the number of invalid spans, as the protobuf runtime reads the request."""
    spans_by_trace: dict[bytes, list[bytes]] = defaultdict(list)
    facts: dict[bytes, Facts] = defaultdict(lambda: Facts.NONE)
    rejected = 0
    for resource_spans in ExportTraceServiceRequest.FromString(request).resource_spans:
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                parent = span.parent_span_id
                good = len(span.trace_id) == 16 and any(span.trace_id) and len(span.span_id) == 8 and any(span.span_id)
                if not good or len(parent) not in (0, 8):
                    rejected += 1
                    continue
                if 0 < span.end_time_unix_nano < span.start_time_unix_nano:
                    span.attributes.add(key="grafter.time.odd").value.bool_value = True
                spans_by_trace[span.trace_id].append(span.SerializeToString(deterministic=True))
                if not any(parent):
                    facts[span.trace_id] |= Facts.ROOT
                elif span.flags & 0x200:
                    facts[span.trace_id] |= Facts.LOCAL_ROOT
                if is_anchor(span):
                    facts[span.trace_id] |= Facts.ANCHOR
    return spans_by_trace, facts, rejected


def check(request: bytes, splitter: Splitter) -> None:
    expected, expected_facts, rejected = by_full_parse(request)
    split = splitter.split(request)
    got: dict[bytes, list[bytes]] = defaultdict(list)
    facts: dict[bytes, Facts] = defaultdict(lambda: Facts.NONE)
    for part in split.parts:
        raw = list(spans_of(part.payload))
        parsed = [Span.FromString(r) for r in raw]
        assert part.spans == len(raw)
        assert part.span_ids == b"".join(p.span_id for p in parsed)
        assert Facts.ROOT not in part.facts or not any(parsed[0].parent_span_id)
        got[part.key] += [p.SerializeToString(deterministic=True) for p in parsed]
        facts[part.key] |= part.facts
    assert {k: sorted(v) for k, v in got.items()} == {k: sorted(v) for k, v in expected.items()}
    assert dict(facts) == {k: expected_facts[k] for k in facts}
    assert split.rejected == rejected
    assert bool(split.message) == bool(rejected)
    assert split.spans == sum(map(len, expected.values()))


@given(request_bytes=requests())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_split_equals_a_full_parse(splitter: Splitter, request_bytes: bytes) -> None:
    """Keys, spans, facts and rejections equal those of a full parse, for any order of fields and any lure."""
    check(request_bytes, splitter)


def mutated(draw: st.DrawFn, request: bytes) -> bytes:
    """The request with some of its bytes changed, taken out or put in."""
    out = bytearray(request)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(out)))
        out[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(out)


@needs_compiled
@given(st.composite(lambda draw: mutated(draw, draw(requests())))())
def test_whatever_comes_both_ways_say_the_same(request_bytes: bytes) -> None:
    """Bytes that are hardly a request any more are split alike, or refused alike."""
    answers = []
    for pure in (True, False):
        try:
            split = Splitter(ANCHORS, pure=pure).split(request_bytes)
        except RejectedError as error:
            answers.append(str(error))
            continue
        by_key: dict[bytes, list[object]] = defaultdict(list)
        for part in split.parts:
            by_key[part.key] += [part.facts, part.envelope, *sorted(spans_of(part.payload))]
        answers.append((split.rejected, split.spans, dict(by_key)))
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    "name", ["otlp_call_from_sdk", "otlp_call_from_collector", "otlp_telemetrygen_through_collector"]
)
def test_recorded_requests(name: str, splitter: Splitter) -> None:
    """What an SDK and a Go Collector really sent is split as a full parse would."""
    check((DATA / f"{name}.pb").read_bytes(), splitter)


@needs_compiled
@pytest.mark.parametrize("name", ["otlp_call_from_sdk", "otlp_call_from_collector"])
def test_neither_order_of_fields_is_declined(name: str) -> None:
    """An SDK's and a Go Collector's requests take the compiled way to its end."""
    runs = compiled.split((DATA / f"{name}.pb").read_bytes(), (b"gen_ai.realtime.session",), None)
    assert runs is not None
    assert sum(sum(counts) for _, _, _, _, counts, _, _ in runs) > 0


@needs_compiled
@pytest.mark.parametrize("one_resource", [True, False], ids=["one resource", "many"])
@pytest.mark.parametrize(
    ("count", "a_scope", "pad"), [(5_000, 5_000, 0), (5_000, 250, 0), (5_000, 1, 0), (100, 1, 20_000)]
)
def test_the_compiled_split_gives_way_to_other_threads(one_resource: bool, count: int, a_scope: int, pad: int) -> None:
    """Again and again while it writes a request of many traces, or of many bytes, however they are divided into scopes,
    with the same answer; what stops it there is raised."""
    name = framed(0x2A, bytes(pad))
    spans = [framed(0x12, framed(0x0A, n.to_bytes(16, "big")) + framed(0x12, SPANS[0]) + name) for n in range(1, count)]
    scopes = [framed(0x12, b"".join(spans[at : at + a_scope])) for at in range(0, count, a_scope)]
    body = framed(0x0A, b"".join(scopes)) if one_resource else b"".join(framed(0x0A, scope) for scope in scopes)
    given = []
    assert compiled.split(body, (), lambda: given.append(1)) == compiled.split(body, (), None)
    assert len(given) > 10

    def stop() -> None:
        raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        compiled.split(body, (), stop)


def test_threads_may_use_a_splitter_at_the_same_time(splitter: Splitter) -> None:
    """Each gets its own answer, of requests that are bounded one by one, with one envelope for what is equal."""
    bodies = [(DATA / f"otlp_call_from_{name}.pb").read_bytes() for name in ("sdk", "collector")] * 50
    alone = [splitter.split(body) for body in bodies]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda body: splitter.split(body, aside=True), bodies))
    assert [each.parts for each in together] == [each.parts for each in alone]
    assert [each.envelopes_left for each in together] == [each.envelopes_left for each in alone]


def test_both_orders_in_one_request(splitter: Splitter) -> None:
    """Spans of one trace, half from an SDK and half from a Collector, in one scope, meet under one key."""
    parent = framed(0x22, SPANS[0])
    sdk = [framed(0x0A, TRACES[0]) + framed(0x12, bytes([n]) * 8) + parent for n in range(1, 9)]
    collector = [parent + framed(0x12, bytes([n]) * 8) + framed(0x0A, TRACES[0]) for n in range(9, 17)]
    mixed = sdk + collector
    random.Random(3).shuffle(mixed)
    request = framed(0x0A, framed(0x12, run_of(mixed)))
    (part,) = splitter.split(request).parts
    assert list(spans_of(part.payload)) == mixed


def test_a_span_that_ends_before_it_starts_leaves_as_it_came_and_says_so(splitter: Splitter) -> None:
    """Beside others of its trace and of other traces; without an end it does not end before it starts."""
    ids = [framed(0x0A, TRACES[n % 2]) + framed(0x12, SPANS[n % 3]) for n in range(4)]
    times = [
        fixed64(7, 9) + fixed64(8, 10),
        fixed64(8, 8) + fixed64(7, 9),
        fixed64(7, 9),
        fixed64(7, 9) + fixed64(8, 9),
    ]
    sent = [one + time for one, time in zip(ids, times, strict=True)]
    request = framed(0x0A, framed(0x12, b"".join(framed(0x12, one) for one in sent)))
    left = {bytes(one) for part in splitter.split(request).parts for one in spans_of(part.payload)}
    mark = Span(attributes=[KeyValue(key="grafter.time.odd", value=AnyValue(bool_value=True))]).SerializeToString()
    assert left == {sent[0], sent[1] + mark, sent[2], sent[3]}


def test_envelopes_keep_every_byte(splitter: Splitter) -> None:
    """Resource, scope, schema urls and fields that nobody knows come out as they went in."""
    unknown = varint(99 << 3 | 2) + varint(4) + b"keep"
    scope = framed(0x0A, framed(0x0A, b"lib")) + framed(0x1A, b"https://example.org/s") + unknown
    resource = framed(0x0A, framed(0x0A, framed(0x0A, b"k"))) + framed(0x1A, b"https://example.org/r") + unknown
    run = run_of([framed(0x0A, TRACES[0]) + framed(0x12, SPANS[0])])
    request = framed(0x0A, resource + framed(0x12, scope + run))
    (part,) = splitter.split(request).parts
    assert part.envelope is not None
    assert part.envelope.resource == resource
    assert ScopeSpans.FromString(part.envelope.scope) == ScopeSpans.FromString(scope)
    assert unknown in part.envelope.scope


@pytest.mark.parametrize(
    "garbage",
    [b"\xff" * 40, b"\x0a\x7f\x00", framed(0x0A, framed(0x12, framed(0x12, b"\x0a\x10abc")))],
    ids=["noise", "cut", "cut span"],
)
def test_garbage_is_rejected(garbage: bytes, splitter: Splitter) -> None:
    """Bytes that are no request are refused as a whole, with an error that holds none of them."""
    with pytest.raises(RejectedError, match="not a valid ExportTraceServiceRequest"):
        splitter.split(garbage)


@pytest.mark.parametrize(
    "bomb",
    [b"\x0a\x00" * 2**20, framed(0x0A, b"\x12\x00" * 2**20), framed(0x0A, framed(0x12, b"\x12\x00" * 2**20))],
    ids=["resources", "scopes", "spans"],
)
def test_a_request_of_empty_messages_is_rejected(bomb: bytes, splitter: Splitter) -> None:
    """Two bytes on the wire that would become objects here are counted before any is made."""
    with pytest.raises(RejectedError, match="request has"):
        splitter.split(bomb)


def test_many_traces_of_a_request_are_told_apart(splitter: Splitter) -> None:
    """Ten thousand traces whose ids differ in few bits, each with three spans far from each other."""
    keys = [(1 << 127 | n << 5).to_bytes(16, "big") for n in range(10_000)]
    spans = [
        framed(0x0A, key) + framed(0x12, bytes([n]) * 8) + framed(0x22, SPANS[0]) for n in (1, 2, 3) for key in keys
    ]
    parts = splitter.split(framed(0x0A, framed(0x12, run_of(spans)))).parts
    assert {part.key: part.span_ids for part in parts} == {
        key: b"".join(bytes([n]) * 8 for n in (1, 2, 3)) for key in keys
    }
    assert len(parts) == len(keys)


def stretched(value: int, size: int) -> bytes:
    """A varint of so many bytes, however few would do."""
    return bytes((value >> 7 * i & 0x7F) | (0x80 if i < size - 1 else 0) for i in range(size))


@pytest.mark.parametrize("size", [5, 6, 10])
@pytest.mark.parametrize("what", ["tag", "length"])
@pytest.mark.parametrize("where", ["request", "resource", "scope", "span"])
def test_no_tag_and_no_length_has_more_than_five_bytes(where: str, what: str, size: int, splitter: Splitter) -> None:
    """What no parser reads would be held and then refused by every backend, with all that left in the same batch."""
    odd = stretched(15 << 3 | 2, size if what == "tag" else 1) + stretched(0, size if what == "length" else 1)
    at = {where: odd}
    span = framed(0x0A, TRACES[0]) + framed(0x12, SPANS[0]) + at.get("span", b"")
    scope = framed(0x12, span) + at.get("scope", b"")
    request = framed(0x0A, framed(0x12, scope) + at.get("resource", b"")) + at.get("request", b"")
    if size > 5:
        with pytest.raises(RejectedError):
            splitter.split(request)
    else:
        check(request, splitter)


def scopes(traces: int, empty: int) -> tuple[bytes, bytes]:
    """Two requests: empty scopes before a large one, and behind it."""
    spans = [framed(0x0A, (1 << 127 | n).to_bytes(16, "big")) + framed(0x12, SPANS[0]) for n in range(traces)]
    large, small = framed(0x12, run_of(spans)), b"\x12\x00" * empty
    return framed(0x0A, small + large), framed(0x0A, large + small)


def test_scopes_cost_nothing_for_what_came_before_them() -> None:
    """In Python: 680,000 steps wherever the large one stands; to go through its traces in each takes 100 million."""
    for request in scopes(5_000, 20_000):
        with at_most_steps(2_000_000):
            assert len(Splitter(ANCHORS, pure=True).split(request).parts) == 5_000


COUNTED = """
#include <string.h>
unsigned long long steps;
void __sanitizer_cov_trace_pc(void) { steps++; }
void *__real_memset(void *at, int value, size_t size);
void *__wrap_memset(void *at, int value, size_t size) { steps += size; return __real_memset(at, value, size); }
"""
"""Counts each block of code that is run, and each byte that is cleared."""


@needs_compiled
def test_compiled_scopes_cost_nothing_for_what_came_before_them(tmp_path: Path) -> None:
    """In a build that counts: 20 million steps wherever the large one stands; to clear its table for each of the others
    took 51,000 million."""
    if shutil.which("gcc") is None:
        pytest.skip("no gcc to build it with")
    counted, library = tmp_path / "counted.c", tmp_path / "_split.abi3.so"
    counted.write_text(COUNTED)
    flags = {SOURCE: [f"-I{sysconfig.get_paths()['include']}", "-fsanitize-coverage=trace-pc", "-fno-builtin"]}
    for source in (SOURCE, counted):
        build = ["gcc", "-O1", "-fPIC", *flags.get(source, []), "-c", source, "-o", tmp_path / f"{source.stem}.o"]
        subprocess.run(build, check=True)
    objects = (tmp_path / "_split.o", tmp_path / "counted.o")
    subprocess.run(["gcc", "-shared", "-Wl,--wrap=memset", *objects, "-o", library], check=True)
    for name, request in zip(("before", "behind"), scopes(100_000, 49_000), strict=True):
        (tmp_path / name).write_bytes(request)
    program = f"""
import ctypes, grafter.otlp
from pathlib import Path
grafter.otlp.__path__.insert(0, {str(tmp_path)!r})
from grafter.otlp.split import Splitter
steps = ctypes.c_ulonglong.in_dll(ctypes.CDLL({str(library)!r}), "steps")
for name in ("before", "behind"):
    steps.value = 0
    assert len(Splitter(()).split(Path({str(tmp_path)!r}, name).read_bytes()).parts) == 100_000
    print(steps.value)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    before, behind = map(int, done.stdout.split())
    assert 0 < behind < 2 * before


def test_it_is_compiled_where_it_can_be() -> None:
    """A build that fails is passed over in silence, so somebody has to look."""
    has_headers = (Path(sysconfig.get_paths()["include"]) / "Python.h").exists()
    if shutil.which(sysconfig.get_config_var("CC").split()[0]) is None or not has_headers:
        pytest.skip("no C compiler, or no headers of Python, to build it with")
    assert compiled is not None


@pytest.mark.parametrize(
    ("library", "used"),
    [("VERSION = 1 }", "None"), ("no VERSION", "None"), ("as it is", "grafter.otlp._split")],
    ids=["older", "oldest", "this one"],
)
@needs_compiled
def test_a_library_of_another_version_is_left_alone(tmp_path: Path, library: str, used: str) -> None:
    """A checkout that was updated where nothing can be compiled still has the old one, which answers otherwise."""
    source = SOURCE.read_text()
    if library == "no VERSION":
        source = source.replace('"VERSION"', '"OTHER"')
    elif library != "as it is":
        source = re.sub(r"VERSION = \d+ }", library, source)
    (tmp_path / "_split.c").write_text(source)
    build = ["gcc", "-shared", "-fPIC", f"-I{sysconfig.get_paths()['include']}"]
    if shutil.which("gcc") is None:
        pytest.skip("no gcc to build it with")
    subprocess.run([*build, tmp_path / "_split.c", "-o", tmp_path / "_split.abi3.so"], check=True)
    program = (
        f"import grafter.otlp; grafter.otlp.__path__.insert(0, {str(tmp_path)!r})\n"
        "from grafter.otlp import split\n"
        f"assert split.Splitter(()).split({framed(0x0A, b'')!r}).spans == 0\n"
        "print(getattr(split.compiled, '__name__', None))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == used


@pytest.mark.slow
def test_the_compiled_split_touches_no_memory_but_its_own(tmp_path: Path) -> None:
    """Built with the sanitisers of gcc, a million mutations of real requests end without a report."""
    library = tmp_path / "_split.abi3.so"
    headers = sysconfig.get_paths()["include"]
    sanitise = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-g", "-O1"]
    subprocess.run(["gcc", *sanitise, "-shared", "-fPIC", f"-I{headers}", SOURCE, "-o", library], check=True)
    runtime = subprocess.run(["gcc", "-print-file-name=libasan.so"], check=True, capture_output=True, text=True)
    done = subprocess.run(
        [
            sys.executable,
            Path(__file__).parent / "mutate_split.py",
            library,
            "1000000",
            *map(str, sorted(DATA.glob("*.pb"))),
        ],
        env={"LD_PRELOAD": runtime.stdout.strip(), "ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc"},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "1000000 split" in done.stdout
