"""A real LiveKit agent on OpenAI's Realtime API, shown to grafter.

python livekit_agent.py DOOR_URL REALTIME_URL
"""

import asyncio
import sys

from livekit.agents import Agent, AgentSession, function_tool
from livekit.plugins import openai

from grafter_propagation import RealtimeTap


class Desk(Agent):
    """Finds orders."""

    def __init__(self) -> None:
        super().__init__(instructions="Find the order.")

    @function_tool
    async def lookup(self, order: int) -> str:
        """Where an order is."""
        return f"{order} is shipped"


async def main(door: str, api: str) -> None:
    """One question, a tool, an answer."""
    async with RealtimeTap(door, "call_1", metadata={"trace_id": "a" * 32}) as tap:
        done = asyncio.Event()
        responses = 0

        def count(event: dict[str, object]) -> None:
            nonlocal responses
            responses += event["type"] == "response.done"
            if responses == 2:
                done.set()

        base = api.replace("ws://", "http://").removesuffix("/realtime")
        model = tap.attach(openai.realtime.RealtimeModel(api_key="sk-none", base_url=base))
        session = AgentSession(llm=model)
        agent = Desk()
        await session.start(agent=agent)
        agent.realtime_llm_session.on("openai_server_event_received", count)
        session.generate_reply(user_input="Where is order 7?")
        await done.wait()
    await session.aclose()


asyncio.run(main(*sys.argv[1:]))
