"""The books of grafter processes, added up from their metrics."""

import asyncio
from collections.abc import Mapping, Sequence

import aiohttp

from tests.e2e.process import Grafter

CAME = ("receiver_accepted", "recovered", "taken_over", "synthetic")
WENT = ("exporter_sent", "handed_over", "dead", "dropped", "merged")


def sides(page: Mapping[str, float]) -> tuple[float, float]:
    """What came into a process's books, and what became of it."""
    came = sum(page[f"grafter_{term}_spans_total"] for term in CAME)
    return came, sum(page[f"grafter_{term}_spans_total"] for term in WENT) + page["grafter_held_spans"]


async def balanced(running: Sequence[Grafter], least: float = 0, most: float = 0) -> list[dict[str, float]]:
    """The page of each once the books of all balance and together they hold so much; fails with what they say."""
    pages: list[dict[str, float]] = []

    async def even() -> bool:
        nonlocal pages
        pages = [await one.counters(session) for one in running]
        together = sum(page["grafter_held_spans"] for page in pages)
        return least <= together <= most and all(came == went for came, went in map(sides, pages))

    async with aiohttp.ClientSession() as session:
        deadline = asyncio.get_running_loop().time() + 60
        while not await even():
            terms = [*(f"grafter_{term}_spans_total" for term in CAME + WENT), "grafter_held_spans"]
            said = [{term: page[term] for term in terms} for page in pages]
            assert asyncio.get_running_loop().time() < deadline, [*map(sides, pages), *said]
            await asyncio.sleep(0.2)
    return pages
