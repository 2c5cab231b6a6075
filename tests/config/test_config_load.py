"""What a config means: defaults, what runs, merging, expansion, and the policy that the core gets."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grafter.components import Config, load
from grafter.config.expand import expand
from grafter.config.problems import ConfigError
from grafter.config.service import Service
from grafter.config.show import as_yaml, lines
from grafter.core.policy import Content, GraftPolicy, Mode, RedactAction, Selector
from grafter.exporter.file import FileExporter
from grafter.exporter.honeycomb import HoneycombExporter
from grafter.exporter.otlp import OtlpGrpcExporter

Read = Callable[..., Config]


def ids(config: Config) -> dict[str, list[str]]:
    active = config.active()
    return {
        "receivers": list(active.receivers),
        "processors": list(active.processors),
        "exporters": list(active.exporters),
        "extensions": list(active.extensions),
    }


def test_without_a_file_everything_runs_by_default() -> None:
    """No --config: both receivers, graft, debug, the store, the health check, calls, the page; the same as Config()."""
    config = load([], env={})
    assert config == Config()
    assert ids(config) == {
        "receivers": ["otlp", "openai"],
        "processors": ["graft", "tail_sampling"],
        "exporters": ["debug"],
        "extensions": ["store", "health_check", "calls", "lookup"],
    }


def test_the_default_policy_is_the_cores_own() -> None:
    """processors.graft left alone gives the core exactly its own defaults."""
    assert Config().graft_policy() == GraftPolicy()


def test_three_lines_are_a_valid_file(read: Read) -> None:
    """An exporter alone: it runs instead of debug, behind the default doors, with the health check."""
    config = read("exporters:\n  honeycomb:\n    api_key: hcaik_1\n")
    assert ids(config) == {
        "receivers": ["otlp", "openai"],
        "processors": ["graft", "tail_sampling"],
        "exporters": ["honeycomb"],
        "extensions": ["store", "health_check"],
    }


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "~\n", "receivers:\nservice:\nexporters: {}\n"])
def test_an_empty_file_runs_the_default_pipeline(read: Read, text: str) -> None:
    """Nothing, comments and nulls of sections mean defaults, and no extension that a file has to name."""
    assert ids(read(text)) == {**ids(Config()), "extensions": ["store", "health_check"]}


@pytest.mark.parametrize("text", ["extensions: {calls: }\n", "extensions: {calls: {}}\n"])
def test_an_extension_that_is_named_runs(read: Read, text: str) -> None:
    """The call map runs where the file names it, with its defaults where it says no more."""
    config = read(text)
    assert ids(config)["extensions"] == ["store", "health_check", "calls"]
    assert config.extensions.calls == Config().extensions.calls


@pytest.mark.parametrize("url", ["mysql://a/b", "sqlite://", "sqlite:///:memory:", "calls.db"])
def test_a_database_that_is_not_known_is_refused(read: Read, url: str) -> None:
    """Before anything starts, and without its password."""
    with pytest.raises(ConfigError, match="is no URL of a database"):
        read(f"extensions: {{calls: {{url: '{url}'}}}}\n")


def test_the_password_of_a_database_is_not_shown(read: Read) -> None:
    """Neither by validate nor by print-config."""
    config = read("extensions: {calls: {url: 'postgresql://me:hunter2@db/calls?password=hunter3'}}\n")
    shown = as_yaml(config) + "\n".join(lines(config))
    assert "db/calls" in shown
    assert "hunter" not in shown


def test_without_a_service_everything_configured_runs_in_order(read: Read) -> None:
    """All configured components run, by the order of the types and then of the file."""
    config = read(
        "exporters: {file: {path: a}, otlp_grpc/b: {endpoint: 'b:1'}, otlp_grpc/a: {endpoint: 'a:1'}, debug: }"
    )
    assert ids(config)["exporters"] == ["debug", "otlp_grpc/b", "otlp_grpc/a", "file"]


@pytest.mark.parametrize(
    ("receivers", "running"),
    [
        ("{openai: {endpoint: 'localhost:1'}}", ["otlp", "openai"]),
        ("{otlp: {protocols: {grpc: {endpoint: 'localhost:1'}}}}", ["otlp", "openai"]),
        ("{otlp/b: {}}", ["otlp/b", "openai"]),
        ("{otlp: }", ["openai"]),
        ("{openai: , otlp: {}}", ["otlp"]),
        ("", ["otlp", "openai"]),
    ],
)
def test_both_doors_are_open_unless_the_file_says_otherwise(read: Read, receivers: str, running: list[str]) -> None:
    """Naming one receiver takes the other away from nobody; null does."""
    assert ids(read(f"receivers: {receivers}"))["receivers"] == running


def test_a_pipeline_that_names_a_receiver_has_it(read: Read) -> None:
    """With pipelines, what they name runs, null or not, and nothing else."""
    config = read("receivers: {openai: }\nservice: {pipelines: {traces: {receivers: [openai]}}}")
    assert ids(config)["receivers"] == ["openai"]


def test_only_what_pipelines_name_runs(read: Read) -> None:
    """A configured exporter that no pipeline names does not run; a bare type may be named without being configured."""
    config = read(
        "exporters: {file: {path: a}}\nservice: {pipelines: {traces: {receivers: [otlp], exporters: [debug]}}}"
    )
    assert ids(config)["receivers"] == ["otlp"]
    assert ids(config)["exporters"] == ["debug"]


def test_a_service_without_pipelines_loses_no_exporter(read: Read) -> None:
    """service for another reason than pipelines leaves what runs as it was."""
    config = read("exporters: {file: {path: a}}\nservice: {shutdown_timeout: 5s, pipelines: }")
    assert ids(config)["exporters"] == ["file"]
    assert config.service.shutdown_timeout.seconds == 5.0


def test_metrics_and_logs_follow_traces(read: Read) -> None:
    """A metrics pipeline that says nothing has the OTLP receivers and the exporters of traces."""
    pipelines = read("exporters: {debug/a: }\nservice: {pipelines: {metrics: {}, logs: }}").active().pipelines
    assert pipelines["metrics"].receivers == ("otlp",)
    assert pipelines["metrics"].exporters == ("debug/a",)
    assert "logs" not in pipelines


def test_the_health_check_is_there_until_it_is_null(read: Read) -> None:
    """A file that says nothing of it has it, as the container's own check expects."""
    assert ids(read("extensions: {store: }"))["extensions"] == ["store", "health_check"]
    assert ids(read("extensions: {health_check: }"))["extensions"] == ["store"]


