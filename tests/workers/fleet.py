"""Several workers, each with a store in its own memory: enough for what does not depend on where a trace is held.

A config file may not say this, for a call's spans would be scattered over stores; the models allow it, and here every
request holds a whole trace.
"""

import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import orjson

from grafter.components import Config
from grafter.workers import supervisor

WORKERS = 2


def sections(backend: str, home: Path) -> dict[str, Any]:
    """Everything on free ports; traces leave at once for the backend."""
    free = {"endpoint": "127.0.0.1:0"}
    return {
        "receivers": {"otlp": {"protocols": {"grpc": dict(free), "http": dict(free)}}, "openai": dict(free)},
        "processors": {"graft": {"wait": {"after_root": "10ms", "guest_quiet": "10ms", "for_guest": "10ms"}}},
        "exporters": {"otlp_http": {"endpoint": backend, "retry_on_failure": {"initial_interval": "50ms"}}},
        "extensions": {
            "store": {"embedded": {"directory": str(home / "store"), "memory": True}},
            "health_check": dict(free),
        },
        "service": {
            "pipelines": {"metrics": {}},
            "telemetry": {"metrics": dict(free)},
            "shutdown_timeout": "10s",
            "workers": WORKERS,
        },
    }


def config(said: dict[str, Any]) -> Config:
    """What the sections mean."""
    return Config.model_validate(said)


def place(said: dict[str, Any], door: str) -> dict[str, Any]:
    """Where the sections have a door's endpoint."""
    protocols = said["receivers"]["otlp"]["protocols"]
    found: dict[str, Any] = {
        "otlp_grpc": protocols["grpc"],
        "otlp_http": protocols["http"],
        "openai": said["receivers"]["openai"],
        "health": said["extensions"]["health_check"],
        "metrics": said["service"]["telemetry"]["metrics"],
    }[door]
    return found


def sums(page: str) -> dict[str, float]:
    """Each metric's sum over its labels, by its full name on the page."""
    found: dict[str, float] = defaultdict(float)
    for line in page.splitlines():
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            found[name.partition("{")[0]] += float(value)
    return found


if __name__ == "__main__":
    # A process of its own, where signals are meant: the sections in a file, as ``grafter run`` would read them.
    sys.exit(supervisor.run(config(orjson.loads(Path(sys.argv[1]).read_bytes()))))
