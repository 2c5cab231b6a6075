"""What no single key can tell: references, addresses that collide, keys that need each other.

Each check looks at a config whose keys are valid one by one and yields findings; where they stand in a file is the
loader's to say.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from grafter.config.exporters import ClientTls, FileExporter, HoneycombExporter, OtlpGrpcExporter, OtlpHttpExporter
from grafter.config.model import component_type
from grafter.config.models import SECTIONS, UNCONFIGURED, Config
from grafter.config.problems import nearest
from grafter.config.receivers import OpenAIReceiver, OtlpReceiver
from grafter.config.stores import EmbeddedStore
from grafter.config.tree import Loc, path_of
from grafter.config.units import Endpoint, is_loopback


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong, or worth knowing, and the places that have a share in it."""

    loc: Loc
    message: str
    also: tuple[Loc, ...] = ()


def check(config: Config, defined: Mapping[str, Sequence[str]]) -> tuple[list[Finding], list[Finding]]:
    """Problems and warnings. ``defined`` has the component ids of each section that a file configures, valid or not."""
    problems = [
        *_references(config, defined),
        *_pipelines(config),
        *_receivers(config),
        *_processors(config),
        *_exporters(config),
        *_store(config),
        *_workers(config),
        *_addresses(config),
    ]
    return problems, [*_loops(config), *_unrecorded(config), *_shared_secrets(config)]


def _lists(config: Config) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Signal, section and ids of every list in the pipelines."""
    pipelines = config.service.pipelines
    for signal, lists in (("traces", pipelines.traces), ("metrics", pipelines.metrics), ("logs", pipelines.logs)):
        if lists is not None:
            yield signal, "receivers", lists.receivers
            yield signal, "processors", lists.processors
            yield signal, "exporters", lists.exporters


def _references(config: Config, defined: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    lists = list(_lists(config))
    for number, (signal, section, names) in enumerate(lists):
        if any((section, names) == earlier[1:] for earlier in lists[:number]):
            # Copied from an earlier pipeline, or as wrong as that one.
            continue
        where: Loc = ("service", "pipelines", signal, section)
        if not names and not (section == "processors" and signal != "traces"):
            yield Finding(where, f"is empty: a pipeline needs {section}")
        for at, name in enumerate(names):
            known = list(dict.fromkeys([*defined[section], *UNCONFIGURED[section]]))
            if name in names[:at]:
                yield Finding((*where, at), f"{name} is named twice")
            elif name not in known:
                kind = component_type(name)
                if kind in SECTIONS[section].types:
                    hint = f"{name} is not configured under {section}"
                    near = nearest(name, [other for other in known if component_type(other) == kind and other != kind])
                    yield Finding((*where, at), hint + (near if "did you mean" in near else ""))
                else:
                    yield Finding((*where, at), f"{name} is not defined under {section}{nearest(name, known)}")


def _pipelines(config: Config) -> Iterator[Finding]:
    where: Loc = ("service", "pipelines")
    grafts = config.service.pipelines.traces.processors
    if len(grafts) > 1:
        second: Loc = ("processors", grafts[1])
        yield Finding((*where, "traces", "processors"), "has more than one graft: traces are joined once", (second,))
    for signal, section, names in _lists(config):
        if signal == "traces":
            continue
        loc: Loc = (*where, signal, section)
        if section == "processors" and names:
            yield Finding(loc, f"must be empty: {signal} are passed through unread")
        if section == "receivers":
            for at, name in enumerate(names):
                if component_type(name) == "openai":
                    yield Finding((*loc, at), f"{name} takes no {signal}; otlp receivers do")
        if section == "exporters":
            for at, name in enumerate(names):
                exporter = config.exporters.get(name)
                if isinstance(exporter, OtlpHttpExporter) and exporter.endpoint is None:
                    yield Finding((*loc, at), f"{name} has an address for traces only: give it an endpoint")
                elif isinstance(exporter, FileExporter):
                    yield Finding((*loc, at), f"{name} takes no {signal}: a file holds traces only")


def _receivers(config: Config) -> Iterator[Finding]:
    for name, receiver in config.receivers.items():
        if isinstance(receiver, OpenAIReceiver):
            ingest = receiver.ingest
            if ingest.tokens and ingest.tee and not ingest.tee.key:
                yield Finding(
                    ("receivers", name, "ingest", "tee", "api_key"),
                    "is required beside ingest.tokens: callers then show a token of grafter's, "
                    "and there is no key of OpenAI's to send on",
                    also=(("receivers", name, "ingest", "tee"),),
                )


def _unrecorded(config: Config) -> Iterator[Finding]:
    """Projects whose calls would start recorders, had they a key."""
    for name, receiver in config.receivers.items():
        if isinstance(receiver, OpenAIReceiver) and receiver.realtime.record:
            for project, one in receiver.projects.items():
                if one.secrets and not one.key:
                    yield Finding(
                        ("receivers", name, "projects", project),
                        "has no api_key: calls of its webhooks are not recorded, though realtime.record says so",
                    )


def _shared_secrets(config: Config) -> Iterator[Finding]:
    """Projects with a webhook secret that an earlier one has: what it signs is taken for that one's."""
    for name, receiver in config.receivers.items():
        if isinstance(receiver, OpenAIReceiver):
            first: dict[str, str] = {}
            for project, one in receiver.projects.items():
                owner = next((first[secret] for secret in one.secrets if secret in first), None)
                if owner is not None:
                    yield Finding(
                        ("receivers", name, "projects", project, "webhook_secrets"),
                        f"has a secret of {owner}: what it signs is done in the name of {owner}",
                    )
                first = {**dict.fromkeys(one.secrets, project), **first}


