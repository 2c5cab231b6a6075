"""Sections that come from a Collector's file: what has no meaning here is taken with a word, the rest is refused."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from grafter.components import Config, load
from grafter.config.model import Components, Model, unwrap
from grafter.config.problems import ConfigError

CLIENT = """
exporters:
  otlp_grpc/a:
    endpoint: backend:4317
    balancer_name: round_robin
    keepalive: {time: 10s, timeout: 10s, permit_without_stream: true}
    tls: {insecure: false, min_version: "1.3", reload_interval: 10s, include_system_ca_certs_pool: true}
    retry_on_failure: {enabled: true, initial_interval: 5s, max_interval: 30s, max_elapsed_time: 300s}
    sending_queue:
      enabled: true
      num_consumers: 10
      queue_size: 1000
      sizer: requests
      block_on_overflow: false
      wait_for_result: false
      storage: file_storage/queue
      batch: {flush_timeout: 200ms, min_size: 8192, max_size: 0, sizer: items, partition: {metadata_keys: [a]}}
  otlp_http:
    endpoint: https://backend:4318
    max_idle_conns: 100
    max_idle_conns_per_host: 0
    max_conns_per_host: 0
    idle_conn_timeout: 90s
    disable_keep_alives: false
    write_buffer_size: 524288
"""
SERVER = """
receivers:
  otlp:
    protocols:
      grpc:
        endpoint: localhost:4317
        transport: tcp
        max_concurrent_streams: 16
        read_buffer_size: 524288
        keepalive: {enforcement_policy: {min_time: 10s}}
        include_metadata: true
      http:
        endpoint: localhost:4318
        cors: {allowed_origins: ["https://app.example.com"], exposed_headers: [X-A]}
        compression_algorithms: ["", gzip]
        read_header_timeout: 1m
        idle_timeout: 1m
        keep_alives_enabled: true
service:
  extensions: [health_check]
  telemetry: {metrics: {level: detailed}, logs: {encoding: json, output_paths: [stderr]}}
"""


def loaded(tmp_path: Path, text: str) -> Config:
    file = tmp_path / "a.yaml"
    file.write_text(text)
    return load([str(file)], env={})


def models(kind: object) -> Iterator[type[Model]]:
    """A model and all that are below it."""
    if isinstance(kind, type) and issubclass(kind, Model):
        yield kind
        for field in kind.model_fields.values():
            for mark in field.metadata:
                if isinstance(mark, Components):
                    for component in mark.types.values():
                        yield from models(component)
            yield from models(unwrap(field.annotation))


@pytest.mark.parametrize("text", [CLIENT, SERVER])
def test_keys_of_the_collector_are_taken_with_a_word_about_each(tmp_path: Path, text: str) -> None:
    """Each key that sets nothing is named with its line; what the others say is what runs."""
    config = loaded(tmp_path, text)
    named = {warning.split(": ")[1].rpartition(".")[2] for warning in config.warnings}
    lines = {int(warning.split(":")[1]) for warning in config.warnings}
    taken = {key for kind in models(Config) for key in kind.collectors_own}
    written = {key for key in _keys(yaml.safe_load(text)) if key in taken}
    # What stands below such a key is not looked at.
    assert named == written - {"timeout", "time"}
    assert all(" has no meaning here: " in warning for warning in config.warnings)
    assert lines <= {at for at, line in enumerate(text.splitlines(), 1) if any(key in line for key in named)}
    if text is CLIENT:
        assert config.exporters["otlp_grpc/a"].sending_queue.num_consumers == 10
    else:
        assert config.service.telemetry.logs.encoding == "json"


def _keys(data: object) -> Iterator[str]:
    if isinstance(data, dict):
        for key, value in data.items():
            yield key
            yield from _keys(value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "exporters: {otlp_grpc: {endpoint: 'a:1', auth: {authenticator: bearertokenauth}}}",
            "exporters.otlp_grpc.auth: unknown key; write headers: {Authorization: …} instead",
        ),
        (
            "receivers: {otlp: {protocols: {http: {auth: {authenticator: basicauth}}}}}",
            'receivers.otlp.protocols.http.auth: unknown key; write tokens: ["${env:TOKEN}"] instead',
        ),
        (
            "receivers: {otlp: {protocols: {http: {traces_url_path: /spans}}}}",
            "receivers.otlp.protocols.http.traces_url_path: unknown key; the path is /v1/traces",
        ),
        (
            "exporters: {otlp_http: {endpoint: 'http://a:1', tls: {ca_pem: abc}}}",
            "exporters.otlp_http.tls.ca_pem: unknown key; write the PEM into a file and name it in ca_file",
        ),
        (
            "exporters: {otlp_http: {endpoint: 'http://a:1', sending_queue: {queue_sze: 1}}}",
            "exporters.otlp_http.sending_queue.queue_sze: unknown key; known here: num_consumers, batch",
        ),
        (
            "exporters: {otlp_grpc: {endpoint: 'https://a:1/v1/traces'}}",
            "exporters.otlp_grpc.endpoint: 'https://a:1/v1/traces' has a path: gRPC sends to a host and a port",
        ),
        (
            "exporters: {otlp_grpc: {endpoint: 'a:1/v1/traces'}}",
            "exporters.otlp_grpc.endpoint: 'a:1/v1/traces' has a path: gRPC sends to a host and a port",
        ),
    ],
)
def test_what_would_be_missed_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    """Who may send, what is trusted, where spans go: such a key is an error, with what to write in its place."""
    with pytest.raises(ConfigError) as error:
        loaded(tmp_path, text)
    assert [str(one) for one in error.value.problems] == [f"{tmp_path}/a.yaml:1: {problem}"]


def test_no_key_is_two_things() -> None:
    """A key of a model is neither taken as the Collector's nor refused as such."""
    for kind in models(Config):
        known = kind.model_fields.keys()
        assert not known & kind.collectors_own.keys(), kind
        assert not known & kind.instead.keys(), kind
        assert not kind.collectors_own.keys() & kind.instead.keys(), kind


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("kind", ["otlp_http", "honeycomb"])
def test_an_endpoint_that_has_the_path_already_is_understood(tmp_path: Path, kind: str, slash: str) -> None:
    """Copied from a backend's page for ``…TRACES_ENDPOINT``, it goes where it was meant to, and is named."""
    key = "api_key: abc, " if kind == "honeycomb" else ""
    config = loaded(tmp_path, f"exporters: {{{kind}: {{{key}endpoint: 'https://a.example/x/v1/traces{slash}'}}}}")
    (exporter,) = config.active().exporters.values()
    assert exporter.target == "https://a.example/x/v1/traces"
    (warning,) = config.warnings
    assert "a.yaml:1: exporters." in warning
    assert "ends in /v1/traces, which is added to it: https://a.example/x is taken" in warning


def test_a_traces_endpoint_is_used_as_it_stands(tmp_path: Path) -> None:
    config = loaded(tmp_path, "exporters: {otlp_http: {traces_endpoint: 'https://a.example/v1/traces/v1/traces'}}")
    (exporter,) = config.active().exporters.values()
    assert exporter.target == "https://a.example/v1/traces/v1/traces"
    assert config.warnings == ()
