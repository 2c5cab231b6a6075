"""The metrics that documents, board and alerts name are those that grafter has, with those labels."""

import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from grafter.telemetry import BacklogHeld, Held, HeldFor, Metrics
from grafter.workers.page import Page, Seen

REPO = Path(__file__).parent.parent
BOARD = REPO / "examples" / "grafana" / "grafter.json"
ALERTS = REPO / "examples" / "grafana" / "alerts.yaml"
TABLE = REPO / "docs" / "metrics.md"

TARGET = {"instance", "job"}
"""Labels that Prometheus adds."""
HISTOGRAM = ("_bucket", "_count", "_sum")


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Every metric of a grafter by the name that a scrape shows, histograms by their own; and its labels."""
    metrics = Metrics()
    found: dict[str, set[str]] = {}
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            (described,) = metric.describe()
            name = described.name + ("_total" if described.type == "counter" else "")
            found[name] = set(metric._labelnames)
    held = Held(
        traces=1,
        spans=1,
        bytes=1,
        limit_bytes=1,
        disk_bytes=1,
        oldest_seconds=1.0,
        remembered=1,
        store_up=True,
        replicas=[HeldFor(0, 1, 1, 1, 1.0)],
        backlogs=[BacklogHeld("a", 1, 1, 1.0)],
    )
    metrics.watch(lambda: held)
    page = Page(str(tmp_path_factory.mktemp("workers")), lambda: Seen(1, 0, held, (), 0.0)).text().decode()
    for name, labels in re.findall(r"^(grafter_\w+)(?:\{(.*)\})? ", page, re.MULTILINE):
        found.setdefault(name, set(re.findall(r"(\w+)=", labels)))
    return found


def queries() -> list[tuple[str, str]]:
    """Every query of the board and of the alerts, with what it is for."""
    board = json.loads(BOARD.read_text("utf-8"))
    found = [(panel["title"], target["expr"]) for panel in board["panels"] for target in panel.get("targets", ())]
    found += [(variable["name"], variable["definition"]) for variable in board["templating"]["list"][1:]]
    return found + [(rule["alert"], rule["expr"]) for rule in rules()]


def rules() -> Iterator[dict[str, Any]]:
    for group in yaml.safe_load(ALERTS.read_text("utf-8"))["groups"]:
        yield from group["rules"]


def base(name: str) -> str:
    """A histogram's own name, of one of its series."""
    for end in HISTOGRAM:
        if name.endswith(f"_seconds{end}"):
            return name.removesuffix(end)
    return name


@pytest.mark.parametrize(("title", "query"), queries(), ids=lambda value: value if len(value) < 60 else "")
def test_a_query_asks_for_what_there_is(title: str, query: str, known: dict[str, set[str]]) -> None:
    """Each metric by its name, selected by its own labels, and summed by labels that it has."""
    named = re.findall(r"\b(grafter_\w+)(?:\{([^}]*)\})?", query)
    assert named, title
    having = set()
    for name, selected in named:
        assert base(name) in known, f"{title} asks for {name}"
        labels = known[base(name)] | TARGET | ({"le"} if name.endswith("_bucket") else set())
        assert set(re.findall(r"(\w+)\s*(?:=|!)", selected)) <= labels, f"{title} selects {selected} of {name}"
        having |= labels
    for grouped in re.findall(r"\bby \(([^)]*)\)", query):
        assert {label.strip() for label in grouped.split(",")} <= having, f"{title} sums by {grouped}"
    assert query.count("(") == query.count(")")


def test_every_metric_stands_in_the_document_with_its_labels(known: dict[str, set[str]]) -> None:
    """One row each: a metric that is added gets a row, one that goes takes its row along."""
    rows = re.findall(r"^\| `(grafter_\w+)(?:\{(.*?)\})?` \|", TABLE.read_text("utf-8"), re.MULTILINE)
    written = {name: set(filter(None, labels.split(","))) for name, labels in rows}
    assert len(rows) == len(written)
    there = {name: labels for name, labels in known.items() if not name.startswith("grafter_replica_")}
    told = {name: labels for name, labels in written.items() if not name.startswith("grafter_replica_")}
    rows_to_add = [
        f"| `{name}{'{' + ','.join(sorted(labels)) + '}' if labels else ''}` | … |"
        for name, labels in there.items()
        if told.get(name) != labels
    ]
    assert rows_to_add == []
    assert told.keys() == there.keys()


def test_the_board_is_one_that_grafana_takes() -> None:
    """Ids once, no panel over another, every panel of the chosen data source, with a word on what it shows."""
    panels = json.loads(BOARD.read_text("utf-8"))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        apart = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert apart or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
    for panel in panels:
        if panel["type"] != "row":
            assert panel["description"]
            assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}


def test_every_alert_says_what_it_means() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)
    for rule in rules():
        assert rule["labels"]["severity"] in {"info", "warning", "critical"}
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]
