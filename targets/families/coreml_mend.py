"""What coremltools' PyTorch front end lacks or gets wrong, put right.

Each mend is for a fault that was measured; all change the state of the running process, which is
the worker's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

from crosscast.targets.families.coreml_compute import HEAVY, Choice, Compute

SAFE_SUB = "crosscast::sub_constant_to_add"
HALF_CONSTANTS = "crosscast::half_constants"
FINITE_CONSTANTS = "crosscast::finite_constants"
IOS16 = 7
"""The version of the specification that came with it."""
LEAST = 64
"""Elements of a constant that is worth an operator of its own to be stored in fp16."""
HIGHEST = 65504.0
"""The greatest number of fp16."""
INFINITE = 1e38
"""What coremltools takes for infinite as it goes to fp16."""
MASKS, MASKED = ("select", "mul"), -1e9
"""Operators that masks are made with, and what no score is less than where it is not masked."""


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


def compute_precision(choice: Choice) -> Any:
    """Coremltools' setting of it."""
    import coremltools

    if choice.compute == "float32":
        return coremltools.precision.FLOAT32
    if choice.compute == "float16" and not choice.kept:
        return coremltools.precision.FLOAT16
    kinds = HEAVY if choice.compute == "mixed" else None
    return coremltools.transform.FP16ComputePrecision(
        lambda it: (kinds is None or it.op_type in kinds) and not _touches(it, choice.kept)
    )


def _touches(operation: Any, kept: Collection[str]) -> bool:
    """Whether an operator gives or reads one of the values, or a constant that fp16 loses."""
    import numpy as np
    import torch

    from crosscast.targets.families.mil.losses import loss

    if any(getattr(one, "name", "") in kept for one in (*operation.outputs, *_read(operation))):
        return True
    constants = (torch.from_numpy(np.atleast_1d(one.val)) for one in _constants(operation))
    return any(loss(constant) for constant in constants)


def pass_pipeline(compute: Compute, *, halved: bool) -> Any:
    """The default passes of coremltools, with `conv - constant` rewritten before they fuse it, with
    constants kept from becoming infinite in fp16, and, where `halved`, with what that leaves in
    fp32 stored in fp16.

    The fusion negates the constant in place: another layer with an equal one, which an earlier
    pass made the same, would get its sign reversed.
    """
    import coremltools

    _register_safe_sub()
    _register("Constants that fp16 would make infinite, at its limit.", FINITE_CONSTANTS, _bound)
    _register("Weights of operators in fp32, in fp16.", HALF_CONSTANTS, _halve)
    pipeline = coremltools.PassPipeline()
    if compute != "float32":
        pipeline.insert_pass(pipeline.passes.index("common::add_fp16_cast"), FINITE_CONSTANTS)
    pipeline.insert_pass(pipeline.passes.index("common::fuse_conv_bias"), SAFE_SUB)
    if halved:
        pipeline.append_pass(HALF_CONSTANTS)
        pipeline.append_pass("common::dead_code_elimination")
    return pipeline


def _register(described: str, full_name: str, change: Callable[[Any], None]) -> None:
    """Make a pass of what changes the block of a function."""
    from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
    from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY, register_pass

    if full_name in PASS_REGISTRY:
        return

    class Pass(AbstractGraphPass):  # type: ignore[misc]
        __doc__ = described

        def apply(self, prog: Any) -> None:
            for function in prog.functions.values():
                change(function)

    namespace, _, name = full_name.partition("::")
    register_pass(namespace=namespace, name=name)(Pass)


def _bound(block: Any) -> None:
    """Bring constants that are finite in fp32 and would not be in fp16 to the limits of fp16.

    A row of attention that is all masked by the least fp32 is a mean; by -inf it is NaN.
    coremltools takes what is beyond 1e38 for infinite, and computes in fp32 with what is less, but
    casts the result, which is then infinite where the constant is a mask's.
    """
    import numpy as np
    from coremltools.converters.mil.mil import Builder

    for operation in list(block.operations):
        for inner in operation.blocks:
            _bound(inner)
        masks = operation.op_type in MASKS
        for constant in _constants(operation):
            is_mask = masks & (constant.val <= MASKED)
            beyond = np.isfinite(constant.val) & (is_mask | (np.abs(constant.val) > INFINITE))
            if np.any(beyond):
                value = np.where(beyond, np.clip(constant.val, -HIGHEST, HIGHEST), constant.val)
                with block:
                    bounded = Builder.const(val=value.astype(np.float32), before_op=operation)
                _replaced(operation, constant, bounded)


def _constants(operation: Any) -> list[Any]:
    """The fp32 constants that an operator takes, each once."""
    import numpy as np

    found: dict[Any, None] = {}
    for value in _read(operation):
        is_float = getattr(getattr(value, "val", None), "dtype", None) == np.float32
        if is_float and value.op is not None and value.op.op_type == "const":
            found[value] = None
    return list(found)


def _read(operation: Any) -> Iterator[Any]:
    """The values that an operator reads."""
    for given in operation.inputs.values():
        yield from given if isinstance(given, list | tuple) else [given]


def _replaced(operation: Any, old: Any, new: Any) -> None:
    """Have an operator take a value that was made for it in place of another."""
    operation.enclosing_block.replace_uses_of_var_after_op(
        anchor_op=new.op, end_op=operation, old_var=old, new_var=new
    )


def _halve(function: Any) -> None:
    """Store the weights of operators that compute in fp32 in fp16, cast as they load.

    Recurrent layers take no fp16 before iOS 17. iOS 15 has nothing that casts a constant.
    """
    if function.opset_version.value >= IOS16:
        _halve_inside(function)


def _halve_inside(block: Any) -> None:
    from coremltools.converters.mil.mil import Builder

    made: dict[Any, Any] = {}
    for operation in list(block.operations):
        for inner in operation.blocks:
            _halve_inside(inner)
        for weight in _wide_weights(operation):
            if weight not in made:
                with block:
                    made[weight] = Builder.constexpr_cast(
                        source_val=weight.val.astype("float16"),
                        output_dtype="fp32",
                        before_op=operation,
                        name=f"{weight.name}_from_fp16",
                    )
            _replaced(operation, weight, made[weight])


def _wide_weights(operation: Any) -> list[Any]:
    """The large constants that an operator takes in fp32, and of which fp16 has all."""
    import numpy as np

    return [
        one
        for one in _constants(operation)
        if one.val.size >= LEAST and np.abs(one.val).max() <= HIGHEST
    ]


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
