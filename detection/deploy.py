"""Detectors as graphs.

The heads of mmdet are used as they are; what they do with their outputs branches on how many boxes are left, so it is
written here once more with fixed counts of candidates. One function a kind of head gives candidates, `suppress` does
the rest: boxes (B, N, 4) are rows of which some are in use.
"""

from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import MODELS
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torchvision.ops import nms, roi_align

from spectral_backbones.engine.deploy import Normalise, Program, Subject, samples
from spectral_backbones.engine.deploy.model import Deployed
from spectral_backbones.engine.deploy.subject import Arrays, Size
from spectral_backbones.engine.errors import UserError

from .predictor import Predictor
from .toolbox import mmdet

DetDataSample = mmdet.structures.DetDataSample

# Of the scores of all regions and classes that many are looked at, the best first. Suppression goes from the best down,
# so what the others could add comes after all that these leave.
REGION_CANDIDATES = 4096


class Candidates(NamedTuple):
    """Rows for suppression.

    Attributes:
        boxes: x1, y1, x2, y2 in pixels, (B, N, 4).
        scores: (B, N).
        groups: What suppresses one another is of one group, (B, N): a class, or a level of the pyramid.
        in_use: Whether a row is one, (B, N).
    """

    boxes: Tensor
    scores: Tensor
    groups: Tensor
    in_use: Tensor


