"""What TensorFlow's converter says where it fails, in our words."""

from __future__ import annotations

from crosscast.targets.families.tflite_saved_model import FIX, FIXED_SIZES, explained

FLEX = """
<unknown>:0: error: loc(callsite(fused["Igamma:", "model/odd/Igamma@__inference_serve_17"] at \
callsite(fused["PartitionedCall:", "PartitionedCall"]))): \
'tf.Igamma' op is neither a custom op nor a flex op
<unknown>:0: error: failed while converting: 'main':
Some ops are not supported by the native TFLite runtime
"""
LOOP = """
<unknown>:0: error: loc(callsite(fused["TensorListReserve:", "net/lstm/TensorArrayV2_1@__inf_5"] \
at callsite(fused["StatefulPartitionedCall:", "StatefulPartitionedCall@__inf_6"]))): \
'tf.TensorListReserve' op requires element_shape to be static during TF Lite transformation pass
"""


def test_operators_are_named_with_their_layers() -> None:
    error = explained(RuntimeError(FLEX))
    assert error.message == "operator Igamma (layer model/odd/Igamma) has no TFLite equivalent"
    assert error.fix == FIX


def test_a_loop_over_an_unknown_size_asks_for_fixed_ones() -> None:
    error = explained(RuntimeError(LOOP))
    assert "operator TensorListReserve (layer net/lstm/TensorArrayV2_1)" in error.message
    assert error.fix == FIXED_SIZES


def test_anything_else_is_told_as_it_is() -> None:
    error = explained(RuntimeError("out of ideas"))
    assert error.message.endswith("could not convert the model: out of ideas")
