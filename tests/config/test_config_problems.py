"""Everything that can be wrong with a config: said at once, with file and line, and without giving a secret away."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from config_keys import keys
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grafter.components import Config, load
from grafter.config.problems import ConfigError, Problem

Problems = Callable[..., list[str]]


def test_a_problem_reads_as_file_line_key_message() -> None:
    """The line of a problem, with as much of a place as there is."""
    assert str(Problem("a.yaml", 3, "a.b", "is wrong")) == "a.yaml:3: a.b: is wrong"
    assert str(Problem("a.yaml", 0, "", "cannot be read")) == "a.yaml: cannot be read"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "recievers: {}",
            "a.yaml:1: recievers: unknown key; did you mean receivers?",
        ),
        (
            "receivers:\n  otlp:\n    protocols:\n      grpc:\n        endpont: localhost:1",
            "a.yaml:5: receivers.otlp.protocols.grpc.endpont: unknown key; did you mean endpoint?",
        ),
        (
            "service:\n  wrokers: 2",
            "a.yaml:2: service.wrokers: unknown key; did you mean workers?",
        ),
        (
            "processors: {graft: {anchors: [{name: a, atributes: {}}]}}",
            "a.yaml:1: processors.graft.anchors.0.atributes: unknown key; did you mean attributes?",
        ),
        (
            "exporters: {debug: {verbosity: details}}",
            "a.yaml:1: exporters.debug.verbosity: "
            "'details' is not one of basic, normal, detailed; did you mean detailed?",
        ),
        (
            "processors: {graft: {mode: HOLD}}",
            "a.yaml:1: processors.graft.mode: 'HOLD' is not one of hold, stream; did you mean hold?",
        ),
        (
            "processors: {graft: {content: on}}",
            "a.yaml:1: processors.graft.content: true is not one of none, text, full",
        ),
        (
            "exporters:\n  honycomb: {api_key: a}",
            "a.yaml:2: exporters.honycomb: unknown component type; did you mean honeycomb?",
        ),
        (
            "exporters: {debug/: }",
            "a.yaml:1: exporters.debug/: is not a component id: type, or type/name without spaces",
        ),
        ("exporters:\n  honeycomb: {region: us}", "a.yaml:2: exporters.honeycomb.api_key: is required"),
        ("exporters: {honeycomb: {api_key: ' '}}", "a.yaml:1: exporters.honeycomb.api_key: text is empty"),
        ("exporters: {file: {path: 5}}", "a.yaml:1: exporters.file.path: a number is not text: put it in quotes"),
        (
            "processors: {graft: {wait: {idle: 10}}}",
            "a.yaml:1: processors.graft.wait.idle: 10 has no unit: write 10s, if seconds are meant",
        ),
        (
            "processors: {graft: {wait: {idle: 10 min}}}",
            "a.yaml:1: processors.graft.wait.idle: '10 min' is not a duration such as 500ms, 10s or 1h30m",
        ),
        (
            "extensions: {store: {max_bytes: 4G}}",
            "a.yaml:1: extensions.store.max_bytes: '4G' is not a size such as 512KiB, 64MiB or 4GiB",
        ),
        (
            "extensions: {store: {lease: 0s}}",
            "a.yaml:1: extensions.store.lease: '0s' must be more than nothing",
        ),
        (
            "receivers: {openai: {endpoint: 4319}}",
            "a.yaml:1: receivers.openai.endpoint: 4319 is not an address such as localhost:4317",
        ),
        (
            "receivers: {otlp: {protocols: {grpc: {max_recv_msg_size_mib: 1.5}}}}",
            "a.yaml:1: receivers.otlp.protocols.grpc.max_recv_msg_size_mib: 1.5 is not a whole number",
        ),
        (
            "exporters: {otlp_grpc: {endpoint: 'a:1', retry_on_failure: {multiplier: 0.5}}}",
            "a.yaml:1: exporters.otlp_grpc.retry_on_failure.multiplier: 0.5 is less than 1",
        ),
        (
            "extensions: {store: {embedded: {memory: 'true'}}}",
            "a.yaml:1: extensions.store.embedded.memory: 'true' is not true or false",
        ),
        (
            "receivers: {otlp: {protocols: {http: {cors: {max_age: 1h}}}}}",
            "a.yaml:1: receivers.otlp.protocols.http.cors.max_age: '1h' is not a whole number",
        ),
        (
            "receivers: {otlp: {protocols: [grpc]}}",
            "a.yaml:1: receivers.otlp.protocols: must be a map of keys; a list is none",
        ),
        (
            "receivers: [otlp]",
            "a.yaml:1: receivers: must be a map of keys; a list is none",
        ),
        (
            "processors: {graft: {trace_id_keys: trace_id}}",
            "a.yaml:1: processors.graft.trace_id_keys: must be a list; text is none",
        ),
        (
            "exporters: {otlp_http: {endpoint: 'http://a', headers: {'a b': c}}}",
            "a.yaml:1: exporters.otlp_http.headers.a b: is not a name that a header can have",
        ),
        (
            'exporters: {otlp_http: {endpoint: "http://a", headers: {a: "b\\r\\nc: d"}}}',
            "a.yaml:1: exporters.otlp_http.headers.a: text holds a line break or another control character",
        ),
        ("- receivers", "a.yaml:1: is not a map of receivers, processors, exporters …"),
    ],
)
def test_one_mistake_is_one_line(problems: Problems, text: str, problem: str) -> None:
    """Unknown keys and types, wrong types, missing keys, bad values: where, what, and the nearest right name."""
    assert problems(text) == [problem]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "exporters:\n  file: {path: a}\nservice:\n  pipelines:\n    traces:\n      exporters:\n        - fiel",
            "a.yaml:7: service.pipelines.traces.exporters.0: fiel is not defined under exporters; did you mean file?",
        ),
        (
            "service: {pipelines: {traces: {exporters: [honeycomb]}}}",
            "a.yaml:1: service.pipelines.traces.exporters.0: honeycomb is not configured under exporters",
        ),
        (
            "service: {pipelines: {traces: {exporters: [debug/x]}}}",
            "a.yaml:1: service.pipelines.traces.exporters.0: debug/x is not configured under exporters",
        ),
        (
            "service: {pipelines: {traces: {exporters: [debug, debug]}}}",
            "a.yaml:1: service.pipelines.traces.exporters.1: debug is named twice",
        ),
        (
            "service: {pipelines: {traces: {receivers: []}}}",
            "a.yaml:1: service.pipelines.traces.receivers: is empty: a pipeline needs receivers",
        ),
        (
            "service: {pipelines: {traces: {processors: []}}}",
            "a.yaml:1: service.pipelines.traces.processors: is empty: a pipeline needs processors",
        ),
        (
            "processors:\n  graft:\n  graft/b:",
            "a.yaml:3: service.pipelines.traces.processors: has more than one graft: each trace passes it once",
        ),
        (
            "service: {pipelines: {metrics: {processors: [graft]}}}",
            "a.yaml:1: service.pipelines.metrics.processors: must be empty: metrics are passed through unread",
        ),
        (
            "service: {pipelines: {logs: {receivers: [openai]}}}",
            "a.yaml:1: service.pipelines.logs.receivers.0: openai takes no logs; otlp receivers do",
        ),
        (
            "receivers: {openai: {}, otlp: }\nservice: {pipelines: {logs: {}}}",
            "a.yaml:2: service.pipelines.logs.receivers: is empty: a pipeline needs receivers",
        ),
        (
            "exporters: {otlp_http: {traces_endpoint: 'http://a/x'}}\nservice: {pipelines: {logs: {}}}",
            "a.yaml:2: service.pipelines.logs.exporters.0: "
            "otlp_http has an address for traces only: give it an endpoint",
        ),
        (
            "exporters: {file/a: {path: a}}\nservice: {pipelines: {metrics: {}}}",
            "a.yaml:2: service.pipelines.metrics.exporters.0: file/a takes no metrics: a file holds traces only",
        ),
        (
            "exporters: {otlp_grpc: {endpoint: 'a:1', compression: zstd}}",
            "a.yaml:1: exporters.otlp_grpc.compression: 'zstd' is not one of gzip, none",
        ),
        (
            "exporters: {otlp_grpc: {endpoint: 'a:1', tls: {insecure_skip_verify: true}}}",
            "a.yaml:1: exporters.otlp_grpc.tls.insecure_skip_verify: cannot be true here: gRPC in Python always checks "
            "the certificate; name its authority in ca_file, or use otlp_http",
        ),
        (
            "service: {pipelines: {traces/2: {}}}",
            "a.yaml:1: service.pipelines.traces/2: unknown key; did you mean traces?",
        ),
        (
            "receivers: {openai: {ingest: {tokens: [a], tee: {}}}}",
            "a.yaml:1: receivers.openai.ingest.tee.api_key: is required beside ingest.tokens: callers then show a "
            "token of grafter's, and there is no key of OpenAI's to send on",
        ),
        (
            "receivers: {openai: {ingest: {tokens: [a], tee: {api_key: ''}}}}",
            "a.yaml:1: receivers.openai.ingest.tee.api_key: is required beside ingest.tokens: callers then show a "
            "token of grafter's, and there is no key of OpenAI's to send on",
        ),
        (
            "receivers:\n  otlp:\n    protocols:\n      http:\n        endpoint: 0.0.0.0:4319\n  openai: {}",
            "a.yaml:5: receivers.openai.endpoint: "
            "localhost:4319 is the address of receivers.otlp.protocols.http.endpoint already",
        ),
        (
            "extensions:\n  health_check: {endpoint: ':8888'}",
            "a.yaml:2: service.telemetry.metrics.endpoint: "
            "localhost:8888 is the address of extensions.health_check.endpoint already",
        ),
        (
            "processors: {graft: {rules: [{match: {attribute: a}, join: cal}]}}",
            "a.yaml:1: processors.graft.rules.0.join: 'cal' is not one of call; did you mean call?",
        ),
        (
            "processors:\n  graft:\n    mode: stream\n    rules:\n      - {match: {attribute: a}, join: call}",
            "a.yaml:4: processors.graft.rules: need mode: hold, for a trace that has left moves nowhere",
        ),
        (
            "processors:\n  graft:\n    rules:\n      - {match: {attribute: a}, join: call}\n"
            "      - {match: {attribute: a}, join: call, host: b}",
            "a.yaml:5: processors.graft.rules.1: matches a, as another does",
        ),
        (
            "processors:\n  graft:\n    rules:\n      - {match: {attribute: a}, join: call, host: b}\n"
            "      - {match: {attribute: b}, join: call, host: c}\n"
            "      - {match: {attribute: c}, join: call, host: a}",
            "a.yaml:6: processors.graft.rules.2.host: leads back to c: traces would wait for each other",
        ),
        (
            "processors: {graft: {anchors: [{}]}}",
            "a.yaml:1: processors.graft.anchors.0: needs a name or attributes; it would match any span",
        ),
        (
            "exporters: {otlp_http: }",
            "a.yaml:1: exporters.otlp_http: needs an endpoint, or a traces_endpoint",
        ),
        (
            "exporters: {otlp_grpc: {endpoint: 'a:1', tls: {cert_file: a}}}",
            "a.yaml:1: exporters.otlp_grpc.tls.cert_file: needs key_file beside it",
        ),
        (
            "exporters: {otlp_grpc: {endpoint: 'a:1', retry_on_failure: {initial_interval: 1m}}}",
            "a.yaml:1: exporters.otlp_grpc.retry_on_failure.max_interval: 30s is shorter than initial_interval, 1m",
        ),
        (
            "exporters: {honeycomb: {api_key: 0123456789abcdef0123456789abcdef}}",
            "a.yaml:1: exporters.honeycomb.dataset: is required: this api_key is one of Honeycomb Classic",
        ),
        (
            "extensions: {store: {max_bytes: 1MiB}}",
            "a.yaml:1: extensions.store.max_trace_bytes: 64MiB is more than max_bytes, 1MiB",
        ),
        (
            "service:\n  workers: 2",
            "a.yaml:2: service.workers: 2 processes need a store that they share, "
            "extensions.store.redis; the embedded store belongs to one",
        ),
        (
            "service: {workers: 0}",
            "a.yaml:1: service.workers: 0 is less than 1",
        ),
    ],
)
def test_keys_that_do_not_go_together(problems: Problems, text: str, problem: str) -> None:
    """References, empty pipelines, shared addresses, keys that need each other."""
    assert problems(text) == [problem]


def test_components_that_do_not_run_take_no_address(read: Callable[..., Config]) -> None:
    """Two receivers on one address are fine while only one of them runs."""
    read("receivers: {otlp: , otlp/b: }\nservice: {pipelines: {traces: {receivers: [otlp]}}}")


def test_two_receivers_of_a_type_need_addresses_of_their_own(problems: Problems) -> None:
    """Both default addresses are found taken, at the receiver that comes second."""
    assert [line.partition(":")[2].partition(" ")[0] for line in problems("receivers:\n  otlp: {}\n  otlp/b: {}")] == [
        "3:",
        "3:",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: [1\nb: 2", 2),
        ("receivers:\n\totlp:", 2),
        ("receivers: *nowhere", 1),
        ("a: 1\n---\nb: 2", 2),
        ("a: 'x", 1),
        ("a: \x07", 1),
        ("[" * 2000, 1),
        ("[" * 2000 + "]" * 2000, 1),
    ],
)
def test_what_is_no_yaml_is_said_with_its_line(problems: Problems, text: str, line: int) -> None:
    """One problem for the file, at the line where reading ended."""
    (problem,) = problems(text)
    assert problem.startswith(f"a.yaml:{line}: not YAML: ")


def test_a_key_that_is_there_twice_is_a_problem(problems: Problems) -> None:
    """The second one is named, with the line of the first."""
    assert problems("exporters:\n  debug: {}\n\n  debug: {verbosity: basic}") == [
        "a.yaml:4: exporters.debug: is there twice (first in line 2)"
    ]
    assert problems("exporters:\n  otlp: {endpoint: 'a:1'}\n  otlp_grpc: {endpoint: 'a:1'}") == [
        "a.yaml:3: exporters.otlp_grpc: is there twice, as otlp_grpc too"
    ]


def test_odd_yaml_is_a_problem_of_its_own(problems: Problems) -> None:
    """Tags without meaning, keys that are no text, aliases that hold themselves: nothing raises."""
    assert "means nothing here" in problems("exporters: {file: {path: !secret a}}")[0]
    assert "not plain text" in problems("exporters: {? [a] : b}")[0]
    assert "contains itself" in problems("exporters: &a {debug: *a}")[0]
    assert "is not what its tag" in problems("exporters: {file: {path: !!int a}}")[0]


def test_deep_nesting_is_a_problem(problems: Problems) -> None:
    """Maps, lists and defaults inside defaults end where no config goes, not in the interpreter's stack."""
    for depth in (60, 200, 300):
        assert any("nested too deeply" in line for line in problems("a: " + "[" * depth + "]" * depth))
        assert any("nested too deeply" in line for line in problems("a: '" + "${env:X:-" * depth + "}" * depth + "'"))


