"""Kafka: the programs of docs/hops/kafka.md as they stand, against a real broker, give the trees below them."""

import asyncio
import sys
import venv
from pathlib import Path

import pytest

from tests.propagation import kafka_server
from tests.propagation.test_hops import PAGES, PROGRAM, traced

PAGE = PROGRAM.findall((PAGES / "kafka.md").read_text("utf-8"))
INSTALLED = [
    *("aiokafka==0.14.0", "kafka-python==3.0.12", "confluent-kafka==2.16.1", "opentelemetry-sdk==1.45.1"),
    *(f"opentelemetry-instrumentation-{client}==0.66b1" for client in ("aiokafka", "kafka-python", "confluent-kafka")),
]


@pytest.mark.slow
async def test_every_program_of_the_page_gives_its_tree(tmp_path: Path) -> None:
    """One consumer group goes on where the last program left; each client is installed for this test."""
    if reason := await kafka_server.why_no_kafka(tmp_path):
        pytest.skip(reason)
    await asyncio.to_thread(venv.create, tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "-qq", *INSTALLED]
    process = await asyncio.create_subprocess_exec(*pip, stderr=asyncio.subprocess.PIPE)
    _, error = await process.communicate()
    if process.returncode:
        pytest.skip(f"pip could not fetch the clients of Kafka: {error.decode()[-300:]}")
    async with kafka_server.serving(tmp_path) as url:
        trees = {heading: await traced(python, program, url, tmp_path) for heading, program, _ in PAGE}
    assert trees == {heading: tree for heading, _, tree in PAGE}
    assert list(trees) == ["Without it", "The line", "In kafka-python", "In confluent-kafka"]
