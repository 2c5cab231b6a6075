"""A real nats-server with JetStream, from its wheel, for the length of a block."""

import asyncio
import re
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

DEADLINE = 60.0


@asynccontextmanager
async def serving(directory: Path) -> AsyncIterator[str]:
    """Its URL. Its store is in ``directory``."""
    binary = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or shutil.which("nats-server")
    assert binary, "no nats-server: install the dev group"
    process = await asyncio.create_subprocess_exec(
        *(binary, "--addr", "127.0.0.1", "--port", "-1", "--jetstream", "--store_dir", str(directory)),
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        url = ""
        async with asyncio.timeout(DEADLINE):
            while b"Server is ready" not in (line := await process.stderr.readline()):
                assert line, "nats-server ended"
                if found := re.search(rb"Listening for client connections on ([\d.:]+)", line):
                    url = f"nats://{found[1].decode()}"
        yield url
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()
