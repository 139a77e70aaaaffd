"""One type of float throughout a graph, where its converter mixed two. Works in place."""

from __future__ import annotations

from typing import Any

SINGLE = (
    "TreeEnsembleClassifier", "TreeEnsembleRegressor", "SVMClassifier", "SVMRegressor", "Imputer",
    "LinearClassifier", "LinearRegressor", "Normalizer", "Scaler",
)  # fmt: skip
"""Operators of ai.onnx.ml that compute in float32 in ONNX Runtime. For trees this is what
scikit-learn does as well: it rounds features to float32 before it compares them."""

_FIXED = {"tensor(float)": 1, "tensor(double)": 11}


def one_float(model: Any, *, double: bool) -> None:
    """Cast wherever an operator that wants one type is given two, and around SINGLE."""
    from onnx import TensorProto

    graph = model.graph
    versions = {entry.domain: entry.version for entry in model.opset_import}
    types = {value.name: value.type.tensor_type.elem_type for value in graph.input}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    wide = TensorProto.DOUBLE if double else TensorProto.FLOAT
    nodes = list(graph.node)
    del graph.node[:], graph.value_info[:]
    for node in nodes:
        schema = _schema(node, versions)
        for place, wanted in _wanted(node, schema, types, wide).items():
            graph.node.append(_cast(node, place, wanted, types))
        graph.node.append(node)
        _learn(node, schema, types)
    for value in graph.output:
        if types.get(value.name) and value.type.HasField("tensor_type"):
            value.type.tensor_type.elem_type = types[value.name]


def _schema(node: Any, versions: dict[str, int]) -> Any:
    import onnx

    try:
        return onnx.defs.get_schema(node.op_type, versions.get(node.domain, 1), node.domain)
    except onnx.defs.SchemaError:  # an operator of ONNX Runtime's own
        return None


def _formal(parameters: Any, place: int) -> Any:
    """The declaration of the parameter at a place; the last one may stand for many."""
    return parameters[min(place, len(parameters) - 1)] if len(parameters) else None


def _wanted(node: Any, schema: Any, types: dict[str, int], wide: int) -> dict[int, int]:
    """The type to cast each input to, by its place, where it has another."""
    from onnx import TensorProto

    floats = (TensorProto.FLOAT, TensorProto.DOUBLE)
    found = {p: types[name] for p, name in enumerate(node.input) if types.get(name) in floats}
    if node.op_type in SINGLE:
        wanted = dict.fromkeys(found, TensorProto.FLOAT)
    elif schema is None:
        wanted = dict.fromkeys(found, wide) if len(set(found.values())) > 1 else {}
    else:
        wanted = _bound(schema, found, wide)
    return {place: kind for place, kind in wanted.items() if found[place] != kind}


def _bound(schema: Any, found: dict[int, int], wide: int) -> dict[int, int]:
    groups: dict[str, list[int]] = {}
    wanted: dict[int, int] = {}
    for place in found:
        declared = _formal(schema.inputs, place).type_str
        if declared in _FIXED:
            wanted[place] = _FIXED[declared]
        else:
            groups.setdefault(declared, []).append(place)
    for places in groups.values():
        if len({found[place] for place in places}) > 1:
            wanted |= dict.fromkeys(places, wide)
    return wanted


def _cast(node: Any, place: int, wanted: int, types: dict[str, int]) -> Any:
    from onnx import helper

    name = f"{node.input[place]}_for_{node.output[0]}_{place}"
    cast = helper.make_node("Cast", [node.input[place]], [name], to=wanted, name=name)
    node.input[place] = name
    types[name] = wanted
    return cast


def _learn(node: Any, schema: Any, types: dict[str, int]) -> None:
    """Note the types of a node's outputs."""
    import onnx

    given = {entry.name: entry for entry in node.attribute}
    for place, name in enumerate(node.output):
        if node.op_type == "Cast":
            types[name] = given["to"].i
        elif node.op_type in ("ConstantOfShape", "Constant") and "value" in given:
            types[name] = given["value"].t.data_type
        elif node.op_type in SINGLE:
            labels = node.op_type.endswith("Classifier") and place == 0
            types[name] = _label_type(given) if labels else onnx.TensorProto.FLOAT
        elif schema is None:
            types[name] = types.get(node.input[0], 0)
        else:
            types[name] = _output_type(node, schema, place, types)


def _label_type(given: dict[str, Any]) -> int:
    from onnx import TensorProto

    strings = any(given[key].strings for key in given if key.endswith("strings"))
    return int(TensorProto.STRING if strings else TensorProto.INT64)


def _output_type(node: Any, schema: Any, place: int, types: dict[str, int]) -> int:
    """By the input that has the same type variable; 0 where the schema alone does not tell."""
    import onnx

    declared = _formal(schema.outputs, place).type_str
    for index, name in enumerate(node.input):
        if _formal(schema.inputs, index).type_str == declared and types.get(name):
            return types[name]
    fixed = {"tensor(float)": "FLOAT", "tensor(double)": "DOUBLE", "tensor(int64)": "INT64",
             "tensor(bool)": "BOOL", "tensor(string)": "STRING"}  # fmt: skip
    kinds = {entry.type_param_str: entry.allowed_type_strs for entry in schema.type_constraints}
    allowed = kinds.get(declared, [declared])
    return getattr(onnx.TensorProto, fixed.get(allowed[0], "UNDEFINED")) if len(allowed) == 1 else 0
