"""What coremltools' PyTorch front end lacks or gets wrong, put right.

Each mend is for a fault that was measured; all change the state of the running process, which is
the worker's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

SAFE_SUB = "crosscast::sub_constant_to_add"


def mend_registry() -> None:
    """Teach the front end operators that torch.export emits and that it does not know.

    `alias` is a no-op, `lstm.input` is `lstm` under another name, and the triangles away from the
    diagonal are computed there as x - band(x), which is NaN where x is infinite.
    """
    from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY

    known = _TORCH_OPS_REGISTRY
    known.set_func_by_name(known.get_func("clone"), "alias")
    known.set_func_by_name(known.get_func("lstm"), "lstm.input")
    for name, unsafe in (("triu", lambda k: k > 0), ("tril", lambda k: k < 0)):
        original = known.get_func(name)
        if original.__name__ == name:
            known.set_func_by_name(_triangle(name, original, unsafe), name)


def _triangle(
    name: str, original: Callable[..., None], unsafe: Callable[[int], bool]
) -> Callable[..., None]:
    """`original`, but selecting instead of subtracting for the diagonals where it subtracts."""

    def convert(context: Any, node: Any) -> None:
        from coremltools.converters.mil.frontend.torch.ops import _get_inputs
        from coremltools.converters.mil.mil import Builder

        x, *rest = _get_inputs(context, node, min_expected=1)
        offset = int(rest[0].val) if rest and rest[0] is not None else 0
        if not unsafe(offset):
            original(context, node)
            return
        ones = Builder.fill_like(ref_tensor=x, value=1.0)
        lower, upper = (-1, offset - 1) if name == "triu" else (-offset - 1, -1)
        dropped = Builder.cast(x=Builder.band_part(x=ones, lower=lower, upper=upper), dtype="bool")
        zeros = Builder.cast(x=Builder.fill_like(ref_tensor=x, value=0.0), dtype=_dtype_name(x))
        context.add(Builder.select(cond=dropped, a=zeros, b=x, name=node.name))

    return convert


def _dtype_name(x: Any) -> str:
    from coremltools.converters.mil.mil import types

    return str(types.builtin_to_string(x.dtype))


def pass_pipeline() -> Any:
    """The default passes of coremltools, with `conv - constant` rewritten before they fuse it.

    The fusion negates the constant in place: another layer with an equal one, which an earlier
    pass made the same, would get its sign reversed.
    """
    import coremltools

    _register_safe_sub()
    pipeline = coremltools.PassPipeline()
    pipeline.insert_pass(pipeline.passes.index("common::fuse_conv_bias"), SAFE_SUB)
    return pipeline


def _register_safe_sub() -> None:
    from coremltools.converters.mil.mil import Builder
    from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
    from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY, register_pass

    if SAFE_SUB in PASS_REGISTRY:
        return

    class SubConstantToAdd(AbstractGraphPass):  # type: ignore[misc]
        """x - constant to x + (-constant), with a constant of its own."""

        def apply(self, prog: Any) -> None:
            for function in prog.functions.values():
                for operation in list(function.operations):
                    if _subtracts_from_conv(operation):
                        self._replace(operation)

        def _replace(self, operation: Any) -> None:
            block = operation.enclosing_block
            with block:
                result = Builder.add(
                    x=operation.x,
                    y=-operation.y.val,
                    before_op=operation,
                    name=operation.outputs[0].name,
                )
            replaced = block.try_replace_uses_of_var_after_op(
                anchor_op=operation, old_var=operation.outputs[0], new_var=result
            )
            if replaced:
                block.remove_ops([operation])

    namespace, _, name = SAFE_SUB.partition("::")
    register_pass(namespace=namespace, name=name)(SubConstantToAdd)


def _subtracts_from_conv(operation: Any) -> bool:
    if operation.op_type != "sub" or operation.y.val is None or operation.x.op is None:
        return False
    return operation.x.op.op_type in ("conv", "conv_transpose")


def fill_pool_defaults(program: Any) -> None:
    """Write back the stride that torch.export leaves out where it equals the kernel."""
    for node in program.graph.nodes:
        is_pool = node.op == "call_function" and str(node.target).startswith("aten.max_pool")
        if is_pool and len(node.args) == 2:
            node.args = (*node.args, node.args[1])


def unsupported(program: Any) -> list[tuple[str, str]]:
    """The operators of an exported program that the front end does not know, and their layers."""
    from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY

    missing: dict[str, str] = {}
    for node in program.graph.nodes:
        if node.op == "call_function" and _TORCH_OPS_REGISTRY.get_func(_kind(node.target)) is None:
            missing.setdefault(str(node.target), _layer(node))
    return list(missing.items())


def layer_of(program: Any, line: str) -> str:
    """What a logged line "ERROR - converting 'op' op (located at: 'place')" says of the place."""
    found = re.search(r"converting '(?P<operator>[^']*)' op \(located at: '(?P<place>[^']*)'", line)
    if not found:
        return ""
    node_name = found["place"].rpartition("/")[2]
    nodes = getattr(getattr(program, "graph", None), "nodes", ())
    layer = next((_layer(node) for node in nodes if getattr(node, "name", "") == node_name), "")
    return f" at operator {found['operator']} (layer {layer or found['place'].replace('/', '.')})"


def _kind(target: Any) -> str:
    return str(target.name() if hasattr(target, "name") else target.__name__)


def _layer(node: Any) -> str:
    """The dotted path of the module that a node belongs to."""
    stack = node.meta.get("nn_module_stack") or {}
    path = next(reversed(stack.values()))[0] if stack else ""
    return path.removeprefix("L['self'].") or "the model itself"
