"""An ONNX file brought into the form that every converter reads: its meaning is kept.

All passes work on the model that they are given.
"""

from __future__ import annotations

from typing import Any

from crosscast.pipeline.errors import StageError
from crosscast.targets.families.onnx import graphs
from crosscast.targets.families.onnx_walk import copied, reads
from crosscast.targets.families.onnx_weights import free

NEWEST_IR = 10
"""A version that every runtime of today reads; newer ones add nothing to the opsets before 24."""


def cleaned(model: Any) -> Any:
    """The model with one name for the standard domain, functions inlined, nodes in order and named
    each by its own, and without what nothing reads.

    Raises StageError where nodes depend on each other in a circle.
    """
    _name_standard_domain(model)
    model = _inlined(model)
    _lower_ir(model)
    for graph in list(graphs(model.graph)):
        del graph.value_info[:]
        _sort(graph)
    name_nodes(model)
    _drop_unused(model.graph)
    return model


def name_nodes(model: Any) -> None:
    """Give each node a name that no other has, where it has none or shares it."""
    taken: set[str] = set()
    for graph in graphs(model.graph):
        for index, node in enumerate(graph.node):
            node.name = free(node.name or f"{node.op_type}_{index}", taken)


def _name_standard_domain(model: Any) -> None:
    for graph in graphs(model.graph):
        for node in graph.node:
            if node.domain == "ai.onnx":
                node.domain = ""
    standard = [entry for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    for entry in standard[1:]:
        model.opset_import.remove(entry)
    for entry in standard[:1]:
        entry.domain = ""


def _inlined(model: Any) -> Any:
    from onnx import inliner

    if not model.functions:
        return model
    try:
        return inliner.inline_local_functions(model)
    except (RuntimeError, ValueError) as error:
        raise StageError(
            f"the functions of the ONNX file cannot be inlined: {error}",
            fix="export the model without functions of its own",
        ) from error


def _lower_ir(model: Any) -> None:
    from onnx import helper

    lowest = helper.find_min_ir_version_for(list(model.opset_import), ignore_unknown=True)
    model.ir_version = min(model.ir_version, max(lowest, NEWEST_IR))


def _sort(graph: Any) -> None:
    """Have each node come after those that it reads, and otherwise where it was."""
    made = {name for node in graph.node for name in node.output if name}
    ready: set[str] = set()
    waiting = list(graph.node)
    if _in_order(waiting, made):
        return
    done = []
    while waiting:
        left = []
        for node in waiting:
            if all(name in ready or name not in made for name in reads(node)):
                done.append(copied(node))
                ready.update(node.output)
            else:
                left.append(node)
        if len(left) == len(waiting):
            raise StageError(
                f"the ONNX file's nodes depend on each other in a circle, at {left[0].op_type} "
                f"'{left[0].name}'",
                fix="export the model again",
            )
        waiting = left
    del graph.node[:]
    graph.node.extend(done)


def _in_order(nodes: list[Any], made: set[str]) -> bool:
    ready: set[str] = set()
    for node in nodes:
        if any(name in made and name not in ready for name in reads(node)):
            return False
        ready.update(node.output)
    return True


def _drop_unused(graph: Any) -> None:
    """Remove the weights that nothing reads."""
    needed = {value.name for value in graph.output} | {value.name for value in graph.input}
    needed.update(name for node in graph.node for name in reads(node))
    kept = [tensor for tensor in graph.initializer if tensor.name in needed]
    if len(kept) < len(graph.initializer):
        kept = [copied(tensor) for tensor in kept]
        del graph.initializer[:]
        graph.initializer.extend(kept)
