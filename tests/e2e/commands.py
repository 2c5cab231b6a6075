"""grafter's commands, asked by a test that has a grafter beside it.

Most run in this process, on a thread: what they say is the same, and a process of its own costs each most of a second
to start. That ``python -m grafter`` ends with the same code and words is shown where ``typed`` is asked.
"""

import asyncio
import sys

from typer.testing import CliRunner

from grafter.cli import app
from tests.e2e.process import DEADLINE, REPO, Grafter

Said = tuple[int, str, str]
"""Exit code, stdout, stderr."""


async def command(grafter: Grafter, *words: str, given: str = "") -> Said:
    """What a command does with the config of this grafter and with ``given`` on stdin; raises what it raises."""
    arguments = [*words, "--config", str(grafter.config)]
    asked = asyncio.to_thread(CliRunner().invoke, app, arguments, given, catch_exceptions=False)
    done = await asyncio.wait_for(asked, DEADLINE)
    return done.exit_code, done.stdout, done.stderr


async def typed(grafter: Grafter, *words: str, given: str = "") -> Said:
    """The same as from a shell: in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "grafter", *words, "--config", str(grafter.config)),
        cwd=REPO,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(given.encode()), DEADLINE)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()