class Found(NamedTuple):
    """K rows an image, the best first; unused ones are 0, 0 and -1: boxes (B, K, 4), scores and labels (B, K)."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


def suppress(candidates: Candidates, iou_threshold: float, count: int) -> Found:
    """Keeps the best rows of each image that overlap no better one of their group, as mmcv's batched_nms does.

    Args:
        candidates: N rows an image.
        iou_threshold: Largest overlap of two rows that both stay.
        count: K.
    """
    boxes, scores, groups, in_use = candidates
    images, rows = scores.shape
    scores = scores.where(in_use, -1.0)
    # Groups lie apart along the diagonal, as in mmcv, whose rounding this shares; images one below the other.
    side = boxes.where(in_use[..., None], 0.0).max() + 1
    right = groups * side
    below = right + torch.arange(images, device=boxes.device)[:, None] * side
    shifted = boxes + torch.stack([right, below, right, below], -1)
    # Unused rows lie outside, on one another, so that the first of them suppresses the others.
    outside = boxes.new_tensor([-2.0, -2.0, -1.0, -1.0])
    shifted = shifted.where(in_use[..., None], outside)
    # mmcv compares in single precision.
    kept = nms(shifted.flatten(0, 1), scores.flatten(), float(np.float32(iou_threshold)))
    is_kept = torch.zeros_like(scores.flatten()).index_fill(0, kept, 1.0).view_as(scores) > 0
    scores, places = scores.where(is_kept, -1.0).topk(min(count, rows))
    missing = count - scores.shape[1]
    is_row = scores >= 0
    boxes = _take(boxes, places).where(is_row[..., None], 0.0)
    labels = groups.gather(1, places).where(is_row, -1)
    return Found(
        F.pad(boxes, (0, 0, 0, missing)),
        F.pad(scores.where(is_row, 0.0), (0, missing)),
        F.pad(labels, (0, missing), value=-1),
    )


def _take(rows: Tensor, places: Tensor) -> Tensor:
    """Rows (B, N, C) at places (B, K) -> (B, K, C)."""
    return rows.gather(1, places[..., None].expand(-1, -1, rows.shape[-1]))


def _as_rows(level: Tensor, width: int) -> Tensor:
    """Outputs of a head (B, A * width, H, W) -> (B, H * W * A, width) in single precision."""
    return level.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, width)).float()


def _best(scores: Tensor, count: int) -> Tuple[Tensor, Tensor]:
    """The best `count` of scores (B, N) and their places, filled up with -1 at place 0 where N is smaller."""
    scores, places = F.pad(scores, (0, count), value=-1.0).topk(count)
    return scores, places.where(scores >= 0, 0)


# Heads on every place of the maps -------------------------------------------------------------------------------------


def retina_candidates(head: nn.Module, maps: Sequence[Tensor], size: Size) -> Candidates:
    """Anchors with a score a class, as those of RetinaNet: the best of each level, then decoded.

    Args:
        head: mmdet's RetinaHead.
        maps: Of the neck, (B, C, H, W) each.
        size: Height and width of the pictures, where boxes end.
    """
    cfg, classes = head.test_cfg, head.num_classes  # a number of Python's, which the shape of a traced map is not
    all_scores, all_deltas = head(maps)
    parts = []
    for scores, deltas, priors in zip(all_scores, all_deltas, _priors(head, all_scores)):
        scores = _as_rows(scores, head.cls_out_channels)
        scores = scores.sigmoid() if head.use_sigmoid_cls else scores.softmax(-1)[..., :-1]
        best, places = _best(scores.flatten(1), cfg.nms_pre)
        rows = places // classes
        parts.append((_take(_as_rows(deltas, 4), rows), priors[rows], best, places % classes))
    deltas, priors, scores, labels = (torch.cat(part, 1) for part in zip(*parts))
    boxes = _decode(head.bbox_coder, priors, deltas, size)
    return Candidates(boxes, scores, labels, (scores > cfg.get("score_thr", 0)) & _is_large(boxes, cfg))


def gfl_candidates(head: nn.Module, maps: Sequence[Tensor], size: Size) -> Candidates:
    """Places with a score a class and a distribution of distances to each side, as those of GFL.

    Args:
        head: mmdet's GFLHead.
        maps: See `retina_candidates`.
        size: See `retina_candidates`.
    """
    cfg, classes = head.test_cfg, head.cls_out_channels
    all_scores, all_distances = head(maps)
    parts = []
    strides = head.prior_generator.strides
    for scores, distances, priors, stride in zip(all_scores, all_distances, _priors(head, all_scores), strides):
        best, places = _best(_as_rows(scores, classes).sigmoid().flatten(1), cfg.nms_pre)
        rows = places // classes
        picked = _take(_as_rows(distances, 4 * (head.reg_max + 1)), rows)  # (B, N, 4 * (reg_max + 1))
        sides = head.integral(picked).view(*rows.shape, 4) * stride[0]
        points = head.anchor_center(priors)[rows]
        parts.append((sides, points, best, places % classes))
    sides, points, scores, labels = (torch.cat(part, 1) for part in zip(*parts))
    boxes = _decode(head.bbox_coder, points, sides, size)
    return Candidates(boxes, scores, labels, (scores > cfg.score_thr) & _is_large(boxes, cfg))


def region_proposals(head: nn.Module, maps: Sequence[Tensor], size: Size) -> Found:
    """Regions that hold an object, as those of a region proposal network; those that are in use have a label.

    Args:
        head: mmdet's RPNHead.
        maps: See `retina_candidates`.
        size: See `retina_candidates`.
    """
    cfg = head.test_cfg
    all_scores, all_deltas = head(maps)
    parts = []
    for level, (scores, deltas, priors) in enumerate(zip(all_scores, all_deltas, _priors(head, all_scores))):
        scores = _as_rows(scores, head.cls_out_channels)
        scores = scores.sigmoid() if head.use_sigmoid_cls else scores.softmax(-1)[..., :-1]
        best, places = _best(scores[..., 0], cfg.nms_pre)
        parts.append((_take(_as_rows(deltas, 4), places), priors[places], best, torch.full_like(places, level)))
    deltas, priors, scores, levels = (torch.cat(part, 1) for part in zip(*parts))
    boxes = _decode(head.bbox_coder, priors, deltas, size)
    candidates = Candidates(boxes, scores, levels, (scores >= 0) & _is_large(boxes, cfg))
    return suppress(candidates, cfg.nms.iou_threshold, cfg.max_per_img)


def _priors(head: nn.Module, levels: Sequence[Tensor]) -> List[Tensor]:
    sizes = [level.shape[-2:] for level in levels]
    return head.prior_generator.grid_priors(sizes, dtype=torch.float32, device=levels[0].device)


def _decode(coder: Any, priors: Tensor, deltas: Tensor, size: Size) -> Tensor:
    """Boxes (B, N, 4) of priors (B, N, 4 or 2) and what a head gives for them (B, N, 4)."""
    boxes = coder.decode(priors.flatten(0, 1), deltas.flatten(0, 1), max_shape=size)
    return boxes.view(*deltas.shape[:2], 4)


def _is_large(boxes: Tensor, cfg: Any) -> Tensor:
    least = cfg.get("min_bbox_size", -1)
    if least < 0:
        return torch.ones_like(boxes[..., 0], dtype=torch.bool)
    return ((boxes[..., 2:] - boxes[..., :2]) > least).all(-1)


# Heads on regions -----------------------------------------------------------------------------------------------------


def pool(extractor: nn.Module, maps: Sequence[Tensor], regions: Tensor) -> Tensor:
    """Features (R, C, height, width) of regions (R, 5), image first, each from the map for its size.

    Args:
        extractor: mmdet's SingleRoIExtractor.
        maps: From the finest on.
        regions: In pixels.
    """
    maps = maps[: extractor.num_inputs]
    levels = extractor.map_roi_levels(regions, len(maps))
    pooled = None
    for level, (layer, one) in enumerate(zip(extractor.roi_layers, maps)):
        is_own = levels == level
        own = regions.where(is_own[:, None], 0.0)  # those of other levels have no area, and cost nothing
        args = (layer.output_size, layer.spatial_scale, layer.sampling_ratio, layer.aligned)
        found = roi_align(one.float(), own, *args)
        pooled = found if pooled is None else found.where(is_own[:, None, None, None], pooled)
    return pooled.to(maps[0].dtype)


def _regions(boxes: Tensor) -> Tensor:
    """(B, K, 4) -> (B * K, 5), with the image first."""
    image = torch.arange(boxes.shape[0], device=boxes.device, dtype=boxes.dtype)[:, None, None]
    return torch.cat([image.expand(-1, boxes.shape[1], 1), boxes], -1).flatten(0, 1)


def _stages(part: nn.Module) -> List[nn.Module]:
    return list(part) if isinstance(part, nn.ModuleList) else [part]


def region_candidates(head: nn.Module, maps: Sequence[Tensor], proposals: Found, size: Size) -> Candidates:
    """Regions with a score a class, as those of Faster, Mask and Cascade R-CNN.

    Args:
        head: mmdet's StandardRoIHead or CascadeRoIHead.
        maps: See `retina_candidates`.
        proposals: Of `region_proposals`.
        size: See `retina_candidates`.
    """
    images, count = proposals.scores.shape
    regions = _regions(proposals.boxes)
    heads = _stages(head.bbox_head)
    logits = []
    for number, (extractor, bbox_head) in enumerate(zip(_stages(head.bbox_roi_extractor), heads)):
        features = pool(extractor, maps, regions)
        if head.with_shared_head:
            features = head.shared_head(features)
        scores, deltas = (part.float() for part in bbox_head(features))  # (R, classes + 1), (R, 4 or classes * 4)
        logits.append(scores)
        if number + 1 < len(heads):
            labels = scores[:, :-1].argmax(1)
            refined = bbox_head.regress_by_class(regions[:, 1:], labels, deltas, {"img_shape": size})
            regions = torch.cat([regions[:, :1], refined], 1)
    scores = (sum(logits) / len(logits)).softmax(-1)[:, :-1]
    classes = scores.shape[1]
    scores = scores.where(proposals.labels.flatten()[:, None] >= 0, -1.0).view(images, count * classes)
    best, places = scores.topk(min(count * classes, REGION_CANDIDATES))
    rows, labels = places // classes, places % classes
    deltas = deltas.view(images, -1, 4)  # (B, K or K * classes, 4)
    deltas = _take(deltas, rows if bbox_head.reg_class_agnostic else places)
    priors = _take(regions[:, 1:].view(images, count, 4), rows)
    boxes = _decode(bbox_head.bbox_coder, priors, deltas, size)
    return Candidates(boxes, best, labels, best > head.test_cfg.score_thr)


def region_masks(head: nn.Module, maps: Sequence[Tensor], found: Found, size: Size) -> Tensor:
    """Which pixels belong to each row, uint8 (B, K, H, W).

    Args:
        head: See `region_candidates`, with masks.
        maps: See `retina_candidates`.
        found: Boxes and their classes.
        size: Height and width of the pictures.
    """
    regions, labels = _regions(found.boxes), found.labels.flatten().clamp(min=0)
    stages = []
    for extractor, mask_head in zip(_stages(head.mask_roi_extractor), _stages(head.mask_head)):
        features = pool(extractor, maps, regions)
        if head.with_shared_head:
            features = head.shared_head(features)
        logits = mask_head(features).float()  # (R, classes, height, width)
        labels_here = torch.zeros_like(labels) if mask_head.class_agnostic else labels
        index = labels_here[:, None, None, None].expand(-1, 1, *logits.shape[2:])
        stages.append(logits.gather(1, index)[:, 0].sigmoid())
    masks = paste(sum(stages) / len(stages), regions[:, 1:], size) >= head.test_cfg.mask_thr_binary
    is_row = found.labels.flatten()[:, None, None] >= 0
    return (masks & is_row).to(torch.uint8).unflatten(0, found.labels.shape)


def paste(masks: Tensor, boxes: Tensor, size: Size) -> Tensor:
    """Masks (R, h, w) stretched over boxes (R, 4) of a picture, (R, H, W), zero outside.

    Bilinear interpolation is a product with the weights of rows and one with those of columns, so no grid of points is
    held.
    """
    x1, y1, x2, y2 = boxes.unbind(-1)
    rows = _weights(y1, y2, size[0], masks.shape[1])  # (R, H, h)
    columns = _weights(x1, x2, size[1], masks.shape[2])  # (R, W, w)
    return rows @ masks @ columns.transpose(1, 2)


def _weights(start: Tensor, end: Tensor, pixels: int, cells: int) -> Tensor:
    """What each of the cells between start (R,) and end (R,) adds to each pixel of a side: (R, pixels, cells)."""
    middles = torch.arange(pixels, device=start.device, dtype=start.dtype) + 0.5
    length = (end - start).clamp(min=1e-6)
    place = (middles - start[:, None]) / length[:, None] * cells - 0.5  # (R, pixels), in cells
    apart = place[..., None] - torch.arange(cells, device=start.device, dtype=start.dtype)
    return (1 - apart.abs()).clamp(min=0)


# Whole detectors ------------------------------------------------------------------------------------------------------


class DetectorGraph(nn.Module):
    """Pictures (B, C, H, W) -> boxes (B, K, 4), scores (B, K), labels (B, K) and, of a model that has them, masks.

    Args:
        model: A detector of mmdet.
        normalise: What stands before it.

    Raises:
        UserError: A part of it has no function here; the message names it.
    """

    def __init__(self, model: nn.Module, normalise: Normalise) -> None:
        super().__init__()
        self.model = model
        self.normalise = normalise
        self.detect = _detect_of(model)

    def forward(self, images: Tensor) -> Tuple[Tensor, ...]:
        """Detects."""
        maps = self.model.extract_feat(self.normalise(images))
        return self.detect(maps, images.shape[-2:])


def _detect_of(model: nn.Module) -> Callable[[Sequence[Tensor], Size], Tuple[Tensor, ...]]:
    heads = mmdet.models
    one_stage = {heads.RetinaHead: retina_candidates, heads.GFLHead: gfl_candidates}
    head = getattr(model, "bbox_head", None)
    if type(head) in one_stage:
        _check_test_cfg("bbox_head", head.test_cfg)
        return partial(_one_stage, one_stage[type(head)], head)
    roi_head = getattr(model, "roi_head", None)
    if type(roi_head) in (heads.StandardRoIHead, heads.CascadeRoIHead):
        _check_regions(model)
        return partial(_two_stages, model.rpn_head, roi_head)
    kind = type(head if roi_head is None else roi_head)
    name = type(model).__name__ if kind is type(None) else f"{type(model).__name__} with a {kind.__name__}"
    known = "RetinaHead, GFLHead, and RPNHead under StandardRoIHead or CascadeRoIHead"
    raise UserError(f"{name} cannot be exported: there is no graph of its decoding; there are those of {known}")


def _one_stage(candidates: Callable, head: nn.Module, maps: Sequence[Tensor], size: Size) -> Tuple[Tensor, ...]:
    cfg = head.test_cfg
    return tuple(suppress(candidates(head, maps, size), cfg.nms.iou_threshold, cfg.max_per_img))


def _two_stages(rpn: nn.Module, head: nn.Module, maps: Sequence[Tensor], size: Size) -> Tuple[Tensor, ...]:
    cfg = head.test_cfg
    candidates = region_candidates(head, maps, region_proposals(rpn, maps, size), size)
    found = suppress(candidates, cfg.nms.iou_threshold, cfg.max_per_img)
    return (*found, region_masks(head, maps, found, size)) if head.with_mask else tuple(found)


def _check_test_cfg(name: str, cfg: Any) -> None:
    nms_cfg = dict(cfg.get("nms") or {})
    kind = nms_cfg.pop("type", "nms")
    threshold = nms_cfg.pop("iou_threshold", None)
    nms_cfg.pop("split_thr", None)  # how it is computed, which changes nothing
    if kind not in ("nms", "mmcv.ops.nms") or threshold is None or nms_cfg:
        raise UserError(
            f"test_cfg of the {name} suppresses by {dict(cfg.get('nms') or {})}; an exported file does so by "
            "dict(type='nms', iou_threshold=...) alone"
        )
    if cfg.get("nms_pre", 1000) < 1 or cfg.get("max_per_img", -1) < 1:
        raise UserError(
            f"test_cfg of the {name} has nms_pre={cfg.get('nms_pre')} and max_per_img={cfg.get('max_per_img')}: an "
            "exported file needs fixed counts, set both to at least 1"
        )


def _check_regions(model: nn.Module) -> None:
    heads = mmdet.models
    rpn, head = model.rpn_head, model.roi_head
    if type(rpn) is not heads.RPNHead:
        raise UserError(f"a {type(rpn).__name__} cannot be exported as the first stage: RPNHead can")
    _check_test_cfg("rpn_head", rpn.test_cfg)
    _check_test_cfg("roi_head", head.test_cfg)
    parts = [*_stages(head.bbox_roi_extractor), *(_stages(head.mask_roi_extractor) if head.with_mask else ())]
    for part in parts:
        pools = {getattr(layer, "pool_mode", type(layer).__name__) for layer in getattr(part, "roi_layers", ())}
        if type(part) is not heads.SingleRoIExtractor or pools != {"avg"}:
            raise UserError(
                f"a {type(part).__name__} over {', '.join(sorted(pools))} cannot be exported: SingleRoIExtractor over "
                "mean RoIAlign can"
            )
    for part in _stages(head.bbox_head):
        if part.custom_activation or not part.with_reg or not part.with_cls:
            raise UserError(
                f"a {type(part).__name__} whose scores are no softmax, or without boxes, cannot be exported"
            )
    for part in _stages(head.mask_head) if head.with_mask else ():
        if type(part) is not heads.FCNMaskHead:
            raise UserError(f"a {type(part).__name__} cannot be exported: FCNMaskHead can")


def subject(predictor: Predictor, size: Optional[Size] = None) -> Subject:
    """Says what is exported of a detector.

    Args:
        predictor: The model and the preparation of its pictures.
        size: Height and width in pixels that are asked for, which every detector takes.

    Raises:
        UserError: There is no graph of a part of it.
    """
    model, steps = predictor.model.cpu(), predictor.steps
    preprocessor = model.data_preprocessor
    normalise = samples.normalise_of(preprocessor, preprocessor.pad_size_divisor, preprocessor.pad_value)
    fill = samples.fill_of(normalise)
    graph = DetectorGraph(model, normalise).eval()
    names = ("boxes", "scores", "labels", "masks")[: 4 if _has_masks(model) else 3]
    head = model.roi_head if hasattr(model, "roi_head") else model.bbox_head

    def eager(images: Tensor) -> Arrays:
        size = tuple(images.shape[-2:])
        meta = dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0))
        data = dict(
            inputs=list(samples.swapped(images)), data_samples=[DetDataSample(metainfo=dict(meta)) for _ in images]
        )
        found = [sample.pred_instances for sample in model.test_step(data)]
        return _as_rows_in_use(found, head.test_cfg.max_per_img, size)

    def prepare(path: Path, size: Optional[Size]) -> np.ndarray:
        return samples.read(Compose(samples.fixed(steps, size, fill)), path)

    def describe(size: Optional[Size]) -> Dict[str, Any]:
        pipeline = samples.fixed(steps, size, fill)
        return {
            "task": predictor.task,
            "model": type(model).__name__,
            "classes": list(predictor.classes),
            "palette": predictor.palette,
            "thresholds": _thresholds(head.test_cfg),
            "pipeline": pipeline,
            "resize": samples.resizing(pipeline),
        }

    return Subject(
        graph=graph,
        outputs=names,
        channels=len(normalise.mean),
        size=samples.default_size(steps, preprocessor),
        eager=eager,
        prepare=prepare,
        describe=describe,
    )


def _has_masks(model: nn.Module) -> bool:
    return bool(getattr(getattr(model, "roi_head", None), "with_mask", False))


def _thresholds(cfg: Any) -> Dict[str, float]:
    known = {"score": cfg.get("score_thr"), "overlap": cfg.nms.iou_threshold, "mask": cfg.get("mask_thr_binary")}
    return {name: value for name, value in known.items() if value is not None} | {"rows": cfg.max_per_img}


def _as_rows_in_use(found: Sequence[InstanceData], count: int, size: Size) -> Arrays:
    """mmdet's predictions in the fixed rows of a file."""
    arrays = {
        "boxes": np.zeros((len(found), count, 4), np.float32),
        "scores": np.zeros((len(found), count), np.float32),
        "labels": np.full((len(found), count), -1),
    }
    if "masks" in found[0]:
        arrays["masks"] = np.zeros((len(found), count, *size), np.uint8)
    for image, one in enumerate(found):
        for name, key in dict(boxes="bboxes", scores="scores", labels="labels", masks="masks").items():
            if name in arrays:
                arrays[name][image, : len(one)] = one[key].numpy()
    return arrays


