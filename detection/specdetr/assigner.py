"""Which queries learn which object: one by the whole cost, and others that lie almost on it."""

from typing import List, Optional

import numpy as np
import torch
from mmdet.models.task_modules.assigners import AssignResult, HungarianAssigner
from mmdet.registry import TASK_UTILS
from mmdet.structures.bbox import bbox_overlaps
from mmengine.structures import InstanceData
from scipy.optimize import linear_sum_assignment


@TASK_UTILS.register_module()
class DynamicIoUHungarianAssigner(HungarianAssigner):
    """Hungarian matching in rounds, which gives an object several queries without a change of inference.

    The first rounds match by all costs, the others by 1 - IoU and keep pairs below a threshold, until one keeps none.

    As in the official code, the round that passes `total_num_max` keeps as many of its pairs as are too many and not as
    many as there is room for, so the limit may be passed; and a query that is taken may be taken again where queries
    are fewer than objects.

    Args:
        match_costs: Costs of the first rounds, as in mmdet.
        match_num: Rounds at most.
        base_match_num: Rounds that match by `match_costs`, at least one.
        iou_loss_th: What 1 - IoU of a pair of the other rounds stays below.
        total_num_max: Pairs past which no round begins.

    Raises:
        ValueError: There is no round.
    """

    def __init__(
        self,
        match_costs: List[dict],
        match_num: int = 10,
        base_match_num: int = 1,
        iou_loss_th: float = 0.05,
        total_num_max: int = 100,
    ) -> None:
        if min(match_num, base_match_num) < 1:
            raise ValueError(
                f"match_num and base_match_num are {match_num} and {base_match_num}, at least 1 is allowed"
            )
        super().__init__(match_costs)
        self.match_num = match_num
        self.base_match_num = base_match_num
        self.iou_loss_th = iou_loss_th
        self.total_num_max = total_num_max

    def assign(
        self, pred_instances: InstanceData, gt_instances: InstanceData, img_meta: Optional[dict] = None, **kwargs
    ) -> AssignResult:
        """Matches predictions, corners in pixels and logits, with objects; see mmdet's `HungarianAssigner`."""
        if not (len(gt_instances) and len(pred_instances)):
            return super().assign(pred_instances, gt_instances, img_meta, **kwargs)
        cost = torch.stack([cost(pred_instances, gt_instances, img_meta) for cost in self.match_costs]).sum(0)
        distance = 1 - bbox_overlaps(pred_instances.bboxes, gt_instances.bboxes)
        tables = [table.detach().cpu().numpy() for table in (cost, distance)]
        gt_inds, labels = self._match(*tables), gt_instances.labels
        gt_inds = torch.from_numpy(gt_inds).to(labels.device)
        assigned = torch.where(gt_inds > 0, labels[gt_inds - 1], -1)
        return AssignResult(num_gts=len(gt_instances), gt_inds=gt_inds, max_overlaps=None, labels=assigned)

    def _match(self, cost: np.ndarray, distance: np.ndarray) -> np.ndarray:
        """The object of each prediction, counted from 1, and 0 for none. Writes over both tables."""
        gt_inds = np.zeros(len(cost), dtype=np.int64)
        if not (np.isfinite(cost).all() and np.isfinite(distance).all()):
            return gt_inds  # the loss is NaN then, whose guard knows what to say of the training
        limits = cost.max(), distance.max()
        rows, columns = linear_sum_assignment(cost)
        gt_inds[rows] = columns + 1
        num_pairs = len(rows)
        for done in range(1, self.match_num):
            if num_pairs >= self.total_num_max:
                break
            cost[rows], distance[rows] = limits
            if done < self.base_match_num:
                rows, columns = linear_sum_assignment(cost)
            else:
                rows, columns = linear_sum_assignment(distance)
                is_near = distance[rows, columns] < self.iou_loss_th
                rows, columns = rows[is_near], columns[is_near]
                if not len(rows):
                    break
            surplus = num_pairs + len(rows) - self.total_num_max
            if surplus > 0:
                rows, columns = rows[:surplus], columns[:surplus]
            gt_inds[rows] = columns + 1
            num_pairs += len(rows)
        return gt_inds
