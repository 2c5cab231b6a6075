"""The stand-in of the Agents API is one that the official client can read."""

from openai import AsyncOpenAI

from tests import agents_server
from tests.agents_server import KEY, SESSION


async def test_the_official_client_reads_the_stand_in() -> None:
    """Session, pages in both directions, and OTLP come out of the client as they went into the server."""
    async with agents_server.serving() as server, AsyncOpenAI(api_key=KEY, base_url=server.base_url) as client:
        server.sessions[SESSION] = agents_server.session(metadata={"trace_id": "ab" * 16})
        server.traces = [agents_server.trace(number) for number in range(1, 6)]
        found = await client.beta.agents.sessions.retrieve(SESSION)
        assert (found.id, found.metadata, found.status) == (SESSION, {"trace_id": "ab" * 16}, "idle")
        listing = client.beta.agents.sessions.traces
        ascending = [each async for each in listing.list(SESSION, limit=2, order="asc")]
        assert [each.to_dict() for each in ascending] == server.traces
        assert [each.id async for each in listing.list(SESSION, limit=3)] == [x.id for x in ascending[::-1]]
        behind = await listing.list(SESSION, limit=100, order="asc", after=ascending[2].id)
        assert [each.id for each in behind.data] == ["turn_0004", "turn_0005"]
        turns = await client.beta.agents.sessions.turns.list(SESSION, limit=1, order="asc", after="turn_0001")
        assert [each.id for each in turns.data] == ["turn_0002"]
        assert server.odd == []
