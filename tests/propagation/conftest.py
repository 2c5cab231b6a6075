"""The rigs: a door and a tap that posts to it."""

from collections.abc import AsyncIterator

import pytest

from tests.propagation.door import Door, opened


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    """A door that stores what comes."""
    async with opened() as door:
        yield door
