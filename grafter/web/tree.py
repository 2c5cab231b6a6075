"""The spans of a call as one tree, whatever their parents claim. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from grafter.core.call_latency import Step
from grafter.otlp.reading import ReadSpan


@dataclass(eq=False, slots=True)
class Node:
    """A span and what hangs under it, in the order of time."""

    span: ReadSpan
    depth: int = 0
    parent: "Node | None" = None
    children: list["Node"] = field(default_factory=list)
    kind: str | None = None
    in_tool: bool | None = None
    """What ``kinds`` found it to be, once somebody asked."""

    @property
    def step(self) -> Step:
        return self.span.step

    @property
    def id(self) -> str:
        return self.span.step.span_id.hex()

    @property
    def ns(self) -> int:
        """Its length; of a span that ends before it starts 0."""
        return max(0, self.step.end - self.step.start)

    def above(self) -> Iterator["Node"]:
        """Its parent, and so on to the root."""
        node = self.parent
        while node is not None:
            yield node
            node = node.parent

    def below(self) -> Iterator["Node"]:
        """Everything under it, parents first, earlier before later."""
        waiting = self.children[::-1]
        while waiting:
            node = waiting.pop()
            yield node
            waiting += node.children[::-1]


class Tree:
    """The spans of a call. A span whose parent is not there, or would be its own descendant, is a root."""

    def __init__(self, spans: Sequence[ReadSpan]) -> None:
        self.nodes = sorted((Node(span) for span in spans), key=_order)
        self.by_id: dict[bytes, Node] = {}
        for node in self.nodes:
            self.by_id.setdefault(node.step.span_id, node)
        self.roots: list[Node] = []
        for node in self.nodes:
            parent = self.by_id.get(node.step.parent) if node.step.parent else None
            if parent is None or parent is node:
                self.roots.append(node)
            else:
                node.parent = parent
                parent.children.append(node)
        self._cut_circles()
        for node in self:
            node.depth = 0 if node.parent is None else node.parent.depth + 1
        self.start = min((node.step.start for node in self.nodes if node.step.start), default=0)
        self.end = max((node.step.end for node in self.nodes), default=0)

    def __iter__(self) -> Iterator[Node]:
        """Parents first, earlier before later."""
        for root in self.roots:
            yield root
            yield from root.below()

    def __len__(self) -> int:
        return len(self.nodes)

    def _cut_circles(self) -> None:
        """What no root leads to goes round: its earliest member becomes a root."""
        reached = {id(node) for node in self}
        for node in self.nodes:
            if id(node) not in reached:
                assert node.parent is not None
                node.parent.children.remove(node)
                node.parent = None
                self.roots.append(node)
                reached.add(id(node))
                reached.update(id(each) for each in node.below())
        self.roots.sort(key=_order)


def _order(node: Node) -> tuple[int, int, bytes]:
    """Earlier before later, then the longer, which is more likely the parent."""
    return node.step.start, -node.step.end, node.step.span_id
