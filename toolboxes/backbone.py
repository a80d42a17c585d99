"""Any timm model as a backbone of mmdet and mmseg."""

from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Union

from mmengine.model import BaseModule, initialize
from mmengine.registry import MODELS
from mmengine.runner import CheckpointLoader

from spectral_backbones.backbones.dense import DenseBackbone
from spectral_backbones.backbones.weights import read_checkpoint, unwrap


@MODELS.register_module()
class TimmBackbone(DenseBackbone, BaseModule):
    """A timm model whose forward gives a tuple of feature maps.

    Registered with mmengine itself, so that mmdet, mmseg and mmpretrain find it under the same name.

    model = dict(
        backbone=dict(_delete_=True, type="TimmBackbone", name="spectformer_h_s", out_norm="final"),
        neck=dict(in_channels=[64, 128, 320, 448]),
    )

    Weights that only a training starts from belong in `init_cfg`; those of `pretrained` are read whenever the model is
    built, for inference too.

    Args:
        name: A model of `timm.list_models()` or `backbones.list_models()`, with a tag or without.
        out_indices: See `DenseBackbone`, as are `pretrained`, `frozen_stages`, `norm_eval` and what `kwargs` hold.
        with_cp: mm's name of `grad_checkpointing`.
        init_cfg: `dict(type="Pretrained", checkpoint=...)` loads a file of any program by `init_weights`, which
            training calls; a `prefix` says what stands before the backbone's names there, by default it is found out.
            Other initialisations of mmengine are applied to the weights that the model drew itself.

    Raises:
        ValueError: An argument is out of range or the weights do not fit; the message says what is allowed.
        FileNotFoundError: There is no such checkpoint.
    """

    def __init__(
        self,
        name: str,
        out_indices: Optional[Sequence[int]] = None,
        pretrained: Union[bool, str, Path, None] = None,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: Union[Dict[str, Any], List[Dict[str, Any]], None] = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(pretrained, str) and pretrained.startswith(_MODEL_ZOOS):
            raise ValueError(
                f"pretrained={pretrained!r} are weights of another model than {name}. In a config over one of mmseg's "
                "ResNet, model=dict(pretrained=None) takes them away"
            )
        super().__init__(
            name,
            out_indices=out_indices,
            pretrained=pretrained or False,
            frozen_stages=frozen_stages,
            norm_eval=norm_eval,
            grad_checkpointing=with_cp,
            **kwargs,
        )
        self.init_cfg = init_cfg

    def init_weights(self) -> None:
        """Apply `init_cfg`. The model drew its weights when it was built: mmengine's way, to call the `init_weights`
        of all children, would draw them anew after they were loaded.
        """
        for cfg in [self.init_cfg] if isinstance(self.init_cfg, dict) else self.init_cfg or ():
            if cfg["type"] == "Pretrained":
                self._load(cfg["checkpoint"], cfg.get("prefix"))
            else:
                initialize(self, cfg)
        self._is_init = True

    def _load(self, path: str, prefix: Optional[str]) -> None:
        has_scheme = "://" in path and not path.startswith(("http://", "https://"))
        checkpoint = CheckpointLoader.load_checkpoint(path, "cpu") if has_scheme else read_checkpoint(path)
        if prefix is not None:
            prefix = prefix.rstrip(".") + "."
            weights = unwrap(checkpoint)
            checkpoint = {key.removeprefix(prefix): weights[key] for key in weights if key.startswith(prefix)}
            if not checkpoint:
                some = ", ".join(list(weights)[:5])
                raise ValueError(f"{path} holds no tensor whose name begins with {prefix!r}; it holds {some} ...")
        self.load_file(checkpoint, path)


_MODEL_ZOOS = ("torchvision://", "open-mmlab://", "mmcls://")
