"""Test-time augmentation: several views of each picture, and their predictions merged."""

import copy

from mmengine.config import Config, ConfigDict

from .config import unwrapped
from .errors import UserError

# What mmdet's own script takes where the config says nothing: each picture and its mirror image.
_MODELS = {
    "mmdet": dict(type="DetTTAModel", tta_cfg=dict(nms=dict(type="nms", iou_threshold=0.5), max_per_img=100)),
    "mmseg": dict(type="SegTTAModel"),
}


def augment_test(cfg: Config) -> Config:
    """Lets the test of a config take the views of its `tta_pipeline` and merge predictions by its `tta_model`, as
    mmdet's and mmseg's own scripts do.

    A config without them gets the toolbox's model and pictures beside their mirror images.

    Args:
        cfg: Changed in place.

    Raises:
        UserError: The task has no test-time augmentation, or the config no test.
    """
    scope = cfg.get("default_scope")
    if scope not in _MODELS and not (cfg.get("tta_model") and cfg.get("tta_pipeline")):
        raise UserError(f"{cfg.filename} has no tta_model and tta_pipeline, by which mmengine augments a test")
    if not cfg.get("test_dataloader"):
        raise UserError(f"{cfg.filename} has no test_dataloader, whose pictures are to be augmented")
    if cfg.model.get("type") == (cfg.get("tta_model") or _MODELS.get(scope))["type"]:
        raise UserError(f"the model of {cfg.filename} is {cfg.model.type} already: leave out --tta")
    pipeline = cfg.get("tta_pipeline")
    for dataset in unwrapped(cfg.test_dataloader.dataset):
        dataset.pipeline = copy.deepcopy(pipeline or _with_mirror_images(cfg, dataset.pipeline))
    cfg.model = ConfigDict(cfg.get("tta_model") or _MODELS[scope], module=cfg.model)
    return cfg


def _with_mirror_images(cfg: Config, pipeline: list) -> list:
    *steps, pack = copy.deepcopy(pipeline)
    if not pack["type"].startswith("Pack"):
        raise UserError(
            f"the test pipeline of {cfg.filename} ends with {pack['type']} and not by packing its inputs: say which "
            "views to take by tta_pipeline"
        )
    if "meta_keys" in pack:  # by these, predictions in the mirror image are turned back
        pack["meta_keys"] = (*pack["meta_keys"], "flip", "flip_direction")
    loads = [step for step in steps if step["type"].endswith("Annotations")]
    steps = [step for step in steps if step not in loads]
    flips = [dict(type="RandomFlip", prob=0.0), dict(type="RandomFlip", prob=1.0)]
    # Annotations last: they are of the picture as it is.
    transforms = [flips, *([step] for step in loads), [pack]]
    return [*steps, dict(type="TestTimeAug", transforms=transforms)]