def test_a_config_built_in_code_follows_the_same_rules() -> None:
    """Config(…) fills pipelines from what is configured, also beside a Service that says nothing of them."""
    config = Config(exporters={"file": FileExporter(path="a")}, service=Service())
    assert ids(config)["exporters"] == ["file"]
    assert ids(config)["receivers"] == ["otlp", "openai"]


def test_later_files_win_key_by_key(read: Read) -> None:
    """Maps merge, lists replace, a null resets to the default, and --set goes over all files."""
    config = read(
        "processors: {graft: {mode: stream, trace_id_keys: [a, b], wait: {idle: 1m, max: 1h}}}",
        "processors: {graft: {mode: , trace_id_keys: [c], wait: {idle: 2m}}}",
        sets=["processors.graft.wait.for_guest=1s", "processors.graft.content=text"],
    )
    policy = config.graft_policy()
    assert policy.mode is Mode.HOLD
    assert policy.trace_id_keys == ("c",)
    assert (policy.waits.idle, policy.waits.max, policy.waits.for_guest) == (120 * 10**9, 3600 * 10**9, 10**9)
    assert policy.content is Content.TEXT


def test_a_null_component_in_a_later_file_keeps_its_defaults(read: Read) -> None:
    """Resetting a component does not take it away; resetting the section does."""
    assert read("exporters: {debug: {verbosity: basic}}", "exporters: {debug: }").exporters == Config().exporters
    config = read("exporters: {file: {path: a}}", "exporters: ")
    assert ids(config)["exporters"] == ["debug"]


def test_settings_without_a_file_go_over_the_defaults() -> None:
    """--set alone keeps everything that runs without a file, and adds what it configures."""
    config = load([], ["exporters.file.path=a", "service.telemetry.logs.level=DEBUG"], {})
    assert ids(config)["exporters"] == ["debug", "file"]
    assert ids(config)["extensions"] == ["store", "health_check", "calls", "lookup"]
    assert config.service.telemetry.logs.level == "debug"