@given(st.binary(max_size=40) | st.text("abc:[]{}&*!|>'\"%@`#-? \n\t$0", max_size=40))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_read_or_reported(tmp_path: Path, data: bytes | str) -> None:
    """Whatever a file holds, there is a config, or problems; never another error."""
    file = tmp_path / "any.yaml"
    file.write_bytes(data.encode() if isinstance(data, str) else data)
    assert all(problem.message for problem in _problems(str(file)))


def test_a_file_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    """A missing file, a directory and a file that is not text each give one line, beside those of other files."""
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\xd8")
    bad = tmp_path / "bad.yaml"
    bad.write_text("a: [")
    paths = [str(tmp_path / "missing"), str(tmp_path), str(tmp_path / "binary"), str(bad)]
    with pytest.raises(ConfigError) as caught:
        load(paths, env={})
    assert [problem.file for problem in caught.value.problems] == paths
    assert "No such file" in str(caught.value.problems[0])


def test_variables_that_are_not_set_are_named(problems: Problems) -> None:
    """Each one with its line; a key that lost its value is not called missing besides."""
    lines = problems(
        "exporters:\n  honeycomb:\n    api_key: ${env:HONEYCOMB_API_KEY}\n"
        "receivers:\n  openai:\n    ingest:\n      tokens:\n        - ${env:A}\n        - ${env:B}"
    )
    assert [line.partition(" is not set")[0] for line in lines] == [
        "a.yaml:3: exporters.honeycomb.api_key: environment variable HONEYCOMB_API_KEY",
        "a.yaml:8: receivers.openai.ingest.tokens.0: environment variable A",
        "a.yaml:9: receivers.openai.ingest.tokens.1: environment variable B",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("${env:1A}", "'1A', which is no name"),
        ("${env:}", "'', which is no name"),
        ("${A:-b}", "write ${env:A:-…}"),
        ("${yaml:a}", "neither ${env:NAME} nor ${file:path}"),
        ("${}", "neither ${env:NAME} nor ${file:path}"),
        ("${env:A", "never closed"),
        ("${file:/nowhere/x}", "file /nowhere/x cannot be read: No such file"),
    ],
)
def test_bad_expressions_are_named(problems: Problems, text: str, said: str) -> None:
    """Bad names, unknown schemes, a missing brace, a missing file."""
    (problem,) = problems(f"exporters: {{file: {{path: '{text}'}}}}")
    assert said in problem