# Exported detectors in the places of models ---------------------------------------------------------------------------


@MODELS.register_module()
class DeployedDetector(Deployed):
    """An exported detector for mmengine's test loop, and for prediction.

    Args:
        file: Of `spectral export`.
    """

    def forward(
        self, inputs: Sequence[Tensor], data_samples: Sequence[DetDataSample], mode: str = "predict"
    ) -> Sequence[DetDataSample]:
        """Detects, see mmdet's detectors.

        Args:
            inputs: Pictures (C, H, W) of a pipeline.
            data_samples: Get what is found, in pixels of the files.
            mode: mmengine's name of what is asked for, "predict" alone.
        """
        for outputs, sample in zip(samples.run(self.program, inputs), data_samples):
            sample.pred_instances = _instances(outputs, sample)
        return data_samples


def _instances(outputs: Arrays, sample: DetDataSample) -> InstanceData:
    """The rows in use, in pixels of the picture's file; what lies in the padding of a picture is left out."""
    height, width = sample.img_shape
    across, down = getattr(sample, "scale_factor", (1.0, 1.0))
    edges = np.array([width, height, width, height], np.float32)
    boxes = np.clip(outputs["boxes"], 0, edges)
    is_row = (outputs["labels"] >= 0) & (boxes[:, 2:] > boxes[:, :2]).all(-1)
    found = InstanceData(
        bboxes=torch.from_numpy(boxes[is_row] / np.array([across, down, across, down], np.float32)),
        scores=torch.from_numpy(outputs["scores"][is_row]),
        labels=torch.from_numpy(outputs["labels"][is_row]).long(),
    )
    if "masks" in outputs:
        masks = torch.from_numpy(outputs["masks"][is_row][:, :height, :width])
        if tuple(sample.ori_shape) != (height, width):
            args = dict(size=tuple(sample.ori_shape), mode="bilinear", align_corners=False)
            masks = F.interpolate(masks[:, None].float(), **args)[:, 0] >= 0.5 if len(masks) else masks
            masks = masks.reshape(-1, *sample.ori_shape)
        found.masks = masks.bool()
    return found


def predictor_of(program: Program) -> Predictor:
    """Predicts with an exported file."""
    known = program.metadata
    model = DeployedDetector(str(program.path))
    return Predictor(model, Compose(known["pipeline"]), known["classes"], known["palette"])


def evaluated(cfg: Config, program: Program) -> Config:
    """Puts an exported file in the place of a config's model, see `engine.deploy.samples.evaluated`."""
    return samples.evaluated(cfg, program, "DeployedDetector")
