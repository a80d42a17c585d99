"""AdamW for a detector on a timm model: no weight decay on norms and on what the backbone's model names."""

import torch
from detectron2.config import LazyCall as L

from spectral_backbones.toolboxes.detectron2 import optimizer_params

optimizer = L(torch.optim.AdamW)(
    # params.model is set to the model before the optimiser is built
    params=L(optimizer_params)(base_lr="${..lr}", weight_decay_norm=0.0),
    lr=1e-4,
    betas=(0.9, 0.999),
    weight_decay=0.05,
)