def test_the_line_is_that_of_the_file_that_set_the_value(problems: Problems) -> None:
    """After a merge each problem names its own file, files in the order given and --set last."""
    assert problems(
        "exporters:\n  file: {path: a, pth: b}\nservice:\n  memory_limit: 80%",
        "service:\n\n  memory_limit: 180%",
        sets=["service.shutdown_timeout=5"],
    ) == [
        "a.yaml:2: exporters.file.pth: unknown key; did you mean path?",
        "b.yaml:3: service.memory_limit: '180%' is not a percentage over 0% and up to 100%",
        "--set: service.shutdown_timeout: 5 has no unit: write 5s, if seconds are meant",
    ]


def test_a_setting_that_cannot_be_read_is_a_problem(problems: Problems) -> None:
    """No equals sign, an empty key, a value that is no YAML: each with its key, beside those of files."""
    assert problems("a: [", sets=["service.nothing", "a..b=1", "exporters.file.path=["]) == [
        "a.yaml:1: not YAML: while parsing a flow node, expected the node content, but found '<stream end>'",
        "--set: a..b: is not of the form path.of.key=value",
        "--set: exporters.file.path: not YAML: while parsing a flow node, "
        "expected the node content, but found '<stream end>'",
        "--set: service.nothing: is not of the form path.of.key=value",
    ]


