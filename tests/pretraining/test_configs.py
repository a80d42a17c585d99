"""Every config without labels is completed, and what it describes is built and learns from two views."""

import runpy

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, TRANSFORMS
from torch.optim import AdamW

from spectral_backbones.engine.config import load
from spectral_backbones.methods.lars import LARS
from spectral_backbones.tools.tasks import complete, task_of

from ..classification_fixtures import ROOT, picture

CONFIGS = sorted((ROOT / "configs" / "pretraining").rglob("*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_builds_and_has_gradients(path):
    cfg = load(str(path))
    assert task_of(cfg) == "pretraining"
    cfg = complete(cfg)
    cfg.model.expander = [64, *[64] * (len(cfg.model.expander) - 1)]  # its widths are numbers, and its memory large
    model = MODELS.build(cfg.model)
    transform = TRANSFORMS.build(cfg.train_dataloader.dataset.transform)
    image = picture(0, 0, size=(300, 260))
    side, channels = cfg.model.img_size or 224, cfg.model.get("in_chans", 3)
    views = [*transform(image), transform.neighbour(image), transform.neighbour(image)]
    assert all(view.shape == (channels, side, side) for view in views)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    assert type(optimizer) is (AdamW if "small_digit-frames" in path.stem else LARS)  # too few steps for LARS
    loss, _ = model.parse_losses(model([torch.stack([view, view.flip(-1)]) for view in views], mode="loss"))
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_published_recipe_has_its_numbers():
    """training.md: 100 epochs, 0.3 for a batch of 256 at one of 512, 10 of warm-up, 8192 wide, 1e-6."""
    cfg = complete(load(str(ROOT / "configs" / "pretraining" / "vicreg_resnet50_8xb64-100e_imagenet.py")))
    assert dict(cfg.optim_wrapper.optimizer) == dict(type="LARS", lr=0.3, momentum=0.9, weight_decay=1e-6)
    assert cfg.auto_scale_lr == dict(enable=True, base_batch_size=256) and cfg.train_dataloader.batch_size == 64
    assert cfg.param_scheduler[0].ramp == 10 and cfg.train_cfg.max_epochs == 100
    model = cfg.model
    assert list(model.expander) == [8192] * 3 and model.loss == dict(invariance=25.0, variance=25.0, covariance=1.0)
    views = cfg.train_dataloader.dataset.transform
    assert (views.jitter_prob, views.grey_prob) == (0.8, 0.2)
    assert list(views.blur_prob) == [1.0, 0.1] and list(views.solarize_prob) == [0.0, 0.2]


def test_a_folder_named_on_the_command_line_is_that_of_all_parts():
    path = ROOT / "configs" / "pretraining" / "vicreg_resnet10-small_cifar10.py"
    cfg = load(str(path), data_root="elsewhere")
    assert cfg.train_dataloader.dataset.dataset.root == "elsewhere"
    assert [part.root for part in cfg.val_dataloader.dataset.datasets] == ["elsewhere"] * 2


def test_the_clips_that_the_example_draws_are_frames_in_order(tmp_path):
    runpy.run_path(ROOT / "examples" / "digit_frames.py")["main"]([str(tmp_path / "clips"), "--clips", "2"])
    cfg = complete(load(str(ROOT / "configs" / "pretraining" / "tov-vicreg_small_digit-frames.py")))
    cfg.train_dataloader.dataset.root = str(tmp_path / "clips")
    frames = DATASETS.build(cfg.train_dataloader.dataset)
    assert len(frames) == 2 * (14 - 2 * 3)
    _, _, before, after = frames[0]["inputs"]
    bright_columns = [(view > view.min() + 0.5).any(0).any(0).nonzero() for view in (before, after)]
    assert bright_columns[0].min() + 6 == bright_columns[1].min()  # a pixel a frame, three frames to each side


def test_clips_too_long_for_a_frame_are_refused(tmp_path, capsys):
    main = runpy.run_path(ROOT / "examples" / "digit_frames.py")["main"]
    with pytest.raises(SystemExit):
        main([str(tmp_path / "clips"), "--length", "17"])
    assert "--length is 17; a digit leaves its frames of 32 pixels after 16" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