def test_a_setting_takes_any_yaml() -> None:
    """Lists, maps and nothing (a null) can be set too."""
    config = load([], ["processors.graft.redact={keys: [a], action: drop}", "exporters.debug="], {})
    assert config.graft_policy().redact.keys == {"a"}
    assert config.graft_policy().redact.action is RedactAction.DROP
    assert config.exporters == Config().exporters


def test_expansion_is_read_by_the_type_that_asks(read: Read) -> None:
    """Text stays text whatever it looks like; numbers, booleans, lists, sizes and nulls are read as YAML."""
    config = read(
        """
        receivers:
          otlp:
            protocols:
              http: {max_request_body_size: "${env:SIZE}", tokens: "${env:TOKENS}", cors: {max_age: "${env:AGE}"}}
        processors:
          graft: {openai_service_name: "${env:NUMBER}", content: "${env:EMPTY}", wait: {idle: "${env:N}m"}}
        extensions:
          store: {embedded: {memory: "${env:ON}", directory: "${DIR}/x"}}
        """,
        env={
            "SIZE": "1048576",
            "TOKENS": "[a, b]",
            "AGE": "60",
            "NUMBER": "0123",
            "EMPTY": "",
            "N": "5",
            "ON": "on",
            "DIR": "data",
        },
    )
    http = config.receivers["otlp"].protocols.http
    assert http.max_request_body_size == 1 << 20
    assert [token.get_secret_value() for token in http.tokens] == ["a", "b"]
    assert http.cors.max_age == 60
    graft = config.processors["graft"]
    assert graft.openai_service_name == "0123"
    assert graft.content is Content.NONE
    assert str(graft.wait.idle) == "5m"
    assert config.extensions.store.embedded.memory is True
    assert config.extensions.store.embedded.directory == "data/x"


def test_expansion_happens_after_merging(read: Read) -> None:
    """A variable of a value that a later file replaced need not be set."""
    config = read("exporters: {file: {path: '${env:GONE}'}}", "exporters: {file: {path: here}}")
    assert config.exporters["file"].path == "here"


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("${env:A}", "1"),
        ("${A}", "1"),
        ("${env:NO:-x}", "x"),
        ("${env:NO:-}", ""),
        ("${env:EMPTY:-x}", ""),
        ("${env:NO:-${env:A}}", "1"),
        ("${env:NO:-a:-b{}}", "a:-b{}"),
        ("a${A}b${A}c", "a1b1c"),
        ("$$", "$"),
        ("$${A}", "${A}"),
        ("$$$${A}", "$${A}"),
        ("$A and $", "$A and $"),
        ("${env:DOLLARS}", "$$ ${A}"),
    ],
)
def test_expansion_rules(text: str, expanded: str) -> None:
    """The forms, the escapes, defaults inside defaults; what a variable brings is not looked through again."""
    assert expand(text, {"A": "1", "EMPTY": "", "DOLLARS": "$$ ${A}"}) == expanded


@given(st.text())
def test_any_text_can_be_written_with_escaped_dollars(text: str) -> None:
    """Doubling every dollar sign makes any text stand for itself."""
    assert expand(text.replace("$", "$$"), {}) == text


def test_a_file_brings_its_text_without_the_last_line_break(read: Read, tmp_path: Path) -> None:
    """${file:path}, as secrets are mounted."""
    (tmp_path / "key").write_text("hcaik_1\n")
    config = read(f"exporters: {{honeycomb: {{api_key: '${{file:{tmp_path}/key}}'}}}}")
    assert config.exporters["honeycomb"].request_headers() == {"x-honeycomb-team": "hcaik_1"}


def test_old_exporter_names_are_understood_with_a_warning(read: Read) -> None:
    """otlp and otlphttp mean otlp_grpc and otlp_http, in pipelines too, and merge with the new names."""
    config = read(
        "exporters:\n  otlp/a: {endpoint: 'a:1'}\n  otlphttp: {endpoint: 'http://b'}\n"
        "service: {pipelines: {traces: {exporters: [otlp/a, otlp_http]}}}",
        "exporters: {otlp_grpc/a: {timeout: 1s}}",
    )
    assert ids(config)["exporters"] == ["otlp_grpc/a", "otlp_http"]
    assert config.exporters["otlp_grpc/a"].timeout.seconds == 1.0
    first, second = config.warnings
    assert first.endswith("a.yaml:2: exporters.otlp/a: is an old name of otlp_grpc/a")
    assert second.endswith("a.yaml:3: exporters.otlphttp: is an old name of otlp_http")


