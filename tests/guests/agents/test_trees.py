"""Every recorded run, mapped, against the tree that it should give, whole."""

from collections.abc import Callable
from pathlib import Path

import pytest

from grafter.core.policy import Content
from grafter.guests.source import Mapped

DATA = Path(__file__).parents[2] / "data" / "openai"
TREES = sorted((DATA / "trees").glob("*.txt"))


@pytest.mark.parametrize("expected", TREES, ids=lambda path: path.stem)
def test_a_recorded_run_gives_its_tree(
    expected: Path,
    captured: Callable[[str], list[list[object]]],
    mapped: Callable[..., dict[str, Mapped]],
    tree: Callable[[Mapped], str],
) -> None:
    """Names, kinds, times, errors, links and all attributes of each span of each capture are as written down."""
    name, content = expected.stem.split(".")
    guests = mapped(captured(name), Content(content))
    assert "\n".join(tree(guest) for guest in guests.values()) == expected.read_text(encoding="utf-8")


def test_every_capture_has_a_tree() -> None:
    """No recording lies about unread."""
    assert {path.stem for path in DATA.glob("*.json")} - {"py_realtime_client_events"} == {
        path.stem.split(".")[0] for path in TREES
    }