def test_all_problems_come_at_once_in_the_order_of_the_lines(problems: Problems) -> None:
    """Values, unknown keys and references together; none is said twice or follows from another."""
    lines = problems(
        """
        receivers:
          otlp:
            protocols:
              grpc: {endpoint: nowhere, tokens: secret-token}
        processors:
          graft: {mode: holdd, wait: {max: x}}
        exporters:
          honeycomb: {region: uk}
        service:
          pipelines:
            traces: {receivers: [otlp, otpl], exporters: [honeycomb, honeycom]}
            metrics: {}
        """
    )
    assert [line.split(": ")[:2] for line in lines] == [
        ["a.yaml:5", "receivers.otlp.protocols.grpc.endpoint"],
        ["a.yaml:5", "receivers.otlp.protocols.grpc.tokens"],
        ["a.yaml:7", "processors.graft.mode"],
        ["a.yaml:7", "processors.graft.wait.max"],
        ["a.yaml:9", "exporters.honeycomb.api_key"],
        ["a.yaml:9", "exporters.honeycomb.region"],
        ["a.yaml:12", "service.pipelines.traces.exporters.1"],
        ["a.yaml:12", "service.pipelines.traces.receivers.1"],
    ]


@pytest.mark.parametrize(
    "text",
    [
        "receivers: {otlp: {protocols: {grpc: {tokens: SECRET}}}}",
        "receivers: {otlp: {protocols: {grpc: {tokens: [{a: SECRET}]}}}}",
        "receivers: {openai: {ingest: {tee: SECRET}}}",
        "receivers: {openai: {projects: {eu: {webhook_secrets: SECRET}}}}",
        "receivers: {openai: {projects: {eu: {webhook_secrets: [whsec_SECRET_]}}}}",
        "receivers: {openai: {projects: {eu: {webhook_secrets: ['whsec_${env:S}-']}}}}",
        'exporters: {honeycomb: {api_key: "SECRET\\n"}}',
        "exporters: {honeycomb: {api_key: [SECRET]}}",
        "exporters: {honeycomb: {api_key: '${env:S}', dataset: ['${env:S}']}}",
        "exporters: {debug: {verbosity: '${env:S}'}}",
        "exporters: {debug: {verbosity: 'x${env:S}'}}",
        "exporters: {otlp_grpc: {endpoint: 'https://u:SECRET@a:1'}}",
        "exporters: {otlp_http: {endpoint: 'http://a', headers: {authorization: [SECRET]}}}",
        "extensions: {store: {lease: '${env:S}'}}",
    ],
)
def test_no_problem_gives_a_secret_away(problems: Problems, text: str) -> None:
    """Neither what stands where a secret belongs, nor what ${…} brought, nor a password in an address."""
    assert problems(text, env={"S": "SECRET"})
    assert not any("SECRET" in line for line in problems(text, env={"S": "SECRET"}))


