"""A real RabbitMQ, where the machine has one, for the length of a block; with all that it writes in its directory."""

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tests.ports import free_ports

DEADLINE = 120.0
PLACES = ("/usr/lib/rabbitmq/bin", "/usr/local/sbin", "/opt/homebrew/opt/rabbitmq/sbin")
"""Where it can be started as anybody: what a distribution puts on the PATH may change to a user of its own."""


def why_no_rabbitmq() -> str:
    """Empty where there is one."""
    return "" if _binary() else "RabbitMQ is not installed (Debian: apt-get install rabbitmq-server)"


def _binary() -> str | None:
    return shutil.which("rabbitmq-server", path=os.pathsep.join(PLACES)) or shutil.which("rabbitmq-server")


@asynccontextmanager
async def serving(directory: Path) -> AsyncIterator[str]:
    """Its URL."""
    binary = _binary()
    assert binary
    port, cluster, names = free_ports(3)
    env = os.environ | {
        "HOME": str(directory),
        "ERL_EPMD_PORT": str(names),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODENAME": f"grafter{port}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(cluster),
        "RABBITMQ_MNESIA_BASE": str(directory / "rabbitmq"),
        "RABBITMQ_LOG_BASE": str(directory / "rabbitmq"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "no-plugins"),
        "RABBITMQ_CONF_ENV_FILE": str(directory / "no-settings"),
        "RABBITMQ_LOGS": "-",
    }
    # Erlang's register of names, which a server would else start and leave running.
    register = await asyncio.create_subprocess_exec("epmd", env=env)
    process = await asyncio.create_subprocess_exec(
        binary, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, start_new_session=True
    )
    try:
        assert process.stdout is not None
        said = b""
        async with asyncio.timeout(DEADLINE):
            while b"Server startup complete" not in said:
                said = await process.stdout.readline()
                assert said, "RabbitMQ ended"
        yield f"amqp://guest:guest@127.0.0.1:{port}/"
    finally:
        # The script's server and its helpers are one process group.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        await process.communicate()
        register.terminate()
        await register.wait()
