"""What no single component can tell: references of pipelines, addresses that collide, spans that would go round.

Each check looks at a config whose keys are valid one by one and yields findings, beside those that the models have of
themselves (``Model.findings``).
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from grafter.config.model import Model, below, component_type
from grafter.config.problems import Finding, Loc, nearest, path_of
from grafter.config.root import RootConfig, listening
from grafter.config.units import Endpoint, is_loopback


def check(config: RootConfig, defined: Mapping[str, Sequence[str]]) -> list[Finding]:
    """Problems and warnings. ``defined`` has the component ids of each section that a file configures, valid or not."""
    found = [*_references(config, defined), *_pipelines(config), *_addresses(config)]
    for loc, model in below(config):
        if isinstance(model, Model):
            found += (finding.below(loc) for finding in model.findings())
    # Where something is wrong an exporter may have no address.
    return found if not all(finding.warning for finding in found) else [*_loops(config), *found]


def _lists(config: RootConfig) -> Iterator[tuple[str, str, tuple[str, ...], Loc]]:
    """Signal, section, ids and place of every list in the pipelines."""
    for signal, pipeline in config.service.pipelines.by_signal().items():
        for section in config.sections():
            yield signal, section, getattr(pipeline, section), ("service", "pipelines", signal, section)


def _references(config: RootConfig, defined: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    seen: set[tuple[str, tuple[str, ...]]] = set()
    for signal, section, names, where in _lists(config):
        if (section, names) in seen:
            # Copied from an earlier pipeline, or as wrong as that one.
            continue
        seen.add((section, names))
        if not names and not (section == "processors" and signal != "traces"):
            yield Finding(where, f"is empty: a pipeline needs {section}")
        components = config.sections()[section]
        known = list(dict.fromkeys([*defined[section], *components.default]))
        for at, name in enumerate(names):
            kind = component_type(name)
            if name in names[:at]:
                yield Finding((*where, at), f"{name} is named twice")
            elif name in known:
                continue
            elif kind in components.types:
                others = [other for other in known if component_type(other) == kind and other != kind]
                near = nearest(name, others, otherwise=False)
                yield Finding((*where, at), f"{name} is not configured under {section}{near}")
            else:
                yield Finding((*where, at), f"{name} is not defined under {section}{nearest(name, known)}")


def _pipelines(config: RootConfig) -> Iterator[Finding]:
    for signal, section, names, where in _lists(config):
        if signal == "traces":
            if section == "processors":
                kinds = [component_type(name) for name in names]
                for at, kind in enumerate(kinds):
                    if kind in kinds[:at] and names[at] not in names[:at]:
                        more = f"has more than one {kind}: each trace passes it once"
                        yield Finding(where, more, (("processors", names[at]),))
            continue
        if section == "processors" and names:
            yield Finding(where, f"must be empty: {signal} are passed through unread")
        for at, name in enumerate(names):
            component = getattr(config, section).get(name)
            if component is not None and (why := component.refuses(signal)):
                yield Finding((*where, at), f"{name} {why}")


def _addresses(config: RootConfig) -> Iterator[Finding]:
    for (first, taken), (second, endpoint) in combinations(listening(config), 2):
        if endpoint.overlaps(taken):
            yield Finding(second, f"{endpoint} is the address of {path_of(first)} already", also=(first,))


def _loops(config: RootConfig) -> Iterator[Finding]:
    """Exporters that send to this very process, which would go round for ever."""
    own = [endpoint for loc, endpoint in listening(config) if loc[0] == "receivers"]
    for name, exporter in config.running("exporters").items():
        target = exporter.target
        if target is None or not is_loopback(target.host):
            continue
        if any(endpoint.overlaps(Endpoint(f"localhost:{target.port}")) for endpoint in own):
            loc: Loc = ("exporters", name, "endpoint")
            yield Finding(loc, f"{target} is grafter's own receiver: spans will go round", warning=True)