@pytest.mark.parametrize("secret", ["whsec_a", "whsec_-_-_", "whsec_abc!", "whsec_a b c", "whsec_é"])
def test_a_webhook_secret_that_signs_nothing_is_said(problems: Problems, secret: str) -> None:
    """It would refuse every delivery; the place is that of the file, an empty one before it or not."""
    (line,) = problems(
        f"receivers:\n  openai:\n    projects:\n      eu:\n        webhook_secrets:\n        - ''\n        - {secret}\n"
    )
    assert ":7: receivers.openai.projects.eu.webhook_secrets.1: text is not whsec_ and base64" in line


_scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 10**12), st.floats(), st.text(max_size=8), st.sampled_from(["${env:X}"])
)
_values = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


@given(st.lists(st.tuples(st.sampled_from([key.path for key in keys()]), st.integers(0, 6), _values), max_size=4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_anywhere_is_read_or_reported(tmp_path: Path, changes: list[tuple[Any, int, Any]]) -> None:
    """Whatever stands at whatever key, there is a config, or problems with a place; never another error."""
    tree: dict[str, Any] = {}
    for path, length, value in changes:
        here = tree
        steps = path[: length + 1]
        for key in steps[:-1]:
            if not isinstance(here.get(key), dict):
                here[key] = {}
            here = here[key]
        here[steps[-1]] = value
    file = tmp_path / "any.yaml"
    file.write_text(yaml.safe_dump(tree))
    problems = _problems(str(file))
    assert all(problem.file == str(file) and problem.message for problem in problems)


def _problems(path: str) -> list[Problem]:
    try:
        load([path], env={})
    except ConfigError as error:
        return error.problems or [Problem("", 0, "", "")]
    return []
