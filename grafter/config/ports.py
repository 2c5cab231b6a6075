"""The same config at other ports: those that were picked where it leaves the choice."""

from collections.abc import Mapping
from typing import Any

from grafter.config.models import Config
from grafter.config.tree import Loc
from grafter.config.units import Endpoint


def with_ports(config: Config, ports: Mapping[Loc, int]) -> Config:
    """The same config with these ports in the endpoints at these places."""

    def put(node: Any, loc: Loc, port: int) -> Any:
        if not loc:
            return Endpoint(f"{node.rpartition(':')[0]}:{port}")
        key, below = loc[0], loc[1:]
        if isinstance(node, Mapping):
            return {**node, key: put(node[key], below, port)}
        return node.model_copy(update={key: put(getattr(node, str(key)), below, port)})

    for loc, port in ports.items():
        config = put(config, loc, port)
    return config