def test_an_exporter_that_sends_to_grafter_itself_is_warned_of(read: Read) -> None:
    """Spans sent to grafter's own receiver go round; a backend on another port does not."""
    text = "exporters: {otlp_grpc: {endpoint: 'localhost:%d', tls: {insecure: on}}}"
    assert "grafter's own receiver" in read(text % 4317).warnings[0]
    assert read(text % 14317).warnings == ()


def test_the_policy_carries_every_graft_key(read: Read) -> None:
    """Anchors, metadata keys, redaction, service name and the store's limit reach the core in its own units."""
    policy = read(
        """
        processors:
          graft:
            mode: stream
            anchors: [{attributes: {gen_ai.system: openai, live: on, n: 5}}, {name: x}]
            metadata_keys: [user]
            redact: {keys: [phone], action: drop}
            unlinked: keep
            host_missing: drop
            openai_service_name: oai
        extensions: {store: {max_trace_bytes: 1MiB}}
        """
    ).graft_policy()
    assert policy.mode is Mode.STREAM
    assert policy.anchors == (
        Selector("", (("gen_ai.system", "openai"), ("live", "true"), ("n", "5"))),
        Selector("x"),
    )
    assert (policy.metadata_keys, policy.redact.keys, policy.redact.secret) == (("user",), {"phone"}, b"")
    assert (policy.unlinked, policy.host_missing, policy.openai_service_name) == ("keep", "drop", "oai")
    assert policy.max_trace_bytes == 1 << 20


@pytest.mark.parametrize(
    ("endpoint", "insecure", "secure", "compression"),
    [
        ("localhost:4317", False, True, "none"),
        ("localhost:4317", True, False, "none"),
        ("https://a:4317", True, True, "gzip"),
        ("http://a:4317", False, False, "gzip"),
    ],
)
def test_a_scheme_decides_tls_and_loopback_is_not_compressed(
    endpoint: str, insecure: bool, secure: bool, compression: str
) -> None:
    """https means TLS and http plaintext, else tls.insecure decides; compression is left out on one machine."""
    exporter = OtlpGrpcExporter.model_validate({"endpoint": endpoint, "tls": {"insecure": insecure}})
    assert (exporter.secure, exporter.effective_compression) == (secure, compression)


def test_honeycomb_needs_a_key_and_nothing_else() -> None:
    """Region picks the address; the key and a Classic dataset become headers."""
    exporter = HoneycombExporter.model_validate({"api_key": "k", "region": "eu", "dataset": "d"})
    assert exporter.target == "https://api.eu1.honeycomb.io/v1/traces"
    assert exporter.request_headers() == {"x-honeycomb-team": "k", "x-honeycomb-dataset": "d"}
    assert exporter.effective_compression == "gzip"


def test_yaml_anchors_and_merge_keys_work(read: Read) -> None:
    """A map written once can be used twice."""
    config = read(
        "exporters:\n  file/a: &common {path: a, fsync: on}\n  file/b: {<<: *common, path: b}\n",
    )
    assert [config.exporters[name].path for name in ("file/a", "file/b")] == ["a", "b"]
    assert config.exporters["file/b"].fsync is True


def key_of(config: Config) -> str:
    receiver = config.receivers["openai"]
    project = receiver.projects.get(receiver.default_project)
    return project.key if project is not None else "no project"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("", "sk-env"),
        ("receivers: {openai: {}}", "sk-env"),
        ("receivers: {openai: {projects: }}", "sk-env"),
        ("receivers: {openai: {projects: {default: }}}", "sk-env"),
        ("receivers: {openai: {projects: {default: {base_url: 'http://localhost:1/v1'}}}}", "sk-env"),
        ("receivers: {openai: {projects: {default: {api_key: sk-own}}}}", "sk-own"),
        ("receivers: {openai: {projects: {default: {api_key: ''}}}}", ""),
        ("receivers: {openai: {projects: {eu: {api_key: sk-eu}}}}", "sk-eu"),
        ("receivers: {openai: {projects: {eu: {}}}}", ""),
        ("receivers: {openai: {projects: {eu: {api_key: a}, us: {api_key: b}}}}", "no project"),
        ("receivers: {openai: {projects: {eu: {api_key: a}, default: {api_key: b}}}}", "b"),
        ("receivers: {openai: {projects: {}}}", "no project"),
    ],
)
def test_the_project_in_whose_name_calls_are_recorded(read: Read, text: str, key: str) -> None:
    """default, or the only one; a default without a key of its own has the environment's, any other has none."""
    assert key_of(read(text, env={"OPENAI_API_KEY": "sk-env"})) == key


