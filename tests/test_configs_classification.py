"""Every classification config parses, and what it describes is built and takes a step: with values the first config of
each model, without them the others.
"""

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, TRANSFORMS

from spectral_backbones.backbones.undrawn import undrawn
from spectral_backbones.classification.config import complete
from spectral_backbones.engine.config import load

from .classification_fixtures import ROOT, make_folder, picture

CONFIGS = sorted((ROOT / "configs" / "classification").rglob("*.py"))


def model_of(path):
    return path.stem.rpartition("_")[0]


FIRST = {model_of(path): path for path in reversed(CONFIGS)}.values()


def test_the_papers_transfers_are_there():
    names = {path.stem for path in CONFIGS}
    for data, classes in (("cifar10", 10), ("cifar100", 100), ("flowers102", 102), ("stanford_cars", 196)):
        for model in ("spectformer_b", "gfnet_xs", "gfnet_h_b"):
            assert f"{model}_{data}" in names
            (path,) = ROOT.glob(f"configs/classification/*/{model}_{data}.py")
            cfg = load(str(path))
            assert cfg.model.num_classes == classes and cfg.model.img_size == 224
            # spectformer.md and gfnet.md: 1000 epochs, 1e-4 at 512, weight decay 1e-4, clip 1, 5 epochs of warm-up
            assert cfg.train_cfg.max_epochs == 1000 and cfg.param_scheduler[0].end == 5
            assert dict(cfg.optim_wrapper.optimizer) == dict(opt="adamw", lr=1e-4, weight_decay=1e-4)
            assert cfg.auto_scale_lr == dict(enable=True, base_batch_size=512)
            assert cfg.optim_wrapper.clip_grad == dict(max_norm=1.0)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_builds_and_takes_a_step(path, tmp_path):
    cfg = load(str(path))
    if cfg.train_dataloader.dataset.type == "ImageFolder":
        cfg = load(str(path), data_root=str(make_folder(tmp_path, per_class=2)))
    cfg = complete(cfg)
    device = torch.device("cpu" if path in FIRST else "meta")
    with device, undrawn():
        model = MODELS.build(cfg.model).to(device)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        transform = TRANSFORMS.build(loader.dataset.transform)
        side = cfg.model.img_size or 224
        image = transform(picture(0, 0, size=(300, 260)))
        assert image.shape == (cfg.model.get("in_chans", 3), side, side)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    batch = dict(inputs=torch.stack([image, image]).to(device), labels=torch.tensor([0, 1], device=device))
    if path not in FIRST:
        # As `train_step` up to the optimiser, which reads the gradients' norm to clip them, and forgets them.
        loss, _ = model.parse_losses(model(**model.data_preprocessor(batch, True), mode="loss"))
        loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        return
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    log = model.train_step(batch, wrapper)
    assert torch.isfinite(log["loss"])
    # A head that starts at zero passes no gradient down in the first step; it moves itself.
    assert any(not torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_any_timm_name_fits_a_config():
    path = ROOT / "configs" / "classification" / "spectformer" / "spectformer_ti_digits.py"
    cfg = complete(load(str(path), {"model.name": "resnet10t", "model.kwargs": None}))
    model = MODELS.build(cfg.model).eval()
    assert model(torch.zeros(1, 1, 32, 32)).shape == (1, 10)
    assert cfg.val_dataloader.dataset.transform.mean == (pytest.approx((0.485 + 0.456 + 0.406) / 3),)
