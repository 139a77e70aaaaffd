"""Sampling of images at points, and the choice among boxes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from crosscast.targets.families.onnx_mil.node import Node, Operand, Operator
from crosscast.targets.families.onnx_mil.values import rank, shape

MODES = {"linear": "bilinear", "bilinear": "bilinear", "nearest": "nearest"}
PADDING = {"zeros": "constant", "border": "border"}


def grid_sample(node: Node) -> Operand:
    """GridSample of images; MIL reflects at the centres of the outer pixels, or outside them."""
    x, mode = node.x(0), node.attribute("mode", "linear")
    if rank(x) != 4:
        raise node.refused(f"an input of rank {rank(x)}; Core ML samples rank 4")
    if mode not in MODES:
        raise node.refused(f"attribute mode={mode} is not supported")
    aligned = bool(node.attribute("align_corners", 0))
    way = node.attribute("padding_mode", "zeros")
    padding = PADDING | {"reflection": "reflection" if aligned else "symmetric"}
    if way not in padding:
        raise node.refused(f"attribute padding_mode={way} is not supported")
    return node.mb.resample(
        x=x,
        coordinates=node.x(1),
        sampling_mode=MODES[mode],
        padding_mode=padding[way],
        padding_value=np.float32(0),
        coordinates_mode="normalized_minus_one_to_one",
        align_corners=aligned,
    )


def suppression(node: Node) -> Operand:
    """NonMaxSuppression: rows of batch, class and box. Each class of each batch is one of MIL's."""
    mb, boxes, scores = node.mb, node.x(0), node.x(1)
    if node.system >= 17:
        raise node.refused("iOS 17 does not tell how many boxes are left", "set minimum: iOS16")
    (batches, count, _), classes = shape(boxes), shape(scores)[1]
    most = node.ints(2, "number of boxes")[0] if node.has(2) else 0
    if not all(isinstance(one, int) for one in (batches, count, classes)) or most < 1:
        raise node.refused("of a number of boxes that is not known, or of none at all")
    most, pairs = min(most, count), batches * classes
    if not node.attribute("center_point_box", 0):
        boxes = _centred(node, boxes)
    wide = mb.tile(x=mb.expand_dims(x=boxes, axes=[1]), reps=[1, classes, 1, 1])
    least = np.float32(node.constant(4, "threshold").ravel()[0] if node.has(4) else -3e38)
    limit = np.float32(node.constant(3, "threshold").ravel()[0] if node.has(3) else 0)
    _, _, chosen, kept = mb.non_maximum_suppression(
        boxes=mb.reshape(x=wide, shape=[pairs, count, 4]),
        scores=mb.reshape(x=scores, shape=[pairs, count, 1]),
        iou_threshold=limit,
        score_threshold=least,
        max_boxes=most,
    )
    rows = np.arange(most, dtype=np.int32)[None]
    places = mb.non_zero(x=mb.less(x=rows, y=mb.expand_dims(x=kept, axes=[1])))
    box = mb.gather_nd(x=chosen, indices=places)
    pair = mb.slice_by_index(
        x=places, begin=[0, 0], end=[0, 1], end_mask=[True, False], squeeze_mask=[False, True]
    )
    columns = (
        mb.floor_div(x=pair, y=np.int32(classes)),
        mb.mod(x=pair, y=np.int32(classes)),
        box,
    )
    return mb.stack(values=columns, axis=1)


def _centred(node: Node, boxes: Operand) -> Operand:
    """Corners (y, x, y, x), in any order, as centres and sizes (x, y, width, height)."""
    mb = node.mb
    y1, x1, y2, x2 = mb.split(x=boxes, num_splits=4, axis=2)
    parts = [
        mb.mul(x=mb.add(x=x1, y=x2), y=np.float32(0.5)),
        mb.mul(x=mb.add(x=y1, y=y2), y=np.float32(0.5)),
        mb.abs(x=mb.sub(x=x2, y=x1)),
        mb.abs(x=mb.sub(x=y2, y=y1)),
    ]
    return mb.concat(values=parts, axis=2)


TABLE: Mapping[str, Operator] = {
    "GridSample": grid_sample,
    "NonMaxSuppression": suppression,
}
