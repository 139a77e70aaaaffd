"""What an operator is asked for, and what it is refused for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from crosscast.pipeline.errors import StageError
from crosscast.targets.families.onnx_mil.node import Node, narrowed

onnx = pytest.importorskip("onnx")


def node(*operands: Any, operator: str = "Foo", domain: str = "", **attributes: Any) -> Node:
    names = [f"i{index}" for index in range(len(operands))]
    proto = onnx.helper.make_node(operator, names, ["y", ""], "layer7", domain=domain, **attributes)
    return Node(proto, operands, mb=None, system=16)


def test_an_attribute_that_nobody_read_is_refused_by_name() -> None:
    one = node(axis=1, mode="strange", weights=[1.0, 2.0])
    assert one.attribute("axis") == 1
    assert one.attribute("absent", 3) == 3
    with pytest.raises(StageError, match=r"Foo \(layer layer7\): attribute mode=strange") as error:
        one.refuse_unread()
    assert error.value.fix
    one.ignore("mode")
    assert one.attribute("weights") == [1.0, 2.0]
    one.refuse_unread()


def test_another_value_than_the_one_known_is_refused() -> None:
    node().only("training_mode", 0)
    node(training_mode=0).only("training_mode", 0)
    with pytest.raises(StageError, match="training_mode=1 is not supported, only 0"):
        node(training_mode=1).only("training_mode", 0)


def test_operators_of_other_domains_carry_their_domain() -> None:
    assert node(domain="ai.onnx").kind == "Foo"
    assert node(domain="com.microsoft").kind == "com.microsoft.Foo"


def test_a_computed_operand_is_refused_where_a_constant_is_needed() -> None:
    one = node(np.array([3, 4]), object())
    assert one.ints(0, "axes") == [3, 4]
    with pytest.raises(StageError, match="its axes is computed by the model"):
        one.ints(1, "axes")
    with pytest.raises(StageError, match="input 2 is missing"):
        one.operand(2)


def test_only_outputs_with_a_name_are_wanted() -> None:
    one = node()
    assert one.wants(0)
    assert not one.wants(1)
    assert not one.wants(2)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (np.array([1.5], np.float64), "float32"),
        (np.array([1.5], np.float16), "float32"),
        (np.array([2**31 - 1], np.int64), "int32"),
        (np.array([255], np.uint8), "int32"),
        (np.array([True]), "bool"),
    ],
)
def test_constants_get_the_dtypes_of_mil(given: Any, wanted: str) -> None:
    made = narrowed(given)
    assert made.dtype == wanted
    assert made.tolist() == given.tolist()
    assert isinstance(narrowed(given[0:1].reshape(())), np.generic)


def test_integers_beyond_int32_and_text_are_refused() -> None:
    with pytest.raises(StageError, match="integers beyond int32"):
        node(np.array([2**31])).x(0)
    with pytest.raises(StageError, match="object, which Core ML has not"):
        node(np.array(["a"], object)).x(0)