def test_without_the_environments_key_there_is_none(read: Read) -> None:
    """No OPENAI_API_KEY, no key: that is a valid config."""
    assert key_of(read("")) == ""
    assert key_of(Config()) == ""


def secrets_of(config: Config) -> dict[str, tuple[str, ...]]:
    return {name: project.secrets for name, project in config.receivers["openai"].projects.items()}


@pytest.mark.parametrize(
    ("text", "secrets"),
    [
        ("", {"default": ("whsec_ZW52",)}),
        ("receivers: {openai: {projects: {default: {api_key: a}}}}", {"default": ("whsec_ZW52",)}),
        ("receivers: {openai: {projects: {default: {webhook_secrets: }}}}", {"default": ("whsec_ZW52",)}),
        ("receivers: {openai: {projects: {default: {webhook_secrets: []}}}}", {"default": ()}),
        ("receivers: {openai: {projects: {eu: {api_key: a}}}}", {"eu": ()}),
        (
            "receivers: {openai: {projects: {eu: {webhook_secrets: ['', whsec_bmV3, ' ', whsec_, '${env:X:-}', o]}}}}",
            {"eu": ("whsec_bmV3", "o")},
        ),
    ],
)
def test_the_secrets_of_webhooks(read: Read, text: str, secrets: dict[str, tuple[str, ...]]) -> None:
    """By project; a default without any of its own has the environment's; what is empty is dropped."""
    assert secrets_of(read(text, env={"OPENAI_WEBHOOK_SECRET": "whsec_ZW52"})) == secrets


def test_the_environments_secret_is_of_the_project_that_names_it(read: Read) -> None:
    """The default project, which comes first, does not take another one's events in its own name."""
    text = "receivers: {openai: {projects: {default: {api_key: a}, eu: {webhook_secrets: ['${env:%s}']}}}}"
    env = {"OPENAI_WEBHOOK_SECRET": "whsec_ZW52"}
    config = read(text % "OPENAI_WEBHOOK_SECRET", env=env)
    assert secrets_of(config) == {"default": (), "eu": ("whsec_ZW52",)}
    assert config.warnings == ()


@pytest.mark.parametrize("written", ["off", "'off'", "Off"])
def test_off_is_a_word_where_words_are_wanted(read: Read, written: str) -> None:
    """As config.yaml and the documents write it; for YAML a bare ``off`` is a boolean."""
    tools = [read(f"processors: {{graft: {{tools: {written}}}}}"), read(sets=[f"processors.graft.tools={written}"])]
    assert ["tools: 'off'" in as_yaml(config) for config in tools] == [True, True]


def test_a_secret_of_two_projects_is_warned_of(read: Read) -> None:
    text = "receivers: {openai: {projects: {eu: {webhook_secrets: [a, b]}, us: {webhook_secrets: [c, b]}}}}"
    (warning,) = read(text).warnings
    assert "receivers.openai.projects.us.webhook_secrets: has a secret of eu" in warning
    assert read(text.replace("c, b", "c")).warnings == ()


def test_recording_without_a_key_is_warned_of(read: Read) -> None:
    """A project whose webhooks are taken, and whose calls would be recorded."""
    text = "receivers: {openai: {realtime: {record: true}, projects: {eu: {webhook_secrets: [a]}, us: {api_key: k}}}}"
    (warning,) = read(text).warnings
    assert "receivers.openai.projects.eu: has no api_key" in warning
    assert read(text.replace("[a]", "[]")).warnings == read(text.replace("true", "false")).warnings == ()
