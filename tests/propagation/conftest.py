"""The rigs: a door that what is under test posts to, and the end-to-end tests' own."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.e2e.conftest import model, sink, start  # noqa: F401  # fixtures
from tests.propagation.door import Door, opened
from tests.propagation.spans import Spans


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    """A door that stores what comes."""
    async with opened() as door:
        yield door


@pytest.fixture
async def ingest() -> AsyncIterator[Door]:
    """A door for the Agents SDK's traces."""
    async with opened(path="/v1/traces/ingest") as door:
        yield door


@pytest.fixture
def spans() -> Iterator[Spans]:
    """An app's tracer."""
    spans = Spans()
    yield spans
    spans.provider.shutdown()
