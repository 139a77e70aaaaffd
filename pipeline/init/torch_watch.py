"""What a torch module does while it runs: the operators, and the tables that inputs index."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LAYERS = {
    "convolution": "Conv", "_convolution": "Conv", "addmm": "MatMul", "mm": "MatMul",
    "linear": "MatMul", "baddbmm": "bmm", "bmm": "bmm", "_softmax": "Softmax",
    "mkldnn_rnn_layer": "RNN", "embedding": "Gather",
}  # fmt: skip
RECURRENT = {"LSTM": "LSTM", "LSTMCell": "LSTM", "GRU": "GRU", "GRUCell": "GRU", "RNN": "RNN"}


def watched(
    module: Any, run: Any, inputs: Mapping[str, Any]
) -> tuple[Any, dict[str, int], dict[str, int]]:
    """Run once; give the result, how often each operator occurs by ONNX's name, and the rows of
    the smallest table that each integer input indexes.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    counts: dict[str, int] = {}
    rows: dict[str, int] = {}
    whole = {name: tensor for name, tensor in inputs.items() if not tensor.is_floating_point()}

    class Watch(TorchDispatchMode):  # type: ignore[misc]  # torch is not typed here
        def __torch_dispatch__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            result = function(*args, **(kwargs or {}))
            kind = function.overloadpacket.__name__
            name = "Attention" if kind.startswith("_scaled_dot") else LAYERS.get(kind, kind)
            counts[name] = counts.get(name, 0) + 1
            for table, indices in _lookups(kind, args):
                for name in _same(indices, whole):
                    rows[name] = min(rows.get(name, table), table)
            return result

    with torch.no_grad(), Watch():
        result = run()
    return result, _with_layers(counts, module), rows


def _lookups(kind: str, args: Any) -> list[tuple[int, Any]]:
    if kind == "embedding":
        return [(args[0].shape[0], args[1])]
    if kind == "index" and args[0].dim() > 1 and len(args[1]) == 1 and args[1][0] is not None:
        return [(args[0].shape[0], args[1][0])]
    return [(args[0].shape[args[1]], args[2])] if kind == "index_select" else []


def _same(indices: Any, inputs: Mapping[str, Any]) -> list[str]:
    """The inputs whose values these are, whatever they were cast and reshaped to."""
    flat = indices.reshape(-1)
    return [
        name
        for name, tensor in inputs.items()
        if tensor.numel() == flat.numel() and bool((tensor.reshape(-1) == flat).all())
    ]


def _with_layers(counts: dict[str, int], module: Any) -> dict[str, int]:
    """The counts, with attention and recurrent layers told from what they decompose into."""
    attention = counts.get("Attention", 0) + min(
        counts.get("bmm", 0) // 2, counts.get("Softmax", 0)
    )
    counts.pop("Attention", None)
    found = counts | ({"Attention": attention} if attention else {})
    for layer in module.modules():
        name = getattr(layer, "original_name", type(layer).__name__)
        if name in RECURRENT:
            found[RECURRENT[name]] = found.get(RECURRENT[name], 0) + 1
    return found
