"""Non-maximum suppression."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from crosscast.targets.families.mil.ops.arguments import Op, Since, Tensor


def non_maximum_suppression(
    *,
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    score_threshold: float,
    max_boxes: int,
    per_class_suppression: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The best boxes, the best first, each by its best class: boxes, scores, indices, counts.

    boxes: (n, B, 4) as centre x, centre y, width, height. scores: (n, B, classes). A box's score
    has to be above the threshold; where none is, the best box alone is taken. Places that are left
    hold zeros, and -1 as the index.
    """
    made = []
    for own, score in zip(boxes, scores, strict=True):
        best, classes = score.max(-1)
        order = best.argsort(descending=True, stable=True)
        order = order[best[order] > score_threshold]
        groups = classes if per_class_suppression else torch.zeros_like(classes)
        kept = _kept(own, order, groups, iou_threshold)
        kept = kept if kept else [int(best.argmax())]
        made.append(_padded(own, score, kept[:max_boxes], max_boxes))
    return tuple(torch.stack(column) for column in zip(*made, strict=True))


def non_maximum_suppression_17(
    *,
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    max_boxes: int,
    per_class_suppression: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """IOS 17: boxes are the last axis, no threshold of scores, no counts."""
    kept, best, indices, _ = non_maximum_suppression(
        boxes=boxes.mT,
        scores=scores.mT,
        iou_threshold=iou_threshold,
        score_threshold=-torch.inf,
        max_boxes=max_boxes,
        per_class_suppression=per_class_suppression,
    )
    return kept.mT, best.mT, indices


def _kept(boxes: Tensor, order: Tensor, groups: Tensor, iou_threshold: float) -> list[int]:
    """Those of `order` that overlap no better one of their group by more than the threshold."""
    kept: list[int] = []
    for index in order.tolist():
        rivals = [other for other in kept if groups[other] == groups[index]]
        if not rivals or not (_overlap(boxes[index], boxes[rivals]) > iou_threshold).any():
            kept.append(index)
    return kept


def _overlap(box: Tensor, others: Tensor) -> Tensor:
    """Intersection over union; zero for boxes without an area."""
    low = torch.maximum(box[:2] - box[2:] / 2, others[:, :2] - others[:, 2:] / 2)
    high = torch.minimum(box[:2] + box[2:] / 2, others[:, :2] + others[:, 2:] / 2)
    common = (high - low).clamp(min=0).prod(-1)
    union = box[2:].prod() + others[:, 2:].prod(-1) - common
    return torch.where(union > 0, common / union, 0)


def _padded(
    boxes: Tensor, scores: Tensor, kept: list[int], count: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    chosen = torch.zeros(count, boxes.shape[-1])
    best = torch.zeros(count, scores.shape[-1])
    indices = torch.full((count,), -1, dtype=torch.int32)
    chosen[: len(kept)], best[: len(kept)] = boxes[kept], scores[kept]
    indices[: len(kept)] = torch.tensor(kept, dtype=torch.int32)
    return chosen, best, indices, torch.tensor(len(kept), dtype=torch.int32)


OPS: Mapping[str, Op | Since] = {
    "non_maximum_suppression": {15: non_maximum_suppression, 17: non_maximum_suppression_17},
}
