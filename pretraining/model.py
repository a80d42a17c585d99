"""Any timm model as something that learns without labels."""

from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Union

import torch
from mmengine.dist import get_world_size
from mmengine.registry import MODELS
from torch import Tensor

from spectral_backbones.classification.zoo import create_model
from spectral_backbones.engine.config import plain
from spectral_backbones.engine.errors import UserError
from spectral_backbones.engine.models import LoggingModel
from spectral_backbones.methods.frame_order import FrameOrderLoss
from spectral_backbones.methods.vicreg import Expander, VICRegLoss

from .datasets import FrameFolder


@MODELS.register_module()
class VICReg(LoggingModel):
    """A timm model whose pooled features of two views of a picture become alike, and do not collapse (VICReg, arXiv
    2105.04906); where the pictures are frames, it may also learn their order (TOV-VICReg, arXiv 2209.10901).

    Args:
        name: Any name of `timm.create_model`; this library's names once `backbones` is imported.
        in_chans: Channels of the pictures, 1 or 3.
        img_size: Side of the pictures in pixels, handed to models that are built for one size; None is the model's own.
        pretrained: True for the weights that timm knows, or the path of a checkpoint.
        kwargs: Further arguments of `timm.create_model`, such as `drop_path_rate`.
        expander: Widths of the layers between features and embeddings, see `methods.vicreg.Expander`.
        loss: Weights of the terms, see `methods.vicreg.VICRegLoss`; those left out are the paper's.
        frame_order: Weight of the loss of the order of frames; 0 leaves it out.
        data_preprocessor: See `mmengine.model.BaseModel`.

    Raises:
        UserError: The name, an argument or the weights do not fit.
    """

    loads_strictly = True

    def __init__(
        self,
        name: str,
        in_chans: int = 3,
        img_size: Optional[int] = None,
        pretrained: Union[bool, str, Path] = False,
        kwargs: Optional[Dict[str, Any]] = None,
        expander: Sequence[int] = (8192, 8192, 8192),
        loss: Optional[Dict[str, float]] = None,
        frame_order: float = 0.0,
        data_preprocessor: Optional[dict] = None,
    ) -> None:
        super().__init__(data_preprocessor)
        self.spec = {  # what `create_model` needs to build this model again, in plain types
            "name": name,
            "num_classes": 0,
            "in_chans": in_chans,
            "img_size": img_size,
            "kwargs": plain(kwargs or {}),
        }
        self.model = create_model(**self.spec, pretrained=pretrained)
        width = getattr(self.model, "head_hidden_size", None) or self.model.num_features
        self.expander = Expander(width, tuple(expander))
        self.loss = VICRegLoss(**(loss or {}))
        if frame_order < 0:
            raise UserError(f"model.frame_order is the weight of a loss, from 0 up, got {frame_order}")
        self.frame_order = frame_order
        self.order = FrameOrderLoss(width) if frame_order else None

    def init_weights(self) -> None:
        """Does nothing: timm has initialised or loaded the weights, and mmengine would initialise them anew."""

    def forward(
        self,
        inputs: Union[Tensor, Sequence[Tensor]],
        labels: Optional[Tensor] = None,
        indices: Optional[Tensor] = None,
        mode: str = "tensor",
    ) -> Union[Tensor, Dict[str, Tensor], List[Dict[str, Any]]]:
        """Runs the model as mmengine asks for it.

        Args:
            inputs: Normalised pictures (B, C, H, W); of mode "loss" two views of them, and for the order of frames
                those before and after them as well.
            labels: Classes (B,), of mode "predict".
            indices: Positions in the data set (B,).
            mode: "tensor" for features (B, D), "loss" for a dict with `loss`, "predict" for a dict a sample with
                `index`, `label` and float32 `features`.
        """
        if mode == "loss":
            return self._losses(inputs)
        features = self.features(inputs)
        if mode == "tensor":
            return features
        rows = features.float().cpu()
        return [
            {"index": int(index), "label": int(label), "features": row}
            for index, label, row in zip(indices, labels, rows, strict=True)
        ]

    def features(self, pictures: Tensor) -> Tensor:
        """Pooled features, (B, C, H, W) -> (B, D).

        Raises:
            UserError: The model does not pool.
        """
        features = self.model(pictures)
        if features.ndim != 2:
            raise UserError(
                f"{self.spec['name']} gives features {tuple(features.shape)} and not one row a picture: set "
                "model.kwargs.global_pool to avg"
            )
        return features

    def _losses(self, views: Sequence[Tensor]) -> Dict[str, Tensor]:
        if isinstance(views, Tensor):
            raise UserError("training data give one picture and not two views of it: let their transform be TwoViews")
        if len(views[0]) * get_world_size() < 2:
            raise UserError("a batch of one picture has no variance: set train_dataloader.batch_size to 2 or more")
        features = [self.features(view) for view in (views if self.order else views[:2])]
        embeddings = [self.expander(one) for one in features[:2]]
        with torch.autocast(embeddings[0].device.type, enabled=False):  # sums of many squares
            embeddings = [one.float() for one in embeddings]
            loss, terms = self.loss(*embeddings)
            found = {**terms._asdict(), "std": torch.stack(embeddings).detach().std(1).mean()}
            if self.order:
                now, _, before, after = (one.float() for one in features)
                found["order"] = self.order(now, before, after)
                loss = loss + self.frame_order * found["order"]
        return {"loss": loss, **found}

    def check_data(self, dataset: Any) -> None:
        """Called by the runner with each data set.

        Raises:
            UserError: The order of frames is to be learnt from pictures that are none.
        """
        if self.order and hasattr(dataset, "views") and not isinstance(dataset, FrameFolder):
            raise UserError(
                f"model.frame_order={self.frame_order:g} learns the order of frames, and {dataset} holds pictures "
                "in no order: set it to 0, or let train_dataloader.dataset be a FrameFolder"
            )
