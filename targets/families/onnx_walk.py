"""What the nodes of an ONNX graph read, inner graphs included, and what none of them needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def reads(node: Any) -> Iterator[str]:
    """The names that a node reads, those that its inner graphs take from around them included."""
    yield from (name for name in node.input if name)
    for inner in inner_graphs(node):
        own = {value.name for value in (*inner.input, *inner.initializer)}
        own |= {name for made in inner.node for name in made.output}
        wanted = [name for made in inner.node for name in reads(made)]
        wanted += [value.name for value in inner.output]
        yield from (name for name in wanted if name not in own)


def inner_graphs(node: Any) -> Iterator[Any]:
    """The graphs that a node holds as attributes."""
    for entry in node.attribute:
        if entry.HasField("g"):
            yield entry.g
        yield from entry.graphs


def copied(message: Any) -> Any:
    """A copy that belongs to no graph yet."""
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def prune(graph: Any) -> None:
    """Remove the nodes of a graph that none of its outputs needs."""
    needed = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(reads(node))
    if len(kept) < len(graph.node):
        kept = [copied(node) for node in reversed(kept)]
        del graph.node[:]
        graph.node.extend(kept)
