"""A real Kafka broker of one node, where the machine has Java and Maven, for the length of a block; with all that it
writes in its directory."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.ports import free_ports

DEADLINE = 300.0
POM = """
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>grafter</groupId> <artifactId>broker</artifactId> <version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId> <artifactId>kafka_2.13</artifactId> <version>4.3.1</version>
    </dependency>
    <dependency>
      <groupId>org.slf4j</groupId> <artifactId>slf4j-simple</artifactId> <version>1.7.36</version>
    </dependency>
  </dependencies>
</project>
"""
SETTINGS = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
controller.listener.names=CONTROLLER
log.dirs={directory}/data
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
"""


async def why_no_kafka(directory: Path) -> str:
    """Fetches the broker into the directory; empty where that can be done."""
    if missing := [each for each in ("java", "mvn") if shutil.which(each) is None]:
        return f"no {' and no '.join(missing)}: a Kafka broker needs Java 17, and Maven to fetch it"
    (directory / "pom.xml").write_text(POM, "utf-8")
    fetch = ["mvn", "-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory=lib"]
    status, said = await _ended(directory, *fetch)
    return f"Maven could not fetch Kafka: {said[-300:]}" if status else ""


@asynccontextmanager
async def serving(directory: Path) -> AsyncIterator[str]:
    """Its address. ``why_no_kafka`` has put it there."""
    port, controller = free_ports(2)
    settings = SETTINGS.format(port=port, controller=controller, directory=directory)
    (directory / "server.properties").write_text(settings, "utf-8")
    java = ["java", "-Xmx256m", "-cp", f"{directory}/lib/*"]
    format_ = [*java, "kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qk", "-c", "server.properties"]
    status, said = await _ended(directory, *format_)
    assert status == 0, said[-2000:]
    process = await asyncio.create_subprocess_exec(
        *(*java, "kafka.Kafka", "server.properties"),
        cwd=directory,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        line = b""
        async with asyncio.timeout(DEADLINE):
            while b"Kafka Server started" not in line:
                line = await process.stderr.readline()
                assert line, "Kafka ended"
        # What it goes on to say is read, or it would stop at a full pipe.
        rest = asyncio.ensure_future(process.stderr.read())
        yield f"127.0.0.1:{port}"
        process.terminate()
        await rest
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _ended(directory: Path, *command: str) -> tuple[int, str]:
    """Status and words of a command."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=directory, env=os.environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    out, _ = await asyncio.wait_for(process.communicate(), DEADLINE)
    return process.returncode or 0, out.decode(errors="replace")