def _processors(config: Config) -> Iterator[Finding]:
    for name, graft in config.processors.items():
        for at, anchor in enumerate(graft.anchors):
            if not anchor.name and not anchor.attributes:
                yield Finding(
                    ("processors", name, "anchors", at), "needs a name or attributes; it would match any span"
                )


def _exporters(config: Config) -> Iterator[Finding]:
    for name, exporter in config.exporters.items():
        where: Loc = ("exporters", name)
        tls = getattr(exporter, "tls", None)
        if isinstance(tls, ClientTls) and bool(tls.cert_file) != bool(tls.key_file):
            given, wanted = ("cert_file", "key_file") if tls.cert_file else ("key_file", "cert_file")
            yield Finding((*where, "tls", given), f"needs {wanted} beside it")
        if isinstance(exporter, OtlpGrpcExporter) and exporter.secure and exporter.tls.insecure_skip_verify:
            yield Finding(
                (*where, "tls", "insecure_skip_verify"),
                "cannot be true here: gRPC in Python always checks the certificate; name its authority in ca_file, "
                "or use otlp_http",
            )
        retry = getattr(exporter, "retry_on_failure", None)
        if retry is not None and retry.max_interval < retry.initial_interval:
            loc: Loc = (*where, "retry_on_failure")
            shorter = f"{retry.max_interval} is shorter than initial_interval, {retry.initial_interval}"
            yield Finding((*loc, "max_interval"), shorter, also=((*loc, "initial_interval"),))
        if isinstance(exporter, OtlpHttpExporter) and not exporter.endpoint and not exporter.traces_endpoint:
            yield Finding(where, "needs an endpoint, or a traces_endpoint")
        if isinstance(exporter, HoneycombExporter) and exporter.classic and not exporter.dataset:
            yield Finding((*where, "dataset"), "is required: this api_key is one of Honeycomb Classic")


def _store(config: Config) -> Iterator[Finding]:
    store, where = config.extensions.store, ("extensions", "store")
    if store.max_trace_bytes > store.max_bytes:
        larger = f"{store.max_trace_bytes} is more than max_bytes, {store.max_bytes}"
        yield Finding((*where, "max_trace_bytes"), larger, also=((*where, "max_bytes"),))
    if store.redis is not None and store.embedded != EmbeddedStore():
        both = "stands beside embedded; a store is one or the other"
        yield Finding((*where, "redis"), both, also=((*where, "embedded"),))


def _workers(config: Config) -> Iterator[Finding]:
    workers = config.service.workers
    if workers > 1 and not config.extensions.store.shared:
        yield Finding(
            ("service", "workers"),
            f"{workers} processes need a store that they share, extensions.store.redis; "
            "the embedded store belongs to one",
            also=(("extensions", "store"),),
        )


def listening(config: Config) -> Iterator[tuple[Loc, Endpoint]]:
    """Every address that this config listens on, with its key; only of what runs."""
    running = {name for _, section, names in _lists(config) if section == "receivers" for name in names}
    for name, receiver in config.receivers.items():
        if name not in running:
            continue
        where: Loc = ("receivers", name)
        if isinstance(receiver, OtlpReceiver):
            yield (*where, "protocols", "grpc", "endpoint"), receiver.protocols.grpc.endpoint
            yield (*where, "protocols", "http", "endpoint"), receiver.protocols.http.endpoint
        else:
            yield (*where, "endpoint"), receiver.endpoint
    if config.extensions.health_check is not None:
        yield ("extensions", "health_check", "endpoint"), config.extensions.health_check.endpoint
    yield ("service", "telemetry", "metrics", "endpoint"), config.service.telemetry.metrics.endpoint


def _addresses(config: Config) -> Iterator[Finding]:
    for (first, taken), (second, endpoint) in combinations(listening(config), 2):
        if endpoint.overlaps(taken):
            yield Finding(second, f"{endpoint} is the address of {path_of(first)} already", also=(first,))


def _loops(config: Config) -> Iterator[Finding]:
    """Exporters that send to this very process, which would go round for ever."""
    own = [endpoint for loc, endpoint in listening(config) if loc[0] == "receivers"]
    running = {name for _, section, names in _lists(config) if section == "exporters" for name in names}
    for name, exporter in config.exporters.items():
        target: Any = None
        if isinstance(exporter, OtlpGrpcExporter):
            target = exporter.endpoint
        elif isinstance(exporter, OtlpHttpExporter):
            target = exporter.traces_endpoint or exporter.endpoint
        if name not in running or target is None or not is_loopback(target.host):
            continue
        if any(endpoint.overlaps(Endpoint(f"localhost:{target.port}")) for endpoint in own):
            yield Finding(("exporters", name, "endpoint"), f"{target} is grafter's own receiver: spans will go round")
